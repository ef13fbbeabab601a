"""The Hermes format, also of Qwen2.5 and Qwen3: JSON calls between <tool_call> tags, results as a user turn."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from swift.agent import Syntax
from swift.agent.jsontext import is_json, loads, slice_value
from swift.chat import Tool, ToolCall

syntax = Syntax(stop=(), call=("<tool_call>",), results="turn")

_SYSTEM = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def system(tools: Sequence[Tool], text: str) -> str:
    offered = _SYSTEM.format(tools="\n".join(json.dumps(each.wrapped, ensure_ascii=False) for each in tools))
    return f"{text}\n\n{offered}" if text else offered


def call(content: str, calls: Sequence[ToolCall]) -> str:
    asked = [f"<tool_call>\n{_object(each)}\n</tool_call>" for each in calls]
    return "\n".join([content, *asked] if content else asked)


def result(texts: Sequence[str]) -> str:
    return "\n".join(f"<tool_response>\n{text}\n</tool_response>" for text in texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    found = [(match, _call(match[1])) for match in _CALL.finditer(text)]
    whole = [(match, each) for match, each in found if each is not None]
    if not whole:
        return text, ()
    return text[: whole[0][0].start()].removesuffix("\n"), tuple(each for _, each in whole)


def _object(each: ToolCall) -> str:
    # Arguments that are not JSON (in some rows) become a JSON string, so that the object remains valid.
    arguments = each.arguments if is_json(each.arguments) else json.dumps(each.arguments, ensure_ascii=False)
    return f'{{"name": {json.dumps(each.name, ensure_ascii=False)}, "arguments": {arguments}}}'


def _call(text: str) -> ToolCall | None:
    try:
        value = loads(text)
        arguments = slice_value(text, ("arguments", "parameters"))
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    given = value.get("arguments", value.get("parameters", {}))
    return ToolCall(value["name"], given if isinstance(given, str) else arguments or "{}")
