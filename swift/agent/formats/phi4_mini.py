"""The format of Phi-4-mini: `functools` and a JSON list of calls; also parses <|tool_call|> with the same list."""

from __future__ import annotations

import re
from collections.abc import Sequence

from swift.agent import Syntax
from swift.agent.listed import offer, read_list, read_object, write_objects
from swift.chat import Tool, ToolCall

syntax = Syntax(
    stop=(), call=("functools[", "<|tool_call|>"), results="turn", special=("<|tool_call|>", "<|/tool_call|>")
)

_OPENING = re.compile(r"functools(?=\s*\[)|<\|tool_call\|>\s*")


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    return f"{content}functools[{write_objects(calls)}]" if calls else content


def result(texts: Sequence[str]) -> str:
    return "\n".join(texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """Parses the calls after the first opening text that a list or an object follows."""
    for mark in _OPENING.finditer(text):
        if found := read_list(text, mark.end()) or read_object(text, mark.end()):
            return text[: mark.start()], found.calls
    return text, ()
