"""Text -> tokens with character offsets. Keeps a special token apart from the same characters typed by somebody."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

from tokenizers import Tokenizer


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
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = _any_of(special)
        self._marks = _any_of([mark for mark in marks if mark in special])
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

    def encode(self, text: str, special: Literal["all", "marks", "none"]) -> Encoded:
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


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    """A pattern that finds any of `words`, the longest first; none of them: it finds nothing."""
    return re.compile("|".join(re.escape(each) for each in sorted(words, key=len, reverse=True)) or r"(?!)")
