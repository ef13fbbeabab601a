"""What a reply must be, as a grammar over tokens: calls of offered tools, JSON of a schema. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from swift.agent import Form
from swift.infer.grammar import Rules, write

LARGEST = 20_000
"""Symbols of a grammar: schemas of thousands of optional fields take seconds to compile, and twice as many four times
as long."""

_CANNOT = "a reply cannot be held to this"


class Constraint(Protocol):
    """How far one reply has come."""

    def mask(self, logits_V: Tensor) -> Tensor:
        """The logits, minus infinity where a token would break the rules."""
        ...

    def accept(self, token: int) -> None: ...


class Guide(Protocol):
    """What replies must be; safe to share between requests. `text`: the same, for engines that hold replies to it."""

    @property
    def text(self) -> str: ...

    def begin(self) -> Constraint: ...


class Vocabulary:
    """The bytes of a tokenizer's tokens, and grammars over them. `stops` are the tokens that may end a reply."""

    def __init__(self, tokenizer: Any, stops: Sequence[int]) -> None:
        self._tokenizer, self._stops = tokenizer, list(stops)

    @cached_property
    def tokens(self) -> LLTokenizer:
        return from_tokenizer(self._tokenizer, eos_token=self._stops or None)

    def bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; none for one of the ids that only pad the vocabulary."""
        return self.tokens.decode_bytes([token]) if token < self.tokens.vocab_size else b""

    def special(self, text: str) -> int | None:
        """The token that `text` is alone, if it is a special one."""
        token = self._tokenizer.convert_tokens_to_ids(text)
        known = self._tokenizer.added_tokens_decoder.get(token)
        return token if known is not None and known.special and known.content == text else None

    def guide(self, form: Form, rules: Rules) -> Grammar:
        """Raises ValueError for what no grammar can be made of."""
        try:
            text = write(form, rules, self.special)
        except ValueError as error:
            raise ValueError(f"{_CANNOT}: {error}") from error
        matcher = LLMatcher(self.tokens, text, log_level=0, limits=LLParserLimits(max_grammar_size=LARGEST))
        matcher.compute_bitmask()  # some grammars, as one that only holds itself, show here that they allow nothing
        if matcher.is_error():
            raise ValueError(f"{_CANNOT}: {matcher.get_error().splitlines()[0]}")
        return Grammar(text, matcher)


@dataclass(frozen=True)
class Grammar:
    """A Guide in the language of llguidance, a dialect of Lark, and its matcher before the first token."""

    text: str
    matcher: LLMatcher

    def begin(self) -> Constraint:
        return _Matched(self.matcher.deep_copy())


class _Matched:
    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def mask(self, logits_V: Tensor) -> Tensor:
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        allowed = (bits[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten()[: len(logits_V)].bool()
        if self._matcher.is_error():
            raise RuntimeError(self._matcher.get_error())
        # Ids beyond the tokenizer's only pad the vocabulary.
        allowed_V = torch.nn.functional.pad(allowed, (0, len(logits_V) - len(allowed)))
        return logits_V.masked_fill(~allowed_V.to(logits_V.device), -torch.inf)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
