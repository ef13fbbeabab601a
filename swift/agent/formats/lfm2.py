"""The format of LFM2 and 2.5: a list of Python calls between special tokens; results as the plain text of a turn."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent import Syntax, listed, pythonic
from swift.agent.listed import offer
from swift.chat import Tool, ToolCall

_BEGIN, _END = "<|tool_call_start|>", "<|tool_call_end|>"
syntax = Syntax(stop=(), call=(_BEGIN,), results="turn", special=(_BEGIN, _END), tags=pythonic.TAGS)


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    return f"{content}{_BEGIN}[{', '.join(map(pythonic.write_call, calls))}]{_END}" if calls else content


def result(texts: Sequence[str]) -> str:
    return "\n".join(texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """Text after the calls is content too. Also parses JSON objects, which the model can be prompted to write."""
    content, mark, rest = text.partition(_BEGIN)
    found = pythonic.read_list(rest, 0) or listed.read_list(rest, 0)
    return (content + rest[found.end :].removeprefix(_END), found.calls) if mark and found else (text, ())
