"""FunctionGemma's form: `gemma4`'s in other marks, <start_function_response> where the environment speaks."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent import Marks
from swift.agent.braces import read_calls, tags
from swift.agent.listed import offer
from swift.agent.tagged import write_arguments
from swift.chat import Tool, ToolCall

_BEGIN, _END, _QUOTE = "<start_function_call>", "<end_function_call>", "<escape>"
_RESULT, _RESULT_END = "<start_function_response>", "<end_function_response>"
_TAGS = tags(_QUOTE)
marks = Marks(
    stop=(_RESULT,),
    call=(_BEGIN,),
    results="turn",
    special=(_BEGIN, _END, _RESULT, _RESULT_END, _QUOTE),
    tags=_TAGS,
)


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    if not calls:
        return content
    asked = [f"{_BEGIN}call:{each.name}{{{write_arguments(each.arguments, _TAGS)}}}{_END}" for each in calls]
    return content + "".join(asked) + _RESULT


def result(texts: Sequence[str]) -> str:
    return "".join(f"{_RESULT}response:tool{{value:{_QUOTE}{text}{_QUOTE}}}{_RESULT_END}" for text in texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    return read_calls(text, _BEGIN, _END, _RESULT, _QUOTE)
