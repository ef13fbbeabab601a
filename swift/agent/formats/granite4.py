"""The format of Granite 4: Hermes calls, results in tags within a user turn."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent.formats.hermes import call, parse, syntax
from swift.agent.listed import offer
from swift.chat import Tool

__all__ = ["call", "parse", "result", "syntax", "system"]


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def result(texts: Sequence[str]) -> str:
    return "".join(f"\n<tool_response>\n{text}\n</tool_response>" for text in texts)
