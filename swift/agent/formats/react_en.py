"""ReAct in English (arXiv 2210.03629): Thought / Action / Action Input / Observation / Final Answer in one turn."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence

from swift.agent import STOCK_SYSTEM, Syntax
from swift.agent.jsontext import is_json
from swift.chat import Tool, ToolCall

syntax = Syntax(stop=("Observation:",), call=("Action:",), results="inline", thought="Thought:", answer="Final Answer:")

_HEADER = "Answer the following questions as best you can. You have access to the following tools:"
_TOOL = (
    "{name}: Call this tool to interact with the {label} API. What is the {label} API useful for? {description} "
    "Parameters: {parameters} Format the arguments as a JSON object."
)
_FORMAT = """Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!
"""

_CALL = re.compile(
    r"^[ \t]*Action:[ \t]*(?P<name>[^\n]*?)[ \t]*\n+[ \t]*Action Input:(?P<arguments>.*?)"
    r"(?P<end>^[ \t]*(?:Observation|Thought|Final Answer|Action):|\Z)",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)


def system(tools: Sequence[Tool], text: str) -> str:
    return write_system(tools, text, _HEADER, _TOOL, _FORMAT)


def write_system(tools: Sequence[Tool], text: str, header: str, tool: str, usage: str) -> str:
    """The layout of all languages: the user's system prompt, the header, a paragraph per tool, the format."""
    offered = [
        tool.format(
            name=each.name,
            label=each.label,
            description=each.description,
            parameters=json.dumps(each.parameters, ensure_ascii=False),
        )
        for each in tools
    ]
    own = [text] if text and text != STOCK_SYSTEM else []
    names = ",".join(each.name for each in tools)
    return "\n\n".join([*own, header, *offered, usage.format(names=names)])


def call(content: str, calls: Sequence[ToolCall]) -> str:
    if not calls:
        return content
    said = f"{content}\n" if content and not content.endswith("\n") else content
    asked = "".join(f"Action: {each.name}\nAction Input: {each.arguments}\n" for each in calls)
    return f"{said}{asked}Observation:"


def result(texts: Sequence[str]) -> str:
    return "Observation:".join(text if text.endswith("\n") else f"{text}\n" for text in texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """Pairs each `Action:` with the next `Action Input:`, case-insensitively."""
    calls: list[ToolCall] = []
    start: int | None = None
    position = 0
    while match := _CALL.search(text, position):
        # The keyword after this call may begin the next one.
        position = match.start("end") if match["end"] else len(text)
        arguments = match["arguments"].strip()
        if match["name"] and (match["end"] or _whole(arguments)):
            start = match.start() if start is None else start
            calls.append(ToolCall(match["name"], arguments))
        if not match["end"]:
            break
    if start is None:
        return text, ()
    return text[:start].removesuffix("\n"), tuple(calls)


def _whole(arguments: str) -> bool:
    """Whether arguments at the end of a text are complete: JSON, or a Python literal."""
    if is_json(arguments):
        return True
    try:
        ast.literal_eval(arguments)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True
