"""The format of FunctionGemma: `gemma4` with other special tokens; the stop string is <start_function_response>."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent.braces import Braces
from swift.agent.listed import offer
from swift.chat import Tool, ToolCall

_BRACES = Braces(
    begin="<start_function_call>",
    end="<end_function_call>",
    result_begin="<start_function_response>",
    result_end="<end_function_response>",
    quote="<escape>",
)
syntax = _BRACES.syntax


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    return _BRACES.call(content, calls)


def result(texts: Sequence[str]) -> str:
    return _BRACES.result(texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    return _BRACES.parse(text)
