"""Qwen's format before Hermes: ✿FUNCTION✿ / ✿ARGS✿ / ✿RESULT✿ / ✿RETURN✿, all in one turn."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from swift.agent import Syntax
from swift.agent.result_marks import in_argument_string
from swift.chat import Tool, ToolCall

syntax = Syntax(
    stop=("✿RESULT✿:",), call=("✿FUNCTION✿:",), results="inline", answer="✿RETURN✿:", answer_after_result=True
)

TITLE = "# Tools\n\n## You have access to the following tools:"
TOOL = "### {label}\n\n{name}: {description} Parameters: {parameters} Format the arguments as a JSON object."
_USAGE = """## When you need to call a tool, please insert the following command in your reply, which can be called \
zero or multiple times according to your needs:

✿FUNCTION✿: The tool to use, should be one of [{names}]
✿ARGS✿: The input of the tool
✿RESULT✿: Tool results
✿RETURN✿: Reply based on tool results. Images need to be rendered as ![](url)"""

_CALL = re.compile(r"✿FUNCTION✿:[ \t]*(?P<name>[^\n]*?)[ \t]*\n✿ARGS✿:")
_END = re.compile(r"\n?(?P<keyword>✿(?:RESULT|RETURN|FUNCTION)✿:)")


def system(tools: Sequence[Tool], text: str) -> str:
    return write_system(tools, text, TITLE, TOOL, _USAGE)


def write_system(tools: Sequence[Tool], text: str, title: str, tool: str, usage: str) -> str:
    """The layout of all languages: the user's system prompt, a title, a section per tool, the usage."""
    offered = [
        tool.format(
            label=each.label,
            name=each.name,
            description=each.description,
            parameters=json.dumps(each.parameters, ensure_ascii=False),
        )
        for each in tools
    ]
    names = ",".join(each.name for each in tools)
    return "\n\n".join([*([text] if text else []), title, *offered, usage.replace("{names}", names)])


def call(content: str, calls: Sequence[ToolCall]) -> str:
    if not calls:
        return content
    said = f"{content}\n" if content and not content.endswith("\n") else content
    asked = "".join(f"✿FUNCTION✿: {each.name}\n✿ARGS✿: {each.arguments}\n" for each in calls)
    return f"{said}{asked}✿RESULT✿:"


def result(texts: Sequence[str]) -> str:
    return "✿RESULT✿:".join(text if text.endswith("\n") else f"{text}\n" for text in texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """A call is complete once the next keyword follows its arguments; keywords in their strings do not count."""
    calls: list[ToolCall] = []
    start: int | None = None
    position = 0
    while match := _CALL.search(text, position):
        ends = (
            found.start()
            for found in _END.finditer(text, match.end())
            if in_argument_string(text, found.start("keyword"), syntax.stop[0]) is False
        )
        position = next(ends, -1)
        if position < 0:
            break
        start = match.start() if start is None else start
        calls.append(ToolCall(match["name"], text[match.end() : position].strip()))
    return (text, ()) if start is None else (text[:start].removesuffix("\n"), tuple(calls))
