"""The format of Qwen3.6 and 3.8: `qwen3_5` with the constants of JSON."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent import Notation
from swift.agent.formats.qwen3_5 import parse, result, system
from swift.agent.formats.qwen3_coder import TAGS, write
from swift.agent.formats.qwen3_coder import syntax as coder_marks
from swift.chat import ToolCall

__all__ = ["call", "parse", "result", "syntax", "system"]

_TAGS = TAGS._replace(notation=Notation())
syntax = coder_marks._replace(tags=_TAGS)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    return write(content, calls, _TAGS)
