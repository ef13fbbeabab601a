"""What a reply must be -> the text of a grammar. Knows no token but those that a mark is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from swift.agent import SAMPLE_ARGUMENTS, ReasoningTags, ToolFormat, call_template, sample_arguments, without_ids
from swift.agent.tagged import definitions
from swift.chat import Tool, ToolCall
from swift.guided import tagged_grammar
from swift.guided.lark import HEAD, Special, json_rule, literals, plain_json_rule, quoted, split_at_special_tokens


class Rules(NamedTuple):
    """What a reply must be. `tools`: those that it may call; `required`: it calls one at once; `parallel`: it may call
    several. `schema`: a JSON schema of what it says where it does not call; None leaves that free. `strict`: names of
    the tools whose schemas are held in full or refused, `strict_schema` the same of `schema`. `thinking`: the texts
    around a thought, which may come before all that and is free."""

    tools: tuple[Tool, ...] = ()
    required: bool = False
    parallel: bool = True
    schema: dict[str, Any] | None = None
    strict: frozenset[str] = frozenset()
    strict_schema: bool = False
    thinking: ReasoningTags | None = None


def grammar_lines(
    tool_format: ToolFormat, rules: Rules, special: Special, arguments: Mapping[str, dict[str, Any]]
) -> list[str]:
    """The lines of the grammar, without a thought. `special`: the token that a text is alone; `arguments`: the schema
    of each tool's, by its name.

    Raises ValueError for what arguments in tags cannot be held to.
    """
    said = f"said: {json_rule(rules.schema)}" if rules.schema is not None else "said: TEXT"
    if not rules.tools:
        return [*HEAD, "start: said", said]
    calls = _Calls(tool_format, rules, special, arguments)
    return [*HEAD, *(calls.required() if rules.required else [said, *calls.free()])]


class _Calls:
    """The rules of a grammar that are about calls."""

    def __init__(
        self, tool_format: ToolFormat, rules: Rules, special: Special, schemas: Mapping[str, dict[str, Any]]
    ) -> None:
        self._format, self._shape, self._rules, self._special = tool_format, call_template(tool_format), rules, special
        self._schemas = schemas

    def required(self) -> list[str]:
        thought, terminals = self._thought()
        return [*terminals, f"start: {thought}{self._head} calls", *self._rest()]

    def _thought(self) -> tuple[str, list[str]]:
        """What may come before a call or an answer: a line of thought, where the form has a word for it."""
        word = self._format.syntax.thought
        return ("THOUGHT? ", [f"THOUGHT: {quoted(word)} /[^\\n]{{1,400}}\\n/"]) if word else ("", [])

    def _said_or_calls(self) -> list[str]:
        """JSON of the schema or calls, and nothing free: each may have its thought, the JSON the form's word for it."""
        thought, terminals = self._thought()
        answer = self._format.syntax.answer
        opening = f"({thought}ANSWER)? " if answer else ""
        terminals += [f'ANSWER: {quoted(answer)} " "?'] if answer else []
        return [*terminals, f"start: {opening}said | {thought}{self._head} calls"]

    def free(self) -> list[str]:
        """Says what it likes up to a mark; from there on, calls."""
        head, mark = self._shape.head, self._format.syntax.call[0]
        rest = self._rest()
        if self._rules.schema is not None:
            return self._objects() if head.startswith("{") else [*self._said_or_calls(), *rest]
        if not head:  # the first call is its first line, or follows where another one would
            names = " | ".join(f"bare_{index}" for index in range(len(self._rules.tools)))
            bare = [
                f"bare_{index}: opening_{index} arguments_{index}\n"
                f"opening_{index}[lazy]: {self._literal(self._before(tool))}"
                for index, tool in enumerate(self._rules.tools)
            ]
            after = f"TEXT {self._literal(self._shape.middle)} calls"
            return [f"start: said | {after} | ({names}) {self._others()}", *bare, *rest]
        if self._special(mark) is not None:
            return [f"start: said | TEXT {self._head} calls", *rest]
        # Where a call in the middle of a line is none, its mark there is text.
        anywhere = self._format.parse("x " + self._format.call("", [ToolCall("x", "{}")]))[1]
        before = r"BEFORE: /(.|\n)*/" if anywhere else r"BEFORE: /((.|\n)*\n)?[ \t]*/"
        opening = f"opening[lazy]: BEFORE {quoted(mark)}"
        return [f"start: said | opening {self._literal(head.partition(mark)[2])} calls", before, opening, *rest]

    def _objects(self) -> list[str]:
        """The same for a form whose calls are JSON objects: one that is written as text would rule out an answer that
        begins alike."""
        [name], [arguments] = (re.findall(r"\w+", text) for text in (self._shape.head, self._shape.between))
        between = self._shape.middle.removeprefix(self._shape.tail).removesuffix(self._shape.head)
        schemas = [self._schemas[tool.name] for tool in self._rules.tools]
        calls = [
            {name: {"const": tool.name}, arguments: schema}
            for tool, schema in zip(self._rules.tools, schemas, strict=True)
        ]
        objects = [  # what a schema refers to is found from the top
            {**definitions(schema), **closed({"type": "object", "properties": call, "required": list(call)})}
            for schema, call in zip(schemas, calls, strict=True)
        ]
        each = [f"call_{index}: {plain_json_rule(whole)}" for index, whole in enumerate(objects)]
        one = " | ".join(f"call_{index}" for index in range(len(calls)))
        more = f" ({quoted(between)} one)*" if self._rules.parallel else ""
        # with white space of the same kind in both, or the lexer would have to choose before it can know
        said = f"answer: {plain_json_rule(self._rules.schema or {})}"
        return [f"start: answer | one{more}", said, f"one: {one}", *each]

    def _rest(self) -> list[str]:
        tools = self._rules.tools
        one = " | ".join(f"call_{index}" for index in range(len(tools)))
        each = [
            rule
            for index, tool in enumerate(tools)
            for rule in (
                f"call_{index}: {self._literal(self._before(tool))} arguments_{index}",
                *self._arguments(f"arguments_{index}", self._schemas[tool.name]),
            )
        ]
        return [f"calls: one {self._others()}", f"one: {one}", *each]

    def _arguments(self, name: str, schema: dict[str, Any]) -> list[str]:
        tags = self._format.syntax.tags
        return tagged_grammar.rules(name, schema, tags, self._literal) if tags else [f"{name}: {json_rule(schema)}"]

    def _others(self) -> str:
        more = f"({self._literal(self._shape.middle)} one)* " if self._rules.parallel else ""
        return more + self._literal(self._shape.tail)

    def _before(self, tool: Tool) -> str:
        """What the form writes from a tool's name up to its arguments."""
        text = self._format.call("", [ToolCall(tool.name, SAMPLE_ARGUMENTS)])
        return text[len(self._shape.head) : text.index(sample_arguments(self._format.syntax))]

    @property
    def _head(self) -> str:
        """What opens the first call; behind a thought, white space at its beginning is told already."""
        head = self._shape.head
        either = {head: None, head.lstrip(): None} if self._rules.thinking else {head: None}
        return f"({' | '.join(map(self._literal, either))})"

    def _literal(self, text: str) -> str:
        """The text in the grammar's language: marks that are tokens of their own become these, ids any that will do."""
        ids = self._format.syntax.ids
        parts = (
            literals(split_at_special_tokens(part, self._special), self._special) for part in without_ids(text, ids)
        )
        return f" /{ids.pattern}/ ".join(parts) if ids else next(parts)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A tool takes the arguments that its schema names and no others, unless the schema says more about others."""
    others = set(schema.get("required", ())) - (schema.get("properties") or {}).keys()
    return schema if others or _SAYS_MORE & schema.keys() else {**schema, "additionalProperties": False}


_SAYS_MORE = {"additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames"}
_SAYS_MORE |= {"$ref", "allOf", "anyOf", "oneOf", "if"}
