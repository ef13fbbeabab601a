"""Reads the tools of a row and the calls in its messages. Knows no turn of a dialogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from swift.agent.jsontext import can_dump, loads, raw_decode
from swift.chat import Tool, ToolCall
from swift.data.row_values import BadRow, Row, first, json_text, kind, optional, parsed, parsed_field, rule_of

TOOLS_KEYS = ("tools", "functions")
CALL_KEYS = frozenset({"id", "type", "index", "function", "name", "arguments", "parameters"})
"""Keys of calls that are read, or that carry no information."""


def read_tools(row: Row) -> tuple[Tool, ...]:
    """The tools of a row: a list of objects or of their JSON texts, or the JSON text of a list."""
    key = first(row, TOOLS_KEYS)
    specs = row[key] if key is not None else None
    if isinstance(specs, str) and specs.strip():
        specs = parsed_field(specs, key or "tools", "bad-tools")
    if not specs or isinstance(specs, str):
        return ()
    if not isinstance(specs, list):
        raise BadRow("bad-tools", f"{key!r} must be a list, not {kind(specs)}")
    return tuple(_tool(spec, f"tool {number}") for number, spec in enumerate(specs, 1))


def _tool(spec: Any, where: str) -> Tool:
    value = parsed_field(spec, where, "bad-tools") if isinstance(spec, str) else spec
    if not isinstance(value, dict):
        raise BadRow("bad-tools", f"{where} must be an object, not {kind(value)}")
    value = _parsed_part(_parsed_part(value, "function", where), "parameters", where)
    if isinstance(value.get("function"), dict):
        value = value | {"function": _parsed_part(value["function"], "parameters", where)}
    if not can_dump(value):
        json_text(value, where, "bad-tools")
    tool = Tool(value)
    if not tool.name:
        raise BadRow("bad-tools", f"{where} has no name")
    return tool


def _parsed_part(spec: Row, key: str, where: str) -> Row:
    """The tool with the JSON text under `key` parsed: tables store parts that differ between tools as text."""
    text = spec.get(key)
    if not isinstance(text, str) or not text.lstrip().startswith(("{", "[")):
        return spec
    return spec | {key: parsed_field(text, f"{key!r} of {where}", "bad-tools")}


def read_calls(value: Any, number: int) -> tuple[ToolCall, ...]:
    """One call or a list of calls, as objects or as text. Arguments in a text are kept byte for byte. Raises BadRow.

    `number` is the number of the message.
    """
    calls = _listed(value, number)
    return tuple(_call(call, number) for call in calls)


def _listed(value: Any, number: int) -> list[Any]:
    if isinstance(value, str):
        try:
            calls = _written_calls(value)
        except ValueError as error:
            raise BadRow(rule_of(error, "bad-call"), f"message {number}: the call is {error}") from None
    else:
        calls = value if isinstance(value, list) else [value]
    return [call for each in calls for call in (_listed(each, number) if isinstance(each, str) else [each])]


def _call(call: Any, number: int) -> ToolCall:
    inner = call.get("function") if isinstance(call, dict) and isinstance(call.get("function"), dict) else call
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
        raise BadRow("bad-call", f"message {number}: a call must be an object with a name")
    arguments = inner.get("arguments")
    if arguments is None:
        arguments = inner.get("parameters", {})
    if not isinstance(arguments, str):
        arguments = json_text(arguments, f"message {number}, {inner['name']}: arguments", "bad-arguments")
    return ToolCall(inner["name"], arguments if arguments.strip() else "{}", optional(call.get("id"), "id"))


def unused_call_keys(value: Any) -> Iterator[str]:
    """The ignored keys of calls."""
    for call in value if isinstance(value, list) else [value]:
        if isinstance(call, dict):
            inner = call.get("function")
            for part in (call, inner) if isinstance(inner, dict) else (call,):
                yield from part.keys() - CALL_KEYS


def _written_calls(text: str) -> list[Any]:
    """The calls in a text; arguments that are JSON objects are replaced by their text, byte for byte."""
    if not text.strip():
        return []
    try:
        value = loads(text, once=True)
    except ValueError:
        value = parsed(text)  # a Python literal has no JSON text to keep
        return value if isinstance(value, list) else [] if value is None else [value]
    if value is None:
        return []
    calls = value if isinstance(value, list) else [value]
    found: list[Any] = []
    at = text.index("[") + 1 if isinstance(value, list) else 0
    for call in calls:
        at = _skip(text, at)
        if isinstance(call, str):  # a call as JSON text
            found.append(call)
            _, at = raw_decode(text, at)
            continue
        if not isinstance(call, dict):
            raise ValueError(f"{kind(call)}, not an object")
        spans, at = _spans(text, at)
        key = "parameters" if call.get("arguments") is None else "arguments"
        found.append(call | {key: text[slice(*spans[key])]} if isinstance(call.get(key), dict) else call)
    return found


def _spans(text: str, at: int) -> tuple[dict[str, tuple[int, int]], int]:
    """The span of each member's value in the valid JSON object that starts at `at`, and the object's end."""
    spans = {}
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = raw_decode(text, at)
        start = _skip(text, at)
        _, at = raw_decode(text, start)
        spans[key] = (start, at)
        at = _skip(text, at)
    return spans, at + 1


def _skip(text: str, at: int) -> int:
    """The start of the next key or value of valid JSON: skips white space and separators."""
    while text[at] in " \t\r\n,:":
        at += 1
    return at
