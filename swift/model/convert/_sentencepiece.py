"""A SentencePiece `tokenizer.model` -> a fast tokenizer with the same ids. Knows no family.

The file is a small protocol-buffer message, parsed here: neither sentencepiece nor protobuf is needed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from swift.model import config_files

SPACE = "▁"


class Kind(IntEnum):
    """The type of a piece: SentencePiece.Type of sentencepiece_model.proto."""

    NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


class Piece(NamedTuple):
    text: str
    score: float
    kind: Kind


class Vocabulary(NamedTuple):
    """The fields needed for encoding. `charsmap`: the compiled normaliser; empty for identity."""

    pieces: list[Piece]
    unigram: bool
    charsmap: bytes
    prefix: bool
    squeeze: bool


def tokenizer(
    folder: Path,
    file: str = "tokenizer.model",
    *,
    bos: str = "<s>",
    eos: str = "</s>",
    unk: str = "<unk>",
    pad: str = "",
    add_bos: bool = False,
    special: Mapping[str, int] | None = None,
) -> PreTrainedTokenizerFast:
    """The fast tokenizer of `folder`. Its tokenizer_config.json overrides the arguments.

    `special`: special tokens (text -> id) beyond those in the folder's files.
    """
    settings = json_object(folder / "tokenizer_config.json")
    names = {"bos_token": bos, "eos_token": eos, "unk_token": unk, "pad_token": pad}
    names = {key: _text(settings.get(key)) or default for key, default in names.items()}
    fast = convert(read(folder / file), {**(special or {}), **added_tokens(folder)}, names["unk_token"])
    fast.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names.values() if name])
    if settings.get("add_bos_token", add_bos):
        begin = names["bos_token"]
        fast.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A",
            pair=f"{begin} $A {begin}:1 $B:1",
            special_tokens=[(begin, fast.token_to_id(begin))],
        )
    return wrap(fast, settings, {key: name for key, name in names.items() if name})


def wrap(fast: Tokenizer, settings: Mapping[str, Any], names: Mapping[str, str]) -> PreTrainedTokenizerFast:
    """`fast` as transformers' tokenizer, with the settings of tokenizer_config.json."""
    kept = {key: settings[key] for key in ("model_max_length", "chat_template", "padding_side") if settings.get(key)}
    return PreTrainedTokenizerFast(tokenizer_object=fast, clean_up_tokenization_spaces=False, **names, **kept)


def convert(vocabulary: Vocabulary, special: Mapping[str, int], unk: str = "<unk>") -> Tokenizer:
    """The bare tokenizer: the file's pieces and normaliser, and special tokens, often in place of reserved pieces."""
    pieces = list(vocabulary.pieces)
    for text, index in special.items():
        if index < len(pieces) and pieces[index].text != text:
            pieces[index] = Piece(text, 0.0, Kind.UNUSED)
    ids = {piece.text: index for index, piece in enumerate(pieces)}
    if len(ids) != len(pieces):
        raise ValueError("two pieces of the SentencePiece model have the same text")
    fallback = any(piece.kind == Kind.BYTE for piece in pieces)
    if vocabulary.unigram:
        scores = [(piece.text, piece.score) for piece in pieces]
        fast = Tokenizer(models.Unigram(scores, unk_id=ids[unk], byte_fallback=fallback))
    else:
        merges = _merges(pieces, ids)
        fast = Tokenizer(models.BPE(ids, merges, unk_token=unk, fuse_unk=True, byte_fallback=fallback))
    own = [piece.text for piece in pieces if piece.kind == Kind.USER_DEFINED and piece.text not in special]
    fast.normalizer = normalizers.Sequence(_normalizers(vocabulary, own))
    strip = [decoders.Strip(" ", 1, 0)] if vocabulary.prefix else []
    fast.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    # SentencePiece matches these after normalisation; those that its normaliser would change, before
    fast.add_tokens([AddedToken(text, normalized=fast.normalizer.normalize_str(text) == text) for text in own])
    for text, index in sorted(special.items(), key=lambda mark: mark[1]):
        fast.add_special_tokens([AddedToken(text, normalized=False, special=True)])
        if (got := fast.token_to_id(text)) != index:
            raise ValueError(f"the special token {text} should have id {index}, but gets {got}")
    return fast


def added_tokens(folder: Path) -> dict[str, int]:
    """The tokens that the folder's own files add to the vocabulary: text -> id."""
    added = {text: int(index) for text, index in json_object(folder / "added_tokens.json").items()}
    decoder = json_object(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    return {**added, **{_text(token): int(index) for index, token in decoder.items()}}


def json_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; empty if the file does not exist."""
    return config_files.json_object(file) if file.is_file() else {}


def read(file: Path) -> Vocabulary:
    """Parses the file. Raises ValueError if it is damaged or of an unsupported kind."""
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    try:
        fields = list(_fields(file.read_bytes()))
        pieces = [_piece(value) for number, value in fields if number == 1]
        trainer, normaliser = (dict(_fields(_last(fields, number))) for number in (2, 3))
    except (IndexError, KeyError, TypeError, struct.error, ValueError) as error:
        raise ValueError(f"{file}: damaged, or not a SentencePiece model ({error})") from None
    kind, suffix = trainer.get(3, 1), trainer.get(24, 0)
    if not pieces or kind not in (1, 2) or suffix:
        raise ValueError(f"{file}: not a SentencePiece model of type unigram or BPE with a space mark before words")
    charsmap = normaliser.get(2, b"")
    assert isinstance(charsmap, bytes), charsmap
    return Vocabulary(pieces, kind == 1, charsmap, bool(normaliser.get(3, 1)), bool(normaliser.get(4, 1)))


def _text(token: object) -> str:
    """The text of a special token, stored as a string or as an object; empty if there is none."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _merges(pieces: list[Piece], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that joins into a piece, best score first: the order of SentencePiece's merges."""
    joined = {piece.text: piece.score for piece in pieces if piece.kind == Kind.NORMAL}
    pairs = [
        (-score, cut, text[:cut], text[cut:])
        for text, score in joined.items()
        for cut in range(1, len(text))
        if text[:cut] in ids and text[cut:] in ids
    ]
    return [(left, right) for _, _, left, right in sorted(pairs)]


def _normalizers(vocabulary: Vocabulary, own: list[str]) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if vocabulary.charsmap:
        steps.append(normalizers.Precompiled(vocabulary.charsmap))
    if vocabulary.squeeze:
        steps += [normalizers.Replace(Regex(edge), "") for edge in (r"\A +", r" +\z", " (?= )")]
    if vocabulary.prefix:
        # an added piece passes the normaliser too, which must not change it
        pieces_pattern = "|".join(re.escape(text) for text in own)
        guard = rf"(?!(?:{pieces_pattern})\z)" if own else ""
        steps.append(normalizers.Replace(Regex(rf"\A{guard}(?=.|\n)"), SPACE))
    return [*steps, normalizers.Replace(" ", SPACE)]


def _piece(value: int | bytes) -> Piece:
    fields = dict(_fields(_bytes(value)))
    (score,) = struct.unpack("<f", _bytes(fields.get(2, bytes(4))))
    kind = fields.get(3, 1)
    assert isinstance(kind, int), kind
    return Piece(_bytes(fields[1]).decode("utf-8"), score, Kind(kind))


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("expected bytes, found a number")
    return value


def _last(fields: list[tuple[int, int | bytes]], wanted: int) -> bytes:
    return _bytes(next((value for number, value in reversed(fields) if number == wanted), b""))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (number, value) pairs of a protocol-buffer message: numbers as int, everything else as its bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}[wire]
        if at + size > len(data):
            raise IndexError("truncated")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at
