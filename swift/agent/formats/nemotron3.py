"""The format of Nemotron 3: `qwen3_coder` calls, each followed by a line break."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent.formats.qwen3_coder import TAGS, parse, result, syntax, write_call
from swift.agent.listed import offer
from swift.chat import Tool, ToolCall

__all__ = ["call", "parse", "result", "syntax", "system"]


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    if not calls:
        return content
    asked = "".join(f"{write_call(each, TAGS)}\n" for each in calls)
    return f"{content}\n{asked}" if content else asked
