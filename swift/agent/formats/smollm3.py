"""The format of SmolLM3's `xml_tools`: Hermes calls, results as the plain text of a user turn."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent.formats.hermes import call, parse, syntax
from swift.agent.listed import offer
from swift.chat import Tool

__all__ = ["call", "parse", "result", "syntax", "system"]


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def result(texts: Sequence[str]) -> str:
    return "\n".join(texts)
