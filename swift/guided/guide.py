"""What a reply must be, as a grammar over tokens: calls of offered tools, JSON of a schema. Knows no engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from llguidance.hf import from_tokenizer
from torch import Tensor

from swift.agent import ReasoningTags, ToolFormat
from swift.agent.tools import argument_schema
from swift.chat import Tool
from swift.guided import tagged_grammar
from swift.guided.grammar import Rules, closed, grammar_lines
from swift.guided.lark import Special
from swift.guided.reasoning import position_after, starting_at, thinking_first
from swift.guided.schema_support import LIMITS, Unenforced, enforceable, grammar_error


class UnsupportedSchema(ValueError):
    """A reply cannot be held to a schema that is strict, or to any part of it. `tool`: whose; "" for what is said."""

    def __init__(self, tool: str, dropped: Sequence[Unenforced]) -> None:
        more = f" (and {len(dropped) - 1} more)" if len(dropped) > 1 else ""
        whose = f"tool '{tool}': " if tool else ""
        super().__init__(f"{whose}a reply cannot be held to {dropped[0]}{more}")
        self.tool = tool


class Matcher(Protocol):
    """How far one reply has come."""

    def mask(self, logits_V: Tensor) -> Tensor:
        """The logits, minus infinity where a token would break the rules."""
        ...

    def accept(self, token: int) -> None: ...


class Guide(Protocol):
    """What replies must be; safe to share between requests. `text`: the same, for engines that hold replies to it;
    `unenforced`: what of the schemas a reply may break all the same."""

    @property
    def text(self) -> str: ...

    @property
    def unenforced(self) -> tuple[Unenforced, ...]: ...

    def begin(self) -> Matcher: ...
    def after(self, begun: str) -> Guide:
        """The same for a reply of which the prompt holds `begun` already."""
        ...


class Vocabulary:
    """The bytes of a tokenizer's tokens, and grammars over them. `stops` are the tokens that may end a reply."""

    def __init__(self, tokenizer: Any, stops: Sequence[int]) -> None:
        self._tokenizer, self._stops = tokenizer, list(stops)

    @cached_property
    def tokens(self) -> LLTokenizer:
        """llguidance takes every `<mark>` for a token that no text is made of; in models many of them are text."""
        read = from_tokenizer(self._tokenizer, eos_token=self._stops or None)
        texts = [token for token in self._tokenizer.added_tokens_decoder if not self._is_special(token)]
        if not any(map(read.is_special_token, texts)):
            return read
        specials = {token for token in range(read.vocab_size) if read.is_special_token(token)}.difference(texts)
        return LLTokenizer(TokenizerWrapper(_Bytes(self._tokenizer, read, sorted(specials))), eos_token=read.eos_tokens)

    def bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; none for one of the ids that only pad the vocabulary."""
        return self.tokens.decode_bytes([token]) if token < self.tokens.vocab_size else b""

    def special(self, text: str) -> int | None:
        """The token that `text` is alone, if it is a special one."""
        token = self._added(text)
        return token if token is not None and self._is_special(token) else None

    def _mark(self, text: str) -> int | None:
        """The same as llguidance has it, where other engines use it: any `<mark>` is special."""
        bracketed = text.startswith("<") and text.endswith(">")
        return self._added(text) if bracketed else self.special(text)

    def _added(self, text: str) -> int | None:
        """The token that `text` is alone, if it is one of those that stand beside the vocabulary."""
        token = self._tokenizer.convert_tokens_to_ids(text)
        known = self._tokenizer.added_tokens_decoder.get(token)
        return token if known is not None and known.content == text else None

    def _is_special(self, token: int) -> bool:
        return bool(self._tokenizer.added_tokens_decoder[token].special)

    def guide(self, tool_format: ToolFormat, rules: Rules) -> GrammarGuide:
        """What the schemas say is held as far as a grammar can, and in full where they are strict.

        Raises UnsupportedSchema for strict schemas that say more, and for what no grammar can be made of.
        """
        said = [] if rules.schema is None else [_Held("", *enforceable(rules.schema), rules.strict_schema)]
        held = [*said, *(_arguments(tool_format, tool, tool.name in rules.strict) for tool in rules.tools)]
        for each in held:
            if each.strict and each.unenforced:
                raise UnsupportedSchema(each.tool, each.unenforced)
        while True:
            if said:
                rules = rules._replace(schema=held[0].schema)
            arguments = {each.tool: each.schema for each in held[len(said) :]}
            texts = [_text(tool_format, rules, arguments, special) for special in (self.special, self._mark)]
            matcher = LLMatcher(self.tokens, texts[0], log_level=0, limits=LIMITS)
            if not (reason := grammar_error(matcher)):
                dropped = tuple(each for one in held for each in one.unenforced)
                return GrammarGuide(texts[1], matcher, dropped, rules.thinking, self._encode)
            largest = max((each for each in held if not each.strict and each.schema != _ANY), key=_size, default=None)
            if largest is None:
                raise UnsupportedSchema(held[0].tool, [Unenforced("", "", reason)])
            held[held.index(largest)] = _Held(largest.tool, _ANY, (Unenforced("", "", reason, largest.tool),))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


class _Bytes:
    """A tokenizer for llguidance: the bytes of all tokens, of which those called special are no text."""

    def __init__(self, tokenizer: Any, read: LLTokenizer, specials: Sequence[int]) -> None:
        self.eos_token_id, self.bos_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id
        self.tokens = [read.decode_bytes([token]) for token in range(read.vocab_size)]
        self.special_token_ids = specials
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def _text(tool_format: ToolFormat, rules: Rules, arguments: Mapping[str, dict[str, Any]], special: Special) -> str:
    lines = grammar_lines(tool_format, rules, special, arguments)
    return "\n".join(thinking_first(lines, rules.thinking, special) if rules.thinking else lines)


_ANY: dict[str, Any] = {"type": "object"}


class _Held(NamedTuple):
    """A schema as far as a grammar holds it. `tool`: whose arguments; "" for what is said."""

    tool: str
    schema: dict[str, Any]
    unenforced: tuple[Unenforced, ...] = ()
    strict: bool = False


def _arguments(tool_format: ToolFormat, tool: Tool, strict: bool) -> _Held:
    schema, dropped = enforceable(closed(argument_schema(tool)))
    if tags := tool_format.syntax.tags:
        schema, more = tagged_grammar.enforceable(schema, tags)
        dropped += more
    return _Held(tool.name, schema, tuple(each._replace(tool=tool.name) for each in dropped), strict)


def _size(held: _Held) -> int:
    return len(json.dumps(held.schema))


@dataclass(frozen=True)
class GrammarGuide:
    """A Guide in the language of llguidance, a dialect of Lark, and its matcher before the first token. `text` is for
    engines that bring llguidance, with their view of the vocabulary; the matcher has ours.

    `thinking`: the texts around the thought that a reply may begin with, and `encode` makes tokens of them.
    """

    text: str
    matcher: LLMatcher
    unenforced: tuple[Unenforced, ...] = ()
    thinking: ReasoningTags | None = None
    encode: Callable[[str], list[int]] = lambda text: []

    def begin(self) -> Matcher:
        return _Matched(self.matcher.deep_copy())

    def after(self, begun: str) -> GrammarGuide:
        if self.thinking is None:
            return self
        rule, marks = position_after(self.thinking, begun)
        if not marks:
            return self
        matcher = self.matcher.deep_copy()
        matcher.consume_tokens(self.encode(marks))  # sooner than the grammar is compiled once more
        return replace(self, text=starting_at(self.text, rule), matcher=matcher)


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
