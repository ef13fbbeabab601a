"""The format of Kimi K2: calls between special tokens, named by an id `functions.NAME:NUMBER`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from swift.agent import CallIds, Syntax
from swift.agent.listed import offer
from swift.chat import Tool, ToolCall

_BEGIN, _END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL_BEGIN, _ARGUMENTS, _CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"

syntax = Syntax(
    stop=(),
    call=(_BEGIN,),
    results="turn",
    special=(_BEGIN, _END, _CALL_BEGIN, _ARGUMENTS, _CALL_END),
    ids=CallIds(":", "[0-9]+"),
)

_ID = re.compile(r"(?:functions\.)?(?P<name>\S+):(?P<number>\d+)")
_CALL = re.compile("(.*?)".join(map(re.escape, (_CALL_BEGIN, _ARGUMENTS, _CALL_END))), re.DOTALL)


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    asked = "".join(f"{_CALL_BEGIN}{_identity(each)}{_ARGUMENTS}{each.arguments}{_CALL_END}" for each in calls)
    return f"{content}{_BEGIN}{asked}{_END}" if calls else content


def result(texts: Sequence[str]) -> str:
    return "\n".join(texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """A call needs an id with a name. The number 0 means that the call had no id."""
    content, _, section = text.partition(_BEGIN)
    named = ((_ID.fullmatch(match[1].strip()), match[2].strip()) for match in _CALL.finditer(section))
    calls = tuple(
        ToolCall(found["name"], arguments, found[0] if int(found["number"]) else "")
        for found, arguments in named
        if found
    )
    return (content, calls) if calls else (text, ())


def _identity(each: ToolCall) -> str:
    """The call's id if it contains the call's name, as Kimi's ids do."""
    found = _ID.fullmatch(each.id)
    return each.id if found and found["name"] == each.name else f"functions.{each.name}:0"
