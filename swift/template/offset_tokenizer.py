"""Text -> tokens with character offsets. Keeps a special token apart from the same characters typed by somebody."""

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
REPEATED = 1024
"""Texts whose tokens are kept, because rows and prompts repeat their system texts and tools."""
LONGEST = 1 << 14
"""Characters of a text beyond which its tokens are not kept."""
WORDS = 1 << 15
"""Words whose tokens are kept, before all are forgotten."""
LONG_WORD = 64
"""Characters of a word beyond which its tokens are not kept."""


class Vocabulary(dict[str, Encoded]):
    """The tokens of words; those of short ones are kept. A dict finds them quicker than an lru_cache.

    `kinds` finds where a word can be cut, unless it holds one of `whole`: most new words are known parts.
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
        if len(self) >= WORDS:
            self.clear()
        self[word] = found
        return found


class OffsetTokenizer:
    """A fast tokenizer that keeps apart a special token and the same characters typed by somebody.

    `marks` are the special tokens that a text form may write in a reply.
    """

    def __init__(self, tokenizer: Any, marks: Sequence[str] = ()) -> None:
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} is no fast tokenizer: character offsets are needed")
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._backend.no_truncation()  # some files say so for another use
        self._backend.no_padding()
        added = list(tokenizer.added_tokens_decoder.values())
        special = [token.content for token in added if token.special]
        self._special = _any_of(special)
        self._marks = _any_of([mark for mark in marks if mark in special])
        self._borders = _any_of(split_points.special_tokens(self._backend, added))
        self._words = split_points.words(self._backend, added)
        self._known = lru_cache(REPEATED)(self._tokens)
        self._joins = lru_cache(REPEATED)(self._begins)
        kinds = split_points.NEVER if self._words is split_points.WHOLE else split_points.kinds(self._backend, added)
        self._tokens_of = Vocabulary(self._backend, kinds, [token.content for token in added]).__getitem__
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
            return split_points.ids(self._literal, text) if special == "none" else self.encode(text, special).ids
        ids: list[int] = []
        for part in filter(None, self._borders.split(text)):
            ids += self._known(part) if len(part) <= LONGEST else self._tokens(part)
        return ids

    def joins(self, behind: str, text: str) -> bool:
        """Whether `text` begins with a token of its own where it stands behind another, without a special token."""
        found = self._words.match(text)
        word = found[0] if found else text
        begins = self._joins if len(behind) + len(word) <= 2 * LONG_WORD else self._begins
        return begins(behind, word)

    def _begins(self, behind: str, word: str) -> bool:
        first = self.ids(behind, "all")
        return self.ids(behind + word, "all")[: len(first)] == first

    def after(self, behind: str, text: str, special: Special) -> Encoded:
        """The tokens of `text` where it stands behind a text that it `joins`."""
        if not behind or self._words is not split_points.WHOLE:
            return self.encode(text, special)
        first, whole = len(self.ids(behind, "all")), self.encode(behind + text, special)
        return Encoded(whole.ids[first:], [max(start - len(behind), 0) for start in whole.starts[first:]])

    def opened(self, text: str) -> list[int]:
        """The tokens of a whole prompt, with those that the tokenizer itself puts around a text."""
        ids: list[int] = self._backend.encode_batch_fast([text])[0].ids  # a batch leaves Python's lock free
        return ids

    def _tokens(self, text: str) -> list[int]:
        if self._words is split_points.WHOLE:
            return split_points.ids(self._backend, text)
        if len(text) <= LONGEST:
            return self._joined(self._words.findall(text))
        ids: list[int] = []
        for block in split_points.blocks(text):  # Python's lock is free between two of them
            words = self._words.findall(block) if len(block) <= 2 * split_points.BLOCK else ()
            few = len(words) * LONG_WORD < len(block)
            ids += split_points.ids(self._backend, block) if few else self._joined(words)
        return ids

    def _joined(self, words: Sequence[str]) -> list[int]:
        return list(chain.from_iterable(map(itemgetter(0), map(self._tokens_of, words))))

    def encode(self, text: str, special: Special) -> Encoded:
        """Tokens of `text`: characters of special tokens become these tokens all, if they are marks, or not at all."""
        if special == "all" or not self.typed(text):
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
    """A pattern that finds any of `words`, the longest first; none of them: it finds nothing. A split keeps them."""
    any_of = "|".join(re.escape(each) for each in sorted(words, key=len, reverse=True))
    return re.compile(f"({any_of or '(?!)'})")
