"""The format of Mistral v3 to v7: [TOOL_CALLS] and a JSON list of calls with ids of 9 letters or digits."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent import CallIds, Syntax
from swift.agent.listed import offer, read_list, write_objects
from swift.chat import Tool, ToolCall

ID = "[a-zA-Z0-9]{9}"
syntax = Syntax(
    stop=(),
    call=("[TOOL_CALLS]",),
    results="raw",
    special=("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    ids=CallIds('"id": "', ID),
)

_NO_ID = "0" * 9


def identity(each: ToolCall) -> str:
    """The last 9 characters of a call's id; nine zeros if it has no valid id."""
    last = each.id[-9:]
    return last if len(last) == 9 and last.isascii() and last.isalnum() else _NO_ID


def known(given: str) -> str:
    """The id in a reply; "" for nine zeros."""
    return "" if given == _NO_ID else given


def system(tools: Sequence[Tool], text: str) -> str:
    return offer(tools, text, call)


def call(content: str, calls: Sequence[ToolCall]) -> str:
    listed = write_objects(calls, lambda each: f', "id": "{identity(each)}"')
    return f"{content}[TOOL_CALLS] [{listed}]" if calls else content


def result(texts: Sequence[str]) -> str:
    return "".join(f"[TOOL_RESULTS]{text}[/TOOL_RESULTS]" for text in texts)


def parse(text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    content, _, rest = text.partition("[TOOL_CALLS]")
    found = read_list(rest)
    if not found:
        return text, ()
    return content, tuple(ToolCall(each.name, each.arguments, known(each.id)) for each in found.calls)
