"""The format of DeepSeek V3.1: calls and results between special tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from swift.agent import Syntax
from swift.chat import Tool, ToolCall

_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL_BEGIN, _SEP, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_OUT_BEGIN, _OUT_END = "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"

syntax = Syntax(
    stop=(),
    call=(_BEGIN,),
    results="raw",
    special=(_BEGIN, _END, _CALL_BEGIN, _SEP, _CALL_END, _OUT_BEGIN, _OUT_END),
)

_USAGE = f"""IMPORTANT: ALWAYS adhere to this exact format for tool use:
{_BEGIN}{_CALL_BEGIN}tool_call_name{_SEP}tool_call_arguments{_CALL_END}{{additional_tool_calls}}{_END}

Where:
- `tool_call_name` must be an exact match to one of the available tools
- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema
- For multiple tool calls, chain them directly without separators or spaces"""

_CALL = re.compile(f"{_CALL_BEGIN}(.*?){_SEP}(.*?){_CALL_END}", re.DOTALL)


def system(tools: Sequence[Tool], text: str) -> str:
    described = [
        f"### {each.name}\nDescription: {each.description}\n\n"
        f"Parameters: {json.dumps(each.parameters, ensure_ascii=False)}\n\n"
        for each in tools
    ]
    own = f"{text}\n\n" if text else ""
    return f"{own}## Tools\nYou have access to the following tools:\n\n{''.join(described)}{_USAGE}"


def call(content: str, calls: Sequence[ToolCall]) -> str:
    if not calls:
        return content
    asked = "".join(f"{_CALL_BEGIN}{each.name}{_SEP}{each.arguments}{_CALL_END}" for each in calls)
    return f"{content}{_BEGIN}{asked}{_END}"


def result(texts: Sequence[str]) -> str:
    return "".join(f"{_OUT_BEGIN}{text}{_OUT_END}" for text in texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    content, mark, listed = text.partition(_BEGIN)
    calls = tuple(ToolCall(match[1].strip(), match[2].strip()) for match in _CALL.finditer(listed))
    return (content, calls) if mark and calls else (text, ())
