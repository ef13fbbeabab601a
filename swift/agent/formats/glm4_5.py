"""The format of GLM-4.5: XML-like calls with a key and a value per argument; the stop string is <|observation|>."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from swift.agent import ArgumentTags, Syntax
from swift.agent.tagged import read_calls, write_arguments
from swift.chat import Tool, ToolCall

_TAGS = ArgumentTags("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n", ("</arg_value>", "</tool_call>"))
syntax = Syntax(
    stop=("<|observation|>",),
    call=("<tool_call>",),
    results="inline",
    special=("<|observation|>", "<|assistant|>", "<|system|>"),
    tags=_TAGS,
)

_SYSTEM = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, output the function name and arguments within the following XML format:
<tool_call>{{function-name}}
<arg_key>{{arg-key-1}}</arg_key>
<arg_value>{{arg-value-1}}</arg_value>
<arg_key>{{arg-key-2}}</arg_key>
<arg_value>{{arg-value-2}}</arg_value>
...
</tool_call>"""
_CALL = re.compile(r"<tool_call>([^\n<]+)\n(.*?)</tool_call>", re.DOTALL)
_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\n<arg_value>(.*?)</arg_value>\n", re.DOTALL)


def system(tools: Sequence[Tool], text: str) -> str:
    offered = _SYSTEM.format(tools="\n".join(json.dumps(each.spec, ensure_ascii=False) for each in tools))
    return f"{offered}<|system|>\n{text}" if text else offered


def call(content: str, calls: Sequence[ToolCall]) -> str:
    if not calls:
        return content
    asked = [f"<tool_call>{each.name}\n{write_arguments(each.arguments, _TAGS)}</tool_call>" for each in calls]
    return "\n".join([content, *asked] if content else asked) + "<|observation|>"


def result(texts: Sequence[str]) -> str:
    return "".join(f"\n<tool_response>\n{text}\n</tool_response>" for text in texts) + "<|assistant|>\n"


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    return read_calls(text, _CALL, _ARGUMENT, tools)
