"""The format of Llama 4: a list of Python calls on its own line, with or without <|python_start|> tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

from swift.agent import Syntax
from swift.agent.listed import offer
from swift.agent.pythonic import TAGS, read_list, write_call
from swift.chat import Tool, ToolCall

_BEGIN, _END = "<|python_start|>", "<|python_end|>"
syntax = Syntax(stop=(), call=("[", _BEGIN), results="turn", special=(_BEGIN, _END), tags=TAGS, opens_line=True)

_LIST = re.compile(rf"^[ \t]*(?:{re.escape(_BEGIN)})?(?=\[)", re.MULTILINE)
_REST = re.compile(rf"(?:{re.escape(_END)})?\s*")


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    asked = f"[{', '.join(map(write_call, calls))}]" if calls else ""
    return "\n".join(filter(None, [content, asked]))


def result(texts: Sequence[str]) -> str:
    return "\n".join(texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """A list is calls if it begins a line and nothing follows it."""
    for opening in _LIST.finditer(text):
        found = read_list(text, opening.end())
        if found and _REST.fullmatch(text, found.end):
            return text[: opening.start()].rstrip(), found.calls
    return text, ()
