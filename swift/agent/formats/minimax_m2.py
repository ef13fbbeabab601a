"""The format of MiniMax M2: XML-like calls with a parameter tag per argument, results in tags within a turn."""

from __future__ import annotations

import re
from collections.abc import Sequence

from swift.agent import ArgumentTags, Syntax
from swift.agent.listed import offer
from swift.agent.tagged import read_calls, write_arguments
from swift.chat import Tool, ToolCall

_BEGIN, _END = "<minimax:tool_call>", "</minimax:tool_call>"
_TAGS = ArgumentTags('<parameter name="', '">', "</parameter>\n", ("</parameter>", "</invoke>"))
syntax = Syntax(stop=(), call=(_BEGIN,), results="turn", special=(_BEGIN, _END), tags=_TAGS)

_CALL = re.compile(r'<invoke name="?([^">\n]+)"?>\n?(.*?)</invoke>', re.DOTALL)
_PARAMETER = re.compile(r'<parameter name="?([^">\n]+)"?>(.*?)</parameter>', re.DOTALL)


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    if not calls:
        return content
    asked = [f'<invoke name="{each.name}">\n{write_arguments(each.arguments, _TAGS)}</invoke>\n' for each in calls]
    return (f"{content}\n" if content else "") + f"{_BEGIN}\n{''.join(asked)}{_END}"


def result(texts: Sequence[str]) -> str:
    return "\n".join(f"<response>{text}</response>" for text in texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    content, _, section = text.partition(_BEGIN)
    calls = read_calls(section, _CALL, _PARAMETER, tools)[1]
    return (content.removesuffix("\n"), calls) if calls else (text, ())
