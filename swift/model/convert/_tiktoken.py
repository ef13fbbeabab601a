"""A vocabulary in tiktoken's file format (`BASE64 RANK` lines) -> a byte-level BPE with the same ids.

Knows no family. Ranks count from 0 without gaps; special tokens follow them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's pre-tokenizer: OpenAI's cl100k pattern with single digits."""


def read(file: Path) -> dict[bytes, int]:
    """The rank of each token. Raises ValueError that names the first invalid line."""
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(f"{file}:{number}: not a token and its rank") from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"{file}: half-written or damaged: the ranks have gaps or repeat")
    return ranks


def convert(ranks: dict[bytes, int], pattern: str, special: Sequence[str], nfc: bool = False) -> Tokenizer:
    """The bare tokenizer; `special` take the ids after the last rank."""
    letters = _letters()
    text = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [
        (text[left], text[right])
        for token in sorted(ranks, key=ranks.__getitem__)
        if len(token) > 1 and (pair := _parts(token, ranks))
        for left, right in [pair]
    ]
    # ignore_merges: a word that is a token stays that token, as in tiktoken, whatever its merges
    fast = Tokenizer(models.BPE({text[token]: rank for token, rank in ranks.items()}, merges, ignore_merges=True))
    if nfc:
        fast.normalizer = normalizers.NFC()
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in special])
    return fast


def _parts(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two tokens that merge into `token` after all merges of lower rank; None if there are none."""
    parts = [token[at : at + 1] for at in range(len(token))]
    limit = ranks[token]
    while len(parts) > 2:
        joined = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        best = min(joined)
        if best >= limit:
            return None
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _letters() -> dict[int, str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {**{byte: chr(byte) for byte in shown}, **{byte: chr(256 + at) for at, byte in enumerate(hidden)}}
