"""The JSON format of Llama 3.1: {"name", "parameters"} objects, one per line; results under their own header."""

from __future__ import annotations

import json
from collections.abc import Sequence

from swift.agent import Syntax
from swift.agent.jsontext import is_json, raw_decode, slice_value
from swift.chat import Tool, ToolCall

_TOOL_HEADER = "<|start_header_id|>tool<|end_header_id|>\n\n"
_ASSISTANT_HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"

syntax = Syntax(
    stop=(),
    call=('{"name":',),
    results="raw",
    special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)

_SYSTEM = """Given the following functions, please respond with a JSON for a function call with its proper arguments \
that best answers the given prompt.

Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}. \
Do not use variables.

"""


def system(tools: Sequence[Tool], text: str) -> str:
    described = "\n\n".join(json.dumps(each.spec, ensure_ascii=False, indent=4) for each in tools)
    return (f"{text}\n\n" if text else "") + _SYSTEM + described


def call(content: str, calls: Sequence[ToolCall]) -> str:
    asked = [f'{{"name": {json.dumps(each.name, ensure_ascii=False)}, "parameters": {_value(each)}}}' for each in calls]
    return "\n".join([content, *asked] if content else asked)


def result(texts: Sequence[str]) -> str:
    return "".join(f"{_TOOL_HEADER}{text}<|eot_id|>" for text in texts) + _ASSISTANT_HEADER


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """Objects are calls if they begin a line and only objects follow."""
    start = 0 if text.startswith("{") else text.find("\n{") + 1
    if not text.startswith("{", start):
        return text, ()
    calls: list[ToolCall] = []
    position = start
    while position < len(text):
        try:
            value, end = raw_decode(text, position)
        except ValueError:
            return text, ()
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return text, ()
        arguments = value.get("parameters", value.get("arguments", {}))
        raw = slice_value(text[position:end], ("parameters", "arguments"))
        calls.append(ToolCall(value["name"], arguments if isinstance(arguments, str) else raw or "{}"))
        position = end + len(text[end:]) - len(text[end:].lstrip(" \n;"))
    return text[:start].removesuffix("\n"), tuple(calls)


def _value(each: ToolCall) -> str:
    return each.arguments if is_json(each.arguments) else json.dumps(each.arguments, ensure_ascii=False)
