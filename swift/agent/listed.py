"""Calls as objects in a JSON list, and a generic system prompt. Knows no format's syntax."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from swift.agent.jsontext import is_json, raw_decode, slice_value
from swift.chat import Tool, ToolCall

CallWriter = Callable[[str, Sequence[ToolCall]], str]
"""The `call` of a format."""


def offer(tools: Sequence[Tool], text: str, call: CallWriter) -> str:
    """A system prompt: the user's, the tools as JSON, and an example of a call."""
    described = "\n".join(json.dumps(each.wrapped, ensure_ascii=False) for each in tools)
    example = call("", [ToolCall("TOOL", '{"ARGUMENT": "VALUE"}')])
    own = f"{text}\n\n" if text else ""
    return f"{own}# Tools\n\nThese tools can be called:\n{described}\n\nA call is written:\n{example}"


def write_objects(calls: Sequence[ToolCall], more: Callable[[ToolCall], str] = lambda each: "") -> str:
    """`{"name": ..., "arguments": ...}` per call, separated by commas. `more`: further members of an object."""
    return ", ".join(
        f'{{"name": {json.dumps(each.name, ensure_ascii=False)}, "arguments": {write_value(each)}{more(each)}}}'
        for each in calls
    )


def write_value(each: ToolCall) -> str:
    """The arguments as JSON; invalid JSON as a JSON string."""
    return each.arguments if is_json(each.arguments) else json.dumps(each.arguments, ensure_ascii=False)


class Listed(NamedTuple):
    """Calls, and the end of their text."""

    calls: tuple[ToolCall, ...]
    end: int


_OPENING, _NEXT = re.compile(r"\s*\[\s*"), re.compile(r"\s*([,\]])\s*")


def read_list(text: str, at: int = 0) -> Listed | None:
    """The list of calls at `at`; None if there is none or it is incomplete."""
    found = _OPENING.match(text, at)
    calls: list[ToolCall] = []
    while found:
        call = read_object(text, found.end())
        found = call and _NEXT.match(text, call.end)
        if not call or not found:
            return None
        calls += call.calls
        if found[1] == "]":
            return Listed(tuple(calls), found.end(1))
    return None


def read_object(text: str, at: int = 0) -> Listed | None:
    """The call in the JSON object at `at`; None if there is none."""
    try:
        value, end = raw_decode(text, at)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    given = value.get("arguments", value.get("parameters", {}))
    arguments = given if isinstance(given, str) else slice_value(text[at:end], ("arguments", "parameters")) or "{}"
    number = value.get("id")
    return Listed((ToolCall(value["name"], arguments, number if isinstance(number, str) else ""),), end)
