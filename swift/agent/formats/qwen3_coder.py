"""The format of Qwen3-Coder: XML-like calls with a tag per parameter; results as a user turn."""

from __future__ import annotations

import re
from collections.abc import Sequence

from swift.agent import PYTHON_WORDS, ArgumentTags, Notation, Syntax
from swift.agent.schemas import argument_schema
from swift.agent.tagged import read_calls, value_schemas, write_arguments
from swift.chat import Tool, ToolCall

TAGS = ArgumentTags(
    before="<parameter=",
    between=">\n",
    after="\n</parameter>\n",
    ends=("</parameter>", "</function>"),
    notation=Notation(PYTHON_WORDS),
)
syntax = Syntax(stop=(), call=("<tool_call>",), results="turn", tags=TAGS)

USAGE = """If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>"""

_CALL = re.compile(r"<tool_call>\s*<function=([^>\n]+)>\n?(.*?)</function>\s*</tool_call>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def system(tools: Sequence[Tool], text: str) -> str:
    described = "\n".join(_describe(each) for each in tools)
    offered = f"# Tools\n\nYou have access to the following functions:\n\n<tools>\n{described}\n</tools>\n\n{USAGE}"
    return f"{text}\n\n{offered}" if text else offered


def call(content: str, calls: Sequence[ToolCall]) -> str:
    return write(content, calls, TAGS)


def result(texts: Sequence[str]) -> str:
    return "\n".join(f"<tool_response>\n{text}\n</tool_response>" for text in texts) + "\n"


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    return read_calls(text, _CALL, _PARAMETER, tools)


def write(content: str, calls: Sequence[ToolCall], tags: ArgumentTags) -> str:
    asked = "\n".join(write_call(each, tags) for each in calls)
    return "\n\n".join(filter(None, [content, asked]))


def write_call(each: ToolCall, tags: ArgumentTags) -> str:
    return f"<tool_call>\n<function={each.name}>\n{write_arguments(each.arguments, tags)}</function>\n</tool_call>"


def _describe(tool: Tool) -> str:
    parameters = "\n".join(
        f"<parameter>\n<name>{name}</name>\n<type>{about.get('type', 'any')}</type>\n"
        f"<description>{about.get('description', '')}</description>\n</parameter>"
        for name, about in value_schemas(argument_schema(tool)).items()
    )
    inside = f"<parameters>\n{parameters}\n</parameters>" if parameters else "<parameters>\n</parameters>"
    return f"<function>\n<name>{tool.name}</name>\n<description>{tool.description}</description>\n{inside}\n</function>"
