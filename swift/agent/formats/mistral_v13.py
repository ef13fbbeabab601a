"""The format of Mistral v13: `mistral_v11` without ids."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent.formats.mistral_v11 import parse, result
from swift.agent.formats.mistral_v11 import syntax as with_ids
from swift.agent.listed import offer, write_value
from swift.chat import Tool, ToolCall

__all__ = ["call", "parse", "result", "syntax", "system"]

syntax = with_ids._replace(ids=None)


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    return content + "".join(f"[TOOL_CALLS]{each.name}[ARGS]{write_value(each)}" for each in calls)
