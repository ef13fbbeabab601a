"""The format of Mistral: [AVAILABLE_TOOLS], [TOOL_CALLS] with a JSON list, and [TOOL_RESULTS] between turns."""

from __future__ import annotations

import json
from collections.abc import Sequence

from swift.agent import Syntax
from swift.agent.jsontext import is_json, raw_decode, slice_value
from swift.chat import Tool, ToolCall

syntax = Syntax(
    stop=(),
    call=("[TOOL_CALLS]",),
    results="raw",
    special=(
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_CALLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ),
)


def system(tools: Sequence[Tool], text: str) -> str:
    offered = " ".join(json.dumps(each.wrapped, ensure_ascii=False) for each in tools)
    return f"{text}[AVAILABLE_TOOLS]{offered}[/AVAILABLE_TOOLS]"


def call(content: str, calls: Sequence[ToolCall]) -> str:
    if not calls:
        return content
    asked = [f'{{"name": {json.dumps(each.name, ensure_ascii=False)}, "arguments": {_value(each)}}}' for each in calls]
    return f"{content}[TOOL_CALLS][\n" + ",\n".join(asked) + "\n]"


def result(texts: Sequence[str]) -> str:
    return "".join(f'[TOOL_RESULTS]{{"content": {text}}}[/TOOL_RESULTS]' for text in texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """Parses the objects after [TOOL_CALLS], with or without commas; an unclosed list is not a call."""
    content, mark, listed = text.partition("[TOOL_CALLS]")
    opening, closing = listed.find("["), listed.rfind("]")
    if not mark or opening < 0 or closing < 0:
        return text, ()
    calls: list[ToolCall] = []
    body = listed[opening + 1 : closing].strip()
    while body:
        try:
            value, end = raw_decode(body)
        except ValueError:
            return text, ()
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return text, ()
        given = value.get("arguments", {})
        calls.append(
            ToolCall(
                value["name"], given if isinstance(given, str) else slice_value(body[:end], ("arguments",)) or "{}"
            )
        )
        body = body[end:].lstrip(", \n")
    return (content, tuple(calls)) if calls else (text, ())


def _value(each: ToolCall) -> str:
    return each.arguments if is_json(each.arguments) else json.dumps(each.arguments, ensure_ascii=False)
