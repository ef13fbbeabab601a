"""The format of Hunyuan A13B: a JSON list of calls between <tool_calls> tags, results in tags within a turn."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent import Syntax
from swift.agent.listed import offer, read_list, write_objects
from swift.chat import Tool, ToolCall

syntax = Syntax(stop=(), call=("<tool_calls>",), results="turn")


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    return f"{content}<tool_calls>[{write_objects(calls)}]</tool_calls>" if calls else content


def result(texts: Sequence[str]) -> str:
    return "\n".join(f"<tool_response>{text}</tool_response>" for text in texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    content, _, rest = text.partition("<tool_calls>")
    found = read_list(rest)
    return (content, found.calls) if found else (text, ())
