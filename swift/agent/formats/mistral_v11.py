"""The format of Mistral v11: [TOOL_CALLS] name [CALL_ID] id [ARGS] arguments, repeated for each call."""

from __future__ import annotations

import re
from collections.abc import Sequence

from swift.agent import CallIds, Syntax
from swift.agent.formats.mistral_ids import ID, identity, known, result
from swift.agent.jsontext import raw_decode
from swift.agent.listed import offer, write_value
from swift.chat import Tool, ToolCall

__all__ = ["call", "parse", "result", "syntax", "system"]

syntax = Syntax(
    stop=(),
    call=("[TOOL_CALLS]",),
    results="raw",
    special=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    ids=CallIds("[CALL_ID]", ID),
)

_CALL = re.compile(r"\s*\[TOOL_CALLS\]\s*(?P<name>[^\[\]{}\s]+)\s*(?:\[CALL_ID\]\s*(?P<id>\w+)\s*)?\[ARGS\]\s*")


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    asked = (f"[TOOL_CALLS]{each.name}[CALL_ID]{identity(each)}[ARGS]{write_value(each)}" for each in calls)
    return content + "".join(asked)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """Parses consecutive calls, with or without ids."""
    start = position = max(text.find("[TOOL_CALLS]"), 0)
    calls: list[ToolCall] = []
    while found := _CALL.match(text, position):
        try:
            value, position = raw_decode(text, found.end())
        except ValueError:
            break
        arguments = value if isinstance(value, str) else text[found.end() : position]
        calls.append(ToolCall(found["name"], arguments, known(found["id"] or "")))
    return (text[:start], tuple(calls)) if calls else (text, ())
