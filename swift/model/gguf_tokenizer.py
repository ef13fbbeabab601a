"""A tokenizer's vocabulary, merges and pre-tokenizer, as GGUF stores them. Knows no model."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from gguf import TokenType
from transformers import PreTrainedTokenizerBase

_PRE_TOKENIZERS = {
    (): "gpt-2",
    ("Digits",): "smollm",
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ): "qwen2",
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ): "llama-bpe",
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ): "tekken",
}
"""Patterns that split text before byte-pair merges -> llama.cpp's name. (): GPT-2's own pattern."""


class Vocabulary(NamedTuple):
    """`model`: gpt2 (byte-level BPE) or llama (SentencePiece). `space_first`: a space is put before a text."""

    model: str
    pre: str
    tokens: list[str]
    types: list[TokenType]
    scores: list[float]
    merges: list[str]
    space_first: bool


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """The vocabulary of a tokenizer, padded to `size`. Raises ValueError for a tokenizer GGUF has no name for."""
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__}: only tokenizers with a tokenizer.json can be written as GGUF")
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    if spec["model"]["type"] != "BPE":
        raise ValueError(f"a tokenizer of type {spec['model']['type']} cannot be written as GGUF: only BPE can")
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in spec["model"]["merges"]]
    by_id = {index: word for word, index in spec["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in spec["added_tokens"]}
    by_id |= {index: entry["content"] for index, entry in added.items()}
    if max(by_id) >= size:
        raise ValueError(f"the tokenizer has {max(by_id) + 1} tokens, the model {size}: a GGUF file holds one number")
    unknown = spec["model"].get("unk_token")

    def kind(index: int) -> TokenType:
        word = by_id.get(index)
        if word is None:
            return TokenType.UNUSED
        if spec["model"].get("byte_fallback") and word == unknown:
            return TokenType.UNKNOWN
        if index in added:
            return TokenType.CONTROL if added[index]["special"] else TokenType.USER_DEFINED
        is_byte = spec["model"].get("byte_fallback") and len(word) == 6 and word.startswith("<0x") and word[5] == ">"
        return TokenType.BYTE if is_byte else TokenType.NORMAL

    tokens = [by_id.get(index, f"[PAD{index}]") for index in range(size)]
    types = [kind(index) for index in range(size)]
    if spec["model"].get("byte_fallback"):
        return Vocabulary("llama", "default", tokens, types, _scores(tokens, merges), [], _space_first(spec))
    joined = [" ".join(merge) for merge in merges]
    return Vocabulary("gpt2", _pre_tokenizer(spec["pre_tokenizer"]), tokens, types, [], joined, False)


def _pre_tokenizer(pre: dict[str, Any] | None) -> str:
    """llama.cpp's name of a pre-tokenizer. Raises ValueError if it has none."""
    parts = pre["pretokenizers"] if pre and pre["type"] == "Sequence" else [pre] if pre else []
    *splits, last = parts or [{"type": "none"}]
    if last["type"] == "ByteLevel" and not last["add_prefix_space"]:
        found = tuple(_pattern(split) for split in splits)
        uses_gpt2_pattern = last["use_regex"]  # GPT-2's own pattern, after the others
        if found in _PRE_TOKENIZERS and uses_gpt2_pattern == (found in ((), ("Digits",))):
            return _PRE_TOKENIZERS[found]
    raise ValueError("GGUF has no known name for the tokenizer's pre-tokenizer: " + json.dumps(pre)[:200])


def _pattern(split: dict[str, Any]) -> str:
    if split["type"] == "Digits" and split["individual_digits"]:
        return "Digits"
    if split["type"] == "Split" and split["behavior"] == "Isolated" and not split["invert"]:
        return str(split["pattern"].get("Regex", ""))
    return str(split["type"])


def _scores(tokens: list[str], merges: list[tuple[str, ...]]) -> list[float]:
    """SentencePiece scores: the earlier a merge makes a token, the higher its score."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge), rank)
    last = len(merges)
    return [-float(ranks.get(token, last)) for token in tokens]


def _space_first(spec: dict[str, Any]) -> bool:
    """Whether the normalizer or pre-tokenizer puts a space before a text. Raises ValueError for other changes."""
    rules = spec["normalizer"] or {"type": "Sequence", "normalizers": []}
    rules = rules["normalizers"] if rules["type"] == "Sequence" else [rules]
    pre = spec["pre_tokenizer"]
    known = all(
        (rule["type"] == "Prepend" and rule["prepend"] == "▁")
        or (rule["type"] == "Replace" and rule["pattern"] == {"String": " "} and rule["content"] == "▁")
        for rule in rules
    )
    if not known or (pre and (pre["type"] != "Metaspace" or pre["replacement"] != "▁")):
        raise ValueError("GGUF has no known name for what the tokenizer's normalizer does")
    metaspace = pre["prepend_scheme"] != "never" if pre else False
    return metaspace or any(rule["type"] == "Prepend" for rule in rules)
