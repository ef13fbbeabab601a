"""Text -> tokens with character offsets. Keeps a special token apart from the same characters typed by somebody."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

from tokenizers import AddedToken, Tokenizer

Special = Literal["all", "marks", "none"]
REPEATED = 1024
"""Texts whose tokens are kept, because rows and prompts repeat their system texts and tools."""
LONGEST = 1 << 14
"""Characters of a text beyond which its tokens are not kept."""


class Encoded(NamedTuple):
    """Token ids, and where in the text each begins (in characters)."""

    ids: list[int]
    starts: list[int]


class Words:
    """A fast tokenizer that keeps apart a special token and the same characters typed by somebody.

    `marks` are the special tokens that a text form may write in a reply.
    """

    def __init__(self, tokenizer: Any, marks: Sequence[str] = ()) -> None:
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} is no fast tokenizer: character offsets are needed")
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._backend.no_truncation()  # some files say so for another use
        self._backend.no_padding()
        added = tokenizer.added_tokens_decoder.values()
        special = [token.content for token in added if token.special]
        self._special = _any_of(special)
        self._marks = _any_of([mark for mark in marks if mark in special])
        borders = _any_of(_borders(self._backend, [token for token in added if not token.normalized]))
        self._borders = re.compile(f"({borders.pattern})")
        self._known = lru_cache(REPEATED)(self._tokens)
        opening = self._backend.encode("").ids
        self.opening: int | None = opening[0] if opening else None

    @cached_property
    def _literal(self) -> Tokenizer:
        copy: Tokenizer = Tokenizer.from_str(self._backend.to_str())
        copy.encode_special_tokens = True
        return copy

    def typed(self, text: str) -> bool:
        """Whether the text holds the characters of a special token."""
        return self._special.search(text) is not None

    def ids(self, text: str, special: Special) -> list[int]:
        """The tokens of `encode`, several times quicker where much of the text was met before."""
        if special != "all" and self.typed(text):
            return self.encode(text, special).ids
        ids: list[int] = []
        for part in filter(None, self._borders.split(text)):
            ids += self._known(part) if len(part) <= LONGEST else self._tokens(part)
        return ids

    def _tokens(self, text: str) -> array[int]:
        return array("i", _ids(self._backend, text))

    def encode(self, text: str, special: Special) -> Encoded:
        """Tokens of `text`: characters of special tokens become these tokens all, if they are marks, or not at all."""
        if special == "all" or not self.typed(text):
            return _plain(self._backend, text, 0)
        marks = list(self._marks.finditer(text)) if special == "marks" else []
        ids: list[int] = []
        starts: list[int] = []
        done = 0
        for match in [*marks, None]:
            between = _plain(self._literal, text[done : match.start() if match else len(text)], done)
            mark = _plain(self._backend, match[0], match.start()) if match else Encoded([], [])
            ids += between.ids + mark.ids
            starts += between.starts + mark.starts
            done = match.end() if match else done
        return Encoded(ids, starts)


def _plain(backend: Tokenizer, text: str, shift: int) -> Encoded:
    encoding = backend.encode(text, add_special_tokens=False)
    return Encoded(encoding.ids, [start + shift for start, _ in encoding.offsets])


def _borders(backend: Tokenizer, added: Sequence[AddedToken]) -> list[str]:
    """Tokens at which a text can be cut and its parts tokenised alone: all that are found before a text is normalised.

    None of them where one takes spaces beside it along, or where a text's beginning gets a mark of its own.
    """
    whole = [token.content for token in added]
    apart = not any(token.lstrip or token.rstrip or token.single_word for token in added)
    if not (whole and apart and _ids(backend, f"{whole[0]}a") == _ids(backend, whole[0]) + _ids(backend, "a")):
        return []
    return whole


def _ids(backend: Tokenizer, text: str) -> list[int]:
    return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids  # finds no offsets: a quarter quicker


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    """A pattern that finds any of `words`, the longest first; none of them: it finds nothing."""
    return re.compile("|".join(re.escape(each) for each in sorted(words, key=len, reverse=True)) or r"(?!)")
