"""The format of Muse: a message to the tool, with an XML-like tag for the call and for each parameter."""

from __future__ import annotations

import re
from collections.abc import Sequence

from swift.agent import ArgumentTags, Syntax
from swift.agent.listed import offer
from swift.agent.tagged import read_calls, write_arguments
from swift.chat import Tool, ToolCall

_START, _MESSAGE, _MORE, _END = "<|start|>", "<|message|>", "<|eom|>", "<|eot|>"
_TAGS = ArgumentTags('<atem:parameter name="', '">', "</atem:parameter>\n", ("</atem:parameter>", "</atem:invoke>"))
syntax = Syntax(
    stop=(), call=("to=",), results="turn", special=(_START, _MESSAGE, _MORE, _END), tags=_TAGS, opens_line=True
)

_CALL = re.compile(
    r"(?:\A|\n|<\|start\|>assistant)[ \t]*to=[^\s<]+<\|message\|>\s*<atem:function_calls>\s*"
    r'<atem:invoke name="([^"\n]+)">\n?(.*?)</atem:invoke>\s*</atem:function_calls>',
    re.DOTALL,
)
_PARAMETER = re.compile(r'<atem:parameter name="([^"\n]+)">(.*?)</atem:parameter>', re.DOTALL)


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    asked = f"{_MORE}{_START}assistant".join(map(_written, calls))
    return f"{content}\n{asked}" if content and asked else content + asked


def result(texts: Sequence[str]) -> str:
    return "\n".join(f"<tool_output>\n{text}\n</tool_output>" for text in texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    return read_calls(text, _CALL, _PARAMETER, tools)


def _written(each: ToolCall) -> str:
    invoke = f'<atem:invoke name="{each.name}">\n{write_arguments(each.arguments, _TAGS)}</atem:invoke>'
    return f" to={each.name}{_MESSAGE}<atem:function_calls>\n{invoke}\n</atem:function_calls>"
