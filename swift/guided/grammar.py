"""Rules for a reply -> the text of a grammar. Knows no tokens but special ones."""

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
    """The constraints on a reply. `tools`: those that may be called; `required`: the reply begins with a call;
    `parallel`: several calls are allowed. `schema`: the JSON schema of a reply without calls; None: any text. `strict`:
    the names of tools whose schemas must be enforced in full; `strict_schema`: the same for `schema`. `thinking`: the
    tags around reasoning, which may come first and is free."""

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
    """The lines of the grammar, without reasoning in tags. `special`: text -> special token; `arguments`: tool name ->
    schema of its arguments.

    Raises ValueError for a schema that tagged arguments cannot follow.
    """
    content = f"said: {json_rule(rules.schema)}" if rules.schema is not None else "said: TEXT"
    if not rules.tools:
        return [*HEAD, "start: said", content]
    calls = _Calls(tool_format, rules, special, arguments)
    return [*HEAD, *(calls.required() if rules.required else [content, *calls.free()])]


class _Calls:
    """The part of a grammar that describes calls."""

    def __init__(
        self, tool_format: ToolFormat, rules: Rules, special: Special, schemas: Mapping[str, dict[str, Any]]
    ) -> None:
        self._format, self._template, self._rules, self._special = (
            tool_format,
            call_template(tool_format),
            rules,
            special,
        )
        self._schemas = schemas

    def required(self) -> list[str]:
        label, terminals = self._reasoning_line()
        return [*terminals, f"start: {label}{self._head} calls", *self._rest()]

    def _reasoning_line(self) -> tuple[str, list[str]]:
        """The optional line of reasoning before a call or an answer, in formats with a label for it."""
        word = self._format.syntax.thought
        return ("THOUGHT? ", [f"THOUGHT: {quoted(word)} /[^\\n]{{1,400}}\\n/"]) if word else ("", [])

    def _json_or_calls(self) -> list[str]:
        """JSON of the schema, or calls; no free text. Labels for reasoning and answer may come before."""
        label, terminals = self._reasoning_line()
        answer = self._format.syntax.answer
        opening = f"({label}ANSWER)? " if answer else ""
        terminals += [f'ANSWER: {quoted(answer)} " "?'] if answer else []
        return [*terminals, f"start: {opening}said | {label}{self._head} calls"]

    def free(self) -> list[str]:
        """Free text up to the marker of a call, then calls."""
        head, marker = self._template.head, self._format.syntax.call[0]
        rest = self._rest()
        if self._rules.schema is not None:
            return self._objects() if head.startswith("{") else [*self._json_or_calls(), *rest]
        if not head:  # the first call is the first line, or follows the text that separates calls
            names = " | ".join(f"bare_{index}" for index in range(len(self._rules.tools)))
            bare = [
                f"bare_{index}: opening_{index} arguments_{index}\n"
                f"opening_{index}[lazy]: {self._literal(self._before(tool))}"
                for index, tool in enumerate(self._rules.tools)
            ]
            after = f"TEXT {self._literal(self._template.middle)} calls"
            return [f"start: said | {after} | ({names}) {self._others()}", *bare, *rest]
        if self._special(marker) is not None:
            return [f"start: said | TEXT {self._head} calls", *rest]
        # In formats whose calls must open a line, a marker in the middle of a line is text.
        anywhere = self._format.parse("x " + self._format.call("", [ToolCall("x", "{}")]))[1]
        before = r"BEFORE: /(.|\n)*/" if anywhere else r"BEFORE: /((.|\n)*\n)?[ \t]*/"
        opening = f"opening[lazy]: BEFORE {quoted(marker)}"
        return [f"start: said | opening {self._literal(head.partition(marker)[2])} calls", before, opening, *rest]

    def _objects(self) -> list[str]:
        """The same for formats whose calls are JSON objects: as literal text, a call would rule out an answer that
        begins alike."""
        [name], [arguments] = (re.findall(r"\w+", text) for text in (self._template.head, self._template.between))
        between = self._template.middle.removeprefix(self._template.tail).removesuffix(self._template.head)
        schemas = [self._schemas[tool.name] for tool in self._rules.tools]
        calls = [
            {name: {"const": tool.name}, arguments: schema}
            for tool, schema in zip(self._rules.tools, schemas, strict=True)
        ]
        objects = [  # references are resolved from the top level
            {**definitions(schema), **closed({"type": "object", "properties": call, "required": list(call)})}
            for schema, call in zip(schemas, calls, strict=True)
        ]
        each = [f"call_{index}: {plain_json_rule(whole)}" for index, whole in enumerate(objects)]
        one = " | ".join(f"call_{index}" for index in range(len(calls)))
        more = f" ({quoted(between)} one)*" if self._rules.parallel else ""
        # both with the same white space: the lexer could not choose between two kinds
        answer = f"answer: {plain_json_rule(self._rules.schema or {})}"
        return [f"start: answer | one{more}", answer, f"one: {one}", *each]

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
        more = f"({self._literal(self._template.middle)} one)* " if self._rules.parallel else ""
        return more + self._literal(self._template.tail)

    def _before(self, tool: Tool) -> str:
        """The text from a tool's name to its arguments."""
        text = self._format.call("", [ToolCall(tool.name, SAMPLE_ARGUMENTS)])
        return text[len(self._template.head) : text.index(sample_arguments(self._format.syntax))]

    @property
    def _head(self) -> str:
        """The text before the first call; after reasoning, its leading white space has been generated already."""
        head = self._template.head
        either = {head: None, head.lstrip(): None} if self._rules.thinking else {head: None}
        return f"({' | '.join(map(self._literal, either))})"

    def _literal(self, text: str) -> str:
        """The text as grammar literals, with special tokens for their texts and a pattern for call ids."""
        ids = self._format.syntax.ids
        parts = (
            literals(split_at_special_tokens(part, self._special), self._special) for part in without_ids(text, ids)
        )
        return f" /{ids.pattern}/ ".join(parts) if ids else next(parts)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with `additionalProperties: false`, unless it has keywords about additional properties itself."""
    others = set(schema.get("required", ())) - (schema.get("properties") or {}).keys()
    return schema if others or _ABOUT_ADDITIONAL & schema.keys() else {**schema, "additionalProperties": False}


_ABOUT_ADDITIONAL = {"additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames"}
_ABOUT_ADDITIONAL |= {"$ref", "allOf", "anyOf", "oneOf", "if"}
