"""The format of SmolLM3's `python_tools`: Python calls between <code> and </code>, one per line."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent import Syntax
from swift.agent.listed import offer
from swift.agent.pythonic import TAGS, read_lines, write_call
from swift.chat import Tool, ToolCall

_BEGIN, _END = "<code>", "</code>"
syntax = Syntax(stop=(), call=(_BEGIN,), results="turn", tags=TAGS)


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    asked = "\n".join([_BEGIN, *map(write_call, calls), _END]) if calls else ""
    return "\n".join(filter(None, [content, asked]))


def result(texts: Sequence[str]) -> str:
    return "\n".join(texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """Parses the first code block that consists only of calls."""
    at = text.find(_BEGIN)
    while at >= 0:
        found = read_lines(text, at + len(_BEGIN))
        if found.calls and text.startswith(_END, found.end):
            return text[:at].rstrip(), found.calls
        at = text.find(_BEGIN, at + 1)
    return text, ()
