"""Grammars over tokens that constrain a reply to tool calls or to JSON of a schema. Knows no engine."""

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
from swift.agent.schemas import argument_schema
from swift.chat import Tool
from swift.guided import tagged_grammar
from swift.guided.grammar import Rules, closed, grammar_lines
from swift.guided.lark import Special
from swift.guided.reasoning import position_after, starting_at, thinking_first
from swift.guided.schema_support import LIMITS, Unenforced, enforceable, grammar_error


class UnsupportedSchema(ValueError):
    """A grammar cannot enforce a strict schema. `tool`: the tool with the schema; "" for the schema of the content."""

    def __init__(self, tool: str, unenforced: Sequence[Unenforced]) -> None:
        more = f" (and {len(unenforced) - 1} more)" if len(unenforced) > 1 else ""
        owner = f"tool '{tool}': " if tool else ""
        super().__init__(f"{owner}a grammar cannot enforce {unenforced[0]}{more}")
        self.tool = tool


class Matcher(Protocol):
    """The state of the grammar for one reply."""

    def mask(self, logits_V: Tensor) -> Tensor:
        """The logits with minus infinity for every token that the grammar forbids next. V: the vocabulary."""
        ...

    def accept(self, token: int) -> None:
        """Advances by a sampled token."""
        ...


class Guide(Protocol):
    """A constraint on replies; safe to share between requests. `text`: its grammar, for engines that have llguidance
    themselves; `unenforced`: the parts of the schemas that the grammar does not cover."""

    @property
    def text(self) -> str: ...

    @property
    def unenforced(self) -> tuple[Unenforced, ...]: ...

    def begin(self) -> Matcher: ...
    def after(self, prefill: str) -> Guide:
        """The same for a reply whose beginning, `prefill`, is part of the prompt."""
        ...


class Vocabulary:
    """A tokenizer's tokens as bytes, and grammars over them. `stops`: the tokens that may end a reply."""

    def __init__(self, tokenizer: Any, stops: Sequence[int]) -> None:
        self._tokenizer, self._stops = tokenizer, list(stops)

    @cached_property
    def tokens(self) -> LLTokenizer:
        """The tokenizer for llguidance, which takes all added tokens `<...>` for special; models use many as text."""
        read = from_tokenizer(self._tokenizer, eos_token=self._stops or None)
        texts = [token for token in self._tokenizer.added_tokens_decoder if not self._is_special(token)]
        if not any(map(read.is_special_token, texts)):
            return read
        specials = {token for token in range(read.vocab_size) if read.is_special_token(token)}.difference(texts)
        return LLTokenizer(
            TokenizerWrapper(_ByteTokenizer(self._tokenizer, read, sorted(specials))), eos_token=read.eos_tokens
        )

    def bytes(self, token: int) -> bytes:
        """The bytes of a token; empty for ids that only pad the vocabulary."""
        return self.tokens.decode_bytes([token]) if token < self.tokens.vocab_size else b""

    def special(self, text: str) -> int | None:
        """The special token whose text is `text`, if there is one."""
        token = self._added(text)
        return token if token is not None and self._is_special(token) else None

    def _llguidance_special(self, text: str) -> int | None:
        """The same in llguidance's own view, which other engines use: every added token `<...>` is special."""
        bracketed = text.startswith("<") and text.endswith(">")
        return self._added(text) if bracketed else self.special(text)

    def _added(self, text: str) -> int | None:
        """The added token (`tokenizer.added_tokens_decoder`) whose text is `text`, if there is one."""
        token = self._tokenizer.convert_tokens_to_ids(text)
        known = self._tokenizer.added_tokens_decoder.get(token)
        return token if known is not None and known.content == text else None

    def _is_special(self, token: int) -> bool:
        return bool(self._tokenizer.added_tokens_decoder[token].special)

    def guide(self, tool_format: ToolFormat, rules: Rules) -> GrammarGuide:
        """The grammar for `rules`. Schemas are enforced as far as llguidance supports them, strict ones in full.

        Raises UnsupportedSchema for strict schemas that a grammar cannot enforce in full, and for rules without any
        grammar.
        """
        content = [] if rules.schema is None else [_EnforcedSchema("", *enforceable(rules.schema), rules.strict_schema)]
        schemas = [*content, *(_argument_schema(tool_format, tool, tool.name in rules.strict) for tool in rules.tools)]
        for each in schemas:
            if each.strict and each.unenforced:
                raise UnsupportedSchema(each.tool, each.unenforced)
        while True:
            if content:
                rules = rules._replace(schema=schemas[0].schema)
            arguments = {each.tool: each.schema for each in schemas[len(content) :]}
            texts = [
                _grammar_text(tool_format, rules, arguments, special)
                for special in (self.special, self._llguidance_special)
            ]
            matcher = LLMatcher(self.tokens, texts[0], log_level=0, limits=LIMITS)
            if not (reason := grammar_error(matcher)):
                unenforced = tuple(part for each in schemas for part in each.unenforced)
                return GrammarGuide(texts[1], matcher, unenforced, rules.thinking, self._encode)
            largest = max(
                (each for each in schemas if not each.strict and each.schema != _ANY), key=_size, default=None
            )
            if largest is None:
                raise UnsupportedSchema(schemas[0].tool, [Unenforced("", "", reason)])
            schemas[schemas.index(largest)] = _EnforcedSchema(
                largest.tool, _ANY, (Unenforced("", "", reason, largest.tool),)
            )

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


class _ByteTokenizer:
    """A tokenizer for llguidance: the bytes of all tokens, and which of them are special."""

    def __init__(self, tokenizer: Any, read: LLTokenizer, specials: Sequence[int]) -> None:
        self.eos_token_id, self.bos_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id
        self.tokens = [read.decode_bytes([token]) for token in range(read.vocab_size)]
        self.special_token_ids = specials
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def _grammar_text(
    tool_format: ToolFormat, rules: Rules, arguments: Mapping[str, dict[str, Any]], special: Special
) -> str:
    lines = grammar_lines(tool_format, rules, special, arguments)
    return "\n".join(thinking_first(lines, rules.thinking, special) if rules.thinking else lines)


_ANY: dict[str, Any] = {"type": "object"}


class _EnforcedSchema(NamedTuple):
    """The part of a schema that the grammar enforces. `tool`: the tool with the schema; "" for that of the content."""

    tool: str
    schema: dict[str, Any]
    unenforced: tuple[Unenforced, ...] = ()
    strict: bool = False


def _argument_schema(tool_format: ToolFormat, tool: Tool, strict: bool) -> _EnforcedSchema:
    schema, unenforced = enforceable(closed(argument_schema(tool)))
    if tags := tool_format.syntax.tags:
        schema, more = tagged_grammar.enforceable(schema, tags)
        unenforced += more
    return _EnforcedSchema(tool.name, schema, tuple(each._replace(tool=tool.name) for each in unenforced), strict)


def _size(schemas: _EnforcedSchema) -> int:
    return len(json.dumps(schemas.schema))


@dataclass(frozen=True)
class GrammarGuide:
    """A Guide as an llguidance grammar (a dialect of Lark) and its matcher before the first token. `text` is for
    engines that have llguidance themselves, in its view of the vocabulary; `matcher` has the corrected view.

    `thinking`: the tags around the reasoning that may come first; `encode` tokenises them.
    """

    text: str
    matcher: LLMatcher
    unenforced: tuple[Unenforced, ...] = ()
    thinking: ReasoningTags | None = None
    encode: Callable[[str], list[int]] = lambda text: []

    def begin(self) -> Matcher:
        return _GrammarMatcher(self.matcher.deep_copy())

    def after(self, prefill: str) -> GrammarGuide:
        if self.thinking is None:
            return self
        rule, tags = position_after(self.thinking, prefill)
        if not tags:
            return self
        matcher = self.matcher.deep_copy()
        matcher.consume_tokens(self.encode(tags))  # faster than compiling another grammar
        return replace(self, text=starting_at(self.text, rule), matcher=matcher)


class _GrammarMatcher:
    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def mask(self, logits_V: Tensor) -> Tensor:
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        allowed = (bits[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten()[: len(logits_V)].bool()
        if self._matcher.is_error():
            raise RuntimeError(self._matcher.get_error())
        # Ids beyond the tokenizer's only pad the vocabulary: they are forbidden.
        allowed_V = torch.nn.functional.pad(allowed, (0, len(logits_V) - len(allowed)))
        return logits_V.masked_fill(~allowed_V.to(logits_V.device), -torch.inf)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
