"""The tools that a row offers and the calls in its messages. Knows no turn of a dialogue."""

from __future__ import annotations

import json
from typing import Any

from swift.chat import Tool, ToolCall
from swift.data.fields import BadRow, Row, first, kind, optional, parsed, parsed_field

TOOLS_KEYS = ("tools", "functions")


def read_tools(row: Row) -> tuple[Tool, ...]:
    key = first(row, TOOLS_KEYS)
    specs = row[key] if key is not None else None
    if isinstance(specs, str) and specs.strip():
        specs = parsed_field(specs, key or "tools", "bad-tools")
    if not specs or isinstance(specs, str):
        return ()
    if not isinstance(specs, list):
        raise BadRow("bad-tools", f"{key!r} must be a list, this is {kind(specs)}")
    found = []
    for number, spec in enumerate(specs, 1):
        value = parsed_field(spec, f"tool {number}", "bad-tools") if isinstance(spec, str) else spec
        if not isinstance(value, dict):
            raise BadRow("bad-tools", f"tool {number} must be an object, this is {kind(value)}")
        tool = Tool(value)
        if not tool.name:
            raise BadRow("bad-tools", f"tool {number} has no name")
        found.append(tool)
    return tuple(found)


def read_calls(value: Any, number: int) -> tuple[ToolCall, ...]:
    """One call or a list of them, as objects or as text; text keeps the arguments as they are written."""
    if isinstance(value, str):
        try:
            calls = _written_calls(value)
        except (ValueError, RecursionError) as error:
            raise BadRow("bad-call", f"message {number}: the call is {error}") from None
    else:
        calls = value if isinstance(value, list) else [value]
    if not calls:
        raise BadRow("bad-call", f"message {number} holds no call")
    return tuple(_call(call, number) for call in calls)


def _call(call: Any, number: int) -> ToolCall:
    inner = call.get("function") if isinstance(call, dict) and isinstance(call.get("function"), dict) else call
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
        raise BadRow("bad-call", f"message {number}: a call must be an object with a name")
    arguments = inner.get("arguments")
    if arguments is None:
        arguments = inner.get("parameters", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(inner["name"], arguments if arguments.strip() else "{}", optional(call.get("id"), "id"))


def _written_calls(text: str) -> list[Any]:
    """The calls in a text, arguments that are JSON objects replaced by their own text, byte for byte."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = parsed(text)  # a Python literal: it has no JSON text to keep
        return value if isinstance(value, list) else [value]
    calls = value if isinstance(value, list) else [value]
    at, found = 0, []
    for call in calls:
        if not isinstance(call, dict):
            raise ValueError(f"{kind(call)}, not an object")
        spans, at = _spans(text, text.index("{", at))
        key = "parameters" if call.get("arguments") is None else "arguments"
        found.append(call | {key: text[slice(*spans[key])]} if isinstance(call.get(key), dict) else call)
    return found


_decode = json.JSONDecoder().raw_decode


def _spans(text: str, at: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Where each member's value stands in the valid JSON object that opens at `at`, and where the object ends."""
    spans = {}
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = _decode(text, at)
        start = _skip(text, at)
        _, at = _decode(text, start)
        spans[key] = (start, at)
        at = _skip(text, at)
    return spans, at + 1


def _skip(text: str, at: int) -> int:
    """Past blanks and separators between the parts of valid JSON, up to the next key or value."""
    while text[at] in " \t\r\n,:":
        at += 1
    return at
