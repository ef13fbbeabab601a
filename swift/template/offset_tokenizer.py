"""Text -> tokens with character offsets. Special tokens in user text are tokenised as ordinary characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import chain, cycle
from operator import itemgetter
from typing import Any, Literal

from tokenizers import Tokenizer

from swift.template import split_points
from swift.template.split_points import Encoded

Special = Literal["all", "marks", "none"]
TEXTS_CACHED = 1024
"""Cached texts: rows and prompts repeat system prompts and tools."""
LONG_TEXT = 1 << 14
"""Longer texts (in characters) are not cached."""
WORDS_CACHED = 1 << 15
"""Cached words; the cache is cleared when it is full."""
LONG_WORD = 64
"""Longer words (in characters) are not cached."""


class Vocabulary(dict[str, Encoded]):
    """A cache of the tokens of words; a dict is faster than an lru_cache.

    `kinds` splits words further, except those that contain one of `whole`: most new words consist of known parts.
    """

    def __init__(
        self, backend: Tokenizer, kinds: re.Pattern[str] = split_points.NEVER, whole: Sequence[str] = ()
    ) -> None:
        self._backend = backend
        self._kinds = kinds
        self._whole = _any_of(whole)

    def __missing__(self, word: str) -> Encoded:
        if len(word) > LONG_WORD:
            return split_points.encode(self._backend, word)
        parts = [word] if self._whole.search(word) else self._kinds.split(word)
        known = [self[part] for part in parts] if len(parts) > 1 else []
        found = split_points.join(parts, known) if known else split_points.encode(self._backend, word)
        if len(self) >= WORDS_CACHED:
            self.clear()
        self[word] = found
        return found


class OffsetTokenizer:
    """A fast tokenizer that distinguishes special tokens from the same characters in user text.

    `marks`: the special tokens that may occur in replies. Raises ValueError for a slow tokenizer.
    """

    def __init__(self, tokenizer: Any, marks: Sequence[str] = ()) -> None:
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer: character offsets are needed")
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._backend.no_truncation()  # set in some tokenizer files
        self._backend.no_padding()
        added = list(tokenizer.added_tokens_decoder.values())
        special = [token.content for token in added if token.special]
        self._special = _any_of(special)
        self._marks = _any_of([mark for mark in marks if mark in special])
        self._borders = _any_of(split_points.special_tokens(self._backend, added))
        self._words = split_points.words(self._backend, added)
        self._known = lru_cache(TEXTS_CACHED)(self._tokens)
        self._joins = lru_cache(TEXTS_CACHED)(self._begins)
        kinds = split_points.NEVER if self._words is split_points.WHOLE else split_points.kinds(self._backend, added)
        self._tokens_of = Vocabulary(self._backend, kinds, [token.content for token in added]).__getitem__
        opening = self._backend.encode("").ids
        self.first_token: int | None = opening[0] if opening else None

    @cached_property
    def _literal(self) -> Tokenizer:
        copy: Tokenizer = Tokenizer.from_str(self._backend.to_str())
        copy.encode_special_tokens = True
        return copy

    def has_special(self, text: str) -> bool:
        """Whether the text contains the characters of a special token."""
        return self._special.search(text) is not None

    def ids(self, text: str, special: Special) -> list[int]:
        """The token ids of `encode`, several times faster for text that is in the cache."""
        if special != "all" and self.has_special(text):
            return split_points.ids(self._literal, text) if special == "none" else self.encode(text, special).ids
        ids: list[int] = []
        for part in filter(None, self._borders.split(text)):
            ids += self._known(part) if len(part) <= LONG_TEXT else self._tokens(part)
        return ids

    def is_boundary(self, context: str, text: str) -> bool:
        """Whether no token crosses from `context` into the `text` after it, when both are tokenised as one text."""
        found = self._words.match(text)
        word = found[0] if found else text
        begins = self._joins if len(context) + len(word) <= 2 * LONG_WORD else self._begins
        return begins(context, word)

    def _begins(self, context: str, word: str) -> bool:
        first = self.ids(context, "all")
        return self.ids(context + word, "all")[: len(first)] == first

    def encode_after(self, context: str, text: str, special: Special) -> Encoded:
        """The encoding of `text` after `context`, where `is_boundary(context, text)`."""
        if not context or self._words is not split_points.WHOLE:
            return self.encode(text, special)
        first, whole = len(self.ids(context, "all")), self.encode(context + text, special)
        return Encoded(whole.ids[first:], [max(start - len(context), 0) for start in whole.starts[first:]])

    def ids_with_special_tokens(self, text: str) -> list[int]:
        """The token ids of a text with the special tokens that the tokenizer adds around it."""
        ids: list[int] = self._backend.encode_batch_fast([text])[0].ids  # a batch releases the GIL
        return ids

    def _tokens(self, text: str) -> list[int]:
        if self._words is split_points.WHOLE:
            return split_points.ids(self._backend, text)
        if len(text) <= LONG_TEXT:
            return self._joined(self._words.findall(text))
        ids: list[int] = []
        for block in split_points.blocks(text):  # the GIL is released between blocks
            words = self._words.findall(block) if len(block) <= 2 * split_points.BLOCK else ()
            few = len(words) * LONG_WORD < len(block)
            ids += split_points.ids(self._backend, block) if few else self._joined(words)
        return ids

    def _joined(self, words: Sequence[str]) -> list[int]:
        return list(chain.from_iterable(map(itemgetter(0), map(self._tokens_of, words))))

    def encode(self, text: str, special: Special) -> Encoded:
        """The encoding of `text`. `special`: which special tokens are recognised: all, only `marks`, or none."""
        if special == "all" or not self.has_special(text):
            return self._plain(text)
        texts = self._marks.split(text) if special == "marks" else [text]
        backends = cycle((self._literal, self._backend))
        return split_points.join(
            texts, [split_points.encode(backend, part) for part, backend in zip(texts, backends, strict=False)]
        )

    def _plain(self, text: str) -> Encoded:
        words = self._words.findall(text)
        return split_points.join(words, [self._tokens_of(word) for word in words])


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    """A pattern that matches any of `words`, the longest first. A split keeps them."""
    any_of = "|".join(re.escape(each) for each in sorted(words, key=len, reverse=True))
    return re.compile(f"({any_of or '(?!)'})")
