"""The format of DeepSeek V3 and R1: JSON in a code block, between special tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from swift.agent import Syntax
from swift.chat import Tool, ToolCall

_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL_BEGIN, _SEP, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_OUTS_BEGIN, _OUTS_END = "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"
_OUT_BEGIN, _OUT_END = "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"

syntax = Syntax(
    stop=(),
    call=(_BEGIN,),
    results="raw",
    special=(_BEGIN, _END, _CALL_BEGIN, _SEP, _CALL_END, _OUTS_BEGIN, _OUTS_END, _OUT_BEGIN, _OUT_END),
)

_CALL = re.compile(f"{_CALL_BEGIN}[^<]*{_SEP}([^\n]+)\n```(?:json)?\n(.*?)\n```\\s*{_CALL_END}", re.DOTALL)


def system(tools: Sequence[Tool], text: str) -> str:
    listed = "".join(
        f"- `{each.name}`:\n```json\n{json.dumps(each.function, ensure_ascii=False)}\n```\n" for each in tools
    )
    own = f"{text}\n\n" if text else ""
    return f"{own}## Tools\n\n### Function\n\nYou have the following functions available:\n\n{listed}"


def call(content: str, calls: Sequence[ToolCall]) -> str:
    if not calls:
        return content
    asked = [f"{_CALL_BEGIN}function{_SEP}{each.name}\n```json\n{each.arguments}\n```{_CALL_END}" for each in calls]
    return content + _BEGIN + "\n".join(asked) + _END


def result(texts: Sequence[str]) -> str:
    return _OUTS_BEGIN + "".join(f"{_OUT_BEGIN}{text}{_OUT_END}" for text in texts) + _OUTS_END


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """Requires only the end token of the last call: R1's template omits the token that ends all calls."""
    content, mark, listed = text.partition(_BEGIN)
    calls = tuple(ToolCall(match[1].strip(), match[2].strip()) for match in _CALL.finditer(listed))
    return (content, calls) if mark and calls else (text, ())
