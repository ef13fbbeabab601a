"""The format of Gemma 4: a call with its arguments in braces; the stop string is <|tool_response>."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent.braces import Braces
from swift.agent.listed import offer
from swift.chat import Tool, ToolCall

_BRACES = Braces("<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>')
syntax = _BRACES.syntax


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    return _BRACES.call(content, calls)


def result(texts: Sequence[str]) -> str:
    return _BRACES.result(texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    return _BRACES.parse(text)
