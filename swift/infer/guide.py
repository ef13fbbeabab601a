"""What a reply must be, as a grammar over tokens: calls of offered tools, JSON of a schema. Knows no engine."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from swift.agent import Form, Shape, shape
from swift.agent.tools import argument_schema
from swift.chat import Tool, ToolCall

LARGEST = 20_000
"""Symbols of a grammar: schemas of thousands of optional fields take seconds to compile, and twice as many four times
as long."""


class Constraint(Protocol):
    """How far one reply has come."""

    def mask(self, logits_V: Tensor) -> Tensor:
        """The logits, minus infinity where a token would break the rules."""
        ...

    def accept(self, token: int) -> None: ...


class Guide(Protocol):
    """What replies must be; safe to share between requests."""

    def begin(self) -> Constraint: ...


class Rules(NamedTuple):
    """What a reply must be. `tools`: those that it may call; `required`: it calls one at once; `parallel`: it may call
    several. `schema`: a JSON schema of what it says where it does not call; None leaves that free."""

    tools: tuple[Tool, ...] = ()
    required: bool = False
    parallel: bool = True
    schema: dict[str, Any] | None = None


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
        text = _lark(form, rules, self)
        matcher = LLMatcher(self.tokens, text, log_level=0, limits=LLParserLimits(max_grammar_size=LARGEST))
        matcher.compute_bitmask()  # some grammars, as one that only holds itself, show here that they allow nothing
        if matcher.is_error():
            raise ValueError(f"a reply cannot be held to this: {matcher.get_error().splitlines()[0]}")
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


_ARGUMENTS = '{"\ue001": 0}'
_JSON = {"whitespace_pattern": r"( |\n {0,16})?"}
"""Between the parts of a JSON text: nothing, a space, or a new line with its indentation. Free white space would let a
model write blanks for ever."""


def _lark(form: Form, rules: Rules, vocabulary: Vocabulary) -> str:
    said = f"said: %json {_dumped(rules.schema)}" if rules.schema is not None else "said: TEXT"
    lines = ["%llguidance {}", r"TEXT: /(.|\n)*/"]
    if not rules.tools:
        return "\n".join([*lines, "start: said", said])
    around = shape(form)
    if around is None:
        raise ValueError("calls of this agent template cannot be guided: its arguments are no JSON")
    calls = _Calls(form, around, rules, vocabulary)
    if rules.required:
        return "\n".join([*lines, *calls.required()])
    return "\n".join([*lines, said, *calls.free()])


class _Calls:
    """The rules of a grammar that are about calls."""

    def __init__(self, form: Form, around: Shape, rules: Rules, vocabulary: Vocabulary) -> None:
        self._form, self._shape, self._rules, self._vocabulary = form, around, rules, vocabulary

    def required(self) -> list[str]:
        thought = self._form.marks.thought
        before = [f"THOUGHT: {_quoted(thought)} /[^\\n]{{1,400}}\\n/"] if thought else []
        start = f"start: {'THOUGHT? ' if thought else ''}{self._literal(self._shape.head)} calls"
        return [*before, start, *self._rest()]

    def free(self) -> list[str]:
        """Says what it likes up to a mark; from there on, calls."""
        head, mark = self._shape.head, self._form.marks.call[0]
        rest = self._rest()
        if self._rules.schema is not None:  # then nothing free comes before a call
            return [f"start: said | {self._literal(head)} calls", *rest]
        if not head:  # the first call is its first line, or follows where another one would
            names = " | ".join(f"bare_{index}" for index in range(len(self._rules.tools)))
            bare = [
                f"bare_{index}: opening_{index} arguments_{index}\n"
                f"opening_{index}[lazy]: {self._literal(self._before(tool))}"
                for index, tool in enumerate(self._rules.tools)
            ]
            after = f"TEXT {self._literal(self._shape.middle)} calls"
            return [f"start: said | {after} | ({names}) {self._others()}", *bare, *rest]
        if self._vocabulary.special(mark) is not None:
            return [f"start: said | TEXT {self._literal(head)} calls", *rest]
        # Where a call in the middle of a line is none, its mark there is text.
        anywhere = self._form.parse("x " + self._form.call("", [ToolCall("x", "{}")]))[1]
        before = r"BEFORE: /(.|\n)*/" if anywhere else r"BEFORE: /((.|\n)*\n)?[ \t]*/"
        opening = f"opening[lazy]: BEFORE {_quoted(mark)}"
        return [f"start: said | opening {self._literal(head.removeprefix(mark))} calls", before, opening, *rest]

    def _rest(self) -> list[str]:
        tools = self._rules.tools
        one = " | ".join(f"call_{index}" for index in range(len(tools)))
        each = [
            f"call_{index}: {self._literal(self._before(tool))} arguments_{index}\n"
            f"arguments_{index}: %json {_dumped(_closed(argument_schema(tool)))}"
            for index, tool in enumerate(tools)
        ]
        return [f"calls: one {self._others()}", f"one: {one}", *each]

    def _others(self) -> str:
        more = f"({self._literal(self._shape.middle)} one)* " if self._rules.parallel else ""
        return more + self._literal(self._shape.tail)

    def _before(self, tool: Tool) -> str:
        """What the form writes from a tool's name up to its arguments."""
        text = self._form.call("", [ToolCall(tool.name, _ARGUMENTS)])
        return text[len(self._shape.head) : text.index(_ARGUMENTS)]

    def _literal(self, text: str) -> str:
        """The text in the grammar's language; marks that are tokens of their own become these."""
        marks = [mark for mark in self._form.marks.special if self._vocabulary.special(mark) is not None]
        parts = re.split("(" + "|".join(map(re.escape, marks)) + ")", text) if marks else [text]
        return " ".join(
            f"<[{self._vocabulary.special(part)}]>" if part in marks else _quoted(part) for part in parts if part
        )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _dumped(schema: dict[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": _JSON}, ensure_ascii=False)


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A tool takes the arguments that its schema names and no others, unless the schema says more about others."""
    return schema if _SAYS_MORE & schema.keys() else {**schema, "additionalProperties": False}


_SAYS_MORE = {"additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames"}
_SAYS_MORE |= {"$ref", "allOf", "anyOf", "oneOf", "if"}
