"""The format of gpt-oss: a call is a message to `functions.NAME`, in the commentary channel, that ends in <|call|>.

Other channels before a call are what is said: they stay in the content as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from swift.agent import Syntax
from swift.agent.jsontext import raw_decode
from swift.agent.listed import offer
from swift.chat import Tool, ToolCall

_START, _CHANNEL, _MESSAGE, _CALL, _END = "<|start|>", "<|channel|>", "<|message|>", "<|call|>", "<|end|>"
_TO = " to=functions."

syntax = Syntax(
    stop=(_CALL,),
    call=(_TO.lstrip(), f"{_CHANNEL}commentary{_TO}", f"{_CHANNEL}analysis{_TO}"),
    results="raw",
    special=(_START, _CHANNEL, _MESSAGE, _CALL, _END, "<|constrain|>"),
    opening=r"(?:<\|call\|><\|start\|>assistant)?\s*(?:<\|channel\|>\w+ )?\bto=functions\.(?P<name>[^\s<]+)\s*"
    r"(?:<\|channel\|>\w+)?\s*(?:<\|constrain\|>)?\s*\w*\s*<\|message\|>\s*",
)

_HEADER = re.compile(syntax.opening)


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    asked = f"{_START}assistant".join(
        f"{_TO}{each.name}{_CHANNEL}commentary json{_MESSAGE}{each.arguments}{_CALL}" for each in calls
    )
    return content + asked


def result(texts: Sequence[str]) -> str:
    """Ends where the assistant continues."""
    told = "".join(f"{_START}functions to=assistant{_CHANNEL}commentary{_MESSAGE}{text}{_END}" for text in texts)
    return f"{told}{_START}assistant"


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """Calls whose JSON is complete: <|call|> may be cut off as a stop token."""
    calls: list[ToolCall] = []
    content, at = text, 0
    while header := _HEADER.search(text, at):
        at = header.end()
        try:
            value, end = raw_decode(text, at)
        except ValueError:
            continue
        if isinstance(value, dict):
            content = content if calls else text[: header.start()]
            calls.append(ToolCall(header["name"], text[at:end]))
            at = end
    return content, tuple(calls)
