"""A lower bound on the number of tokens of a text, from its length alone. Knows no template and no model."""

from __future__ import annotations

import json
import re
import string
from typing import Any

_KEEP = {"ByteLevel", "Metaspace", "Split", "Digits", "UnicodeScripts", "Sequence"}
"""Pre-tokenizers that keep all of a text, unless their behaviour is `Removed`."""
_PUNCTUATION = bytes(set(range(128)) - set((string.ascii_letters + string.digits).encode()))
_TOKEN_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~ĠĊĉč]")
"""White space and punctuation, which the longest tokens consist of: in texts, and in byte-level tokens."""
_SHRINKS = 3
"""The largest ratio of bytes before and after NFC: three letters of Hangul, the Kelvin sign."""
_WINDOW = 1 << 20


class TokenLowerBound:
    """A lower bound: the bytes of a text divided by those of the longest token.

    The larger of two bounds, with and without white space and punctuation. 0 for tokenizers that drop or shrink text
    without a bound.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = tokenizer.backend_tokenizer
        normalizer, pre_tokenizer = _parts(backend.normalizer), _parts(backend.pre_tokenizer)
        added = [token.content.encode() for token in tokenizer.added_tokens_decoder.values()]
        own = backend.get_vocab(with_added_tokens=False)
        of_bytes = "ByteLevel" in json.dumps(pre_tokenizer)
        self._ascii, self._other = _shrinks(normalizer)
        takes_more = any(token.lstrip or token.rstrip for token in tokenizer.added_tokens_decoder.values())
        # Only some models of the tokenizers library have byte_fallback.
        keeps = of_bytes or getattr(backend.model, "byte_fallback", False)
        if not keeps or takes_more or _drops(pre_tokenizer):
            self._ascii = self._other = 0
        self._unknown = _unknown(own) if of_bytes else b""
        if of_bytes:  # each character of such a token is one byte
            lengths = [(len(token), len(_TOKEN_PUNCTUATION.sub("", token))) for token in own]
        else:
            lengths = [(len(token), len(token.translate(None, _PUNCTUATION))) for token in map(str.encode, own)]
        lengths += [(len(token), len(token.translate(None, _PUNCTUATION))) for token in added]
        self._longest = max(1, *(length for length, _ in lengths))
        self._longest_word = max(1, *(word for _, word in lengths))

    def __call__(self, text: str, enough: int) -> int:
        """The bound for a text. Stops counting once it exceeds `enough`."""
        shrinks = self._ascii if text.isascii() else self._other
        if not shrinks:
            return 0
        size = word = least = 0
        for start in range(0, len(text), _WINDOW):
            data = text[start : start + _WINDOW].encode(errors="replace").translate(None, self._unknown)
            size, word = size + len(data), word + len(data.translate(None, _PUNCTUATION))
            least = max(size // (shrinks * self._longest), word // (shrinks * self._longest_word))
            if least > enough:
                break
        return least


def _parts(component: Any) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer as in tokenizer.json."""
    return None if component is None else json.loads(component.__getstate__())


def _unknown(vocabulary: dict[str, int]) -> bytes:
    """The bytes that a byte-level vocabulary lacks, which are dropped."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {**{byte: chr(byte) for byte in visible}, **{byte: chr(256 + n) for n, byte in enumerate(hidden)}}
    return bytes(byte for byte, letter in letters.items() if letter not in vocabulary)


def _shrinks(normalizer: dict[str, Any] | None) -> tuple[int, int]:
    """(ASCII, other): the largest shrinkage in bytes; 0 if it is unbounded."""
    if normalizer is None or normalizer["type"] == "Prepend":
        return 1, 1
    if normalizer["type"] == "NFC":
        return 1, _SHRINKS
    if normalizer["type"] == "Replace":
        replaced = normalizer["pattern"].get("String")
        grows = replaced is not None and len(normalizer["content"].encode()) >= len(replaced.encode())
        return (1, 1) if grows else (0, 0)
    if normalizer["type"] == "Sequence":
        ascii_, other = 1, 1
        for each in normalizer["normalizers"]:
            in_ascii, in_other = _shrinks(each)
            ascii_, other = ascii_ * in_ascii, other * in_other
        return ascii_, other
    return 0, 0


def _drops(pre_tokenizer: dict[str, Any] | None) -> bool:
    if pre_tokenizer is None:
        return False
    inner = pre_tokenizer.get("pretokenizers", ())
    removed = pre_tokenizer.get("behavior") == "Removed" or pre_tokenizer["type"] not in _KEEP
    return removed or any(map(_drops, inner))
