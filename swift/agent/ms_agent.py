"""The layout of the rows of ms-agent: tools as text in the system prompt, ReAct text as replies, as in the tutorial.

It differs in its words from the format `react_en`, which a server writes for tools that are passed as values. Knows no
values and no questions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from swift.agent import schemas
from swift.chat import Tool, ToolCall

DONE, NO_TOOL = "I now know the final answer", "I do not need a tool."
"""The last thought of a round with calls, and the only one of a round without."""


def system_text(tools: Sequence[Tool]) -> str:
    """The system prompt that describes tools and the format of calls."""
    listed = "\n\n".join(f"{number}. {_described(tool)}" for number, tool in enumerate(tools, 1))
    return (
        "Answer the following questions as best you can. You have access to the following APIs:\n"
        f"{listed}\n\nUse the following format:\n\n"
        "Thought: you should always think about what to do\n"
        f"Action: the action to take, should be one of the above tools[{', '.join(tool.name for tool in tools)}]\n"
        "Action Input: the input to the action\n"
        "Observation: the result of the action\n"
        "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
        "Thought: I now know the final answer\n"
        "Final Answer: the final answer to the original input question\n"
        "Begin!"
    )


def step(thought: str, call: ToolCall, observation: str) -> str:
    """A thought, its call and the result. `observation` begins with the white space that follows the colon."""
    return f"{thought_text(thought)}Action: {call.name}\nAction Input: {call.arguments}\nObservation:{observation}\n"


def ending(answer: str, called: bool) -> str:
    """The last thought and the answer of a round. `called`: whether a call came before."""
    return f"{thought_text(DONE if called else NO_TOOL)}Final Answer: {answer}"


def thought_text(thought: str) -> str:
    """A thought as the line before what it leads to."""
    return f"Thought: {thought}\n"


def _described(tool: Tool) -> str:
    title = re.sub(r"(?<=[a-z])(?=[A-Z])|[_.]", " ", tool.name).lower()
    schema = schemas.argument_schema(tool)
    parameters = [
        {"name": name, "description": about.get("description", ""), "required": str(name in schema.get("required", ()))}
        for name, about in schema.get("properties", {}).items()
    ]
    listed = json.dumps(parameters, ensure_ascii=False)
    return f"{tool.name}: Call this tool to interact with the {title} API. {tool.description} Parameters: {listed}"
