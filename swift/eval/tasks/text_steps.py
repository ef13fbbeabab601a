"""Replies that hold calls, results and answers as text -> their steps. Knows no row file and no model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from swift.agent import ToolFormat, tool_format
from swift.agent.result_marks import find_mark
from swift.chat import Conversation, ToolCall

FORMATS = ("react_en", "react_zh", "qwen_en", "qwen_zh", "hermes")
"""The formats that are looked for in the text of rows."""


class Step(NamedTuple):
    """What the model writes between two results. `start`: its place in the reply.

    `text` includes the stop string that asks for a result.
    """

    start: int
    text: str
    calls: tuple[ToolCall, ...]


def format_name(row: Conversation) -> str | None:
    """The tool-call format of the replies of a row without `tools`; None if there is no call and no answer in one."""
    said = [message.content for message in row.messages if message.role == "assistant"]
    for name in FORMATS:
        if any(tool_format(name).parse(text)[1] for text in said):
            return name
    system = row.messages[0].content if row.messages[0].role == "system" else ""
    for name in FORMATS:
        syntax = tool_format(name).syntax
        if syntax.call[0] in system and syntax.answer and any(syntax.answer in text for text in said):
            return name
    return None


def steps(text: str, call_format: ToolFormat) -> Iterator[Step]:
    """The steps of a reply, without the results between them.

    A result ends before the next line that begins with one of the format's labels.
    """
    syntax = call_format.syntax
    labels = [label for label in (syntax.thought, *syntax.call, syntax.answer) if label]
    opening = re.compile("^[ \t]*(?:" + "|".join(map(re.escape, labels)) + ")", re.MULTILINE)
    start = 0
    while start < len(text):
        ends = [found + len(stop) for stop in syntax.stop if (found := find_mark(text, stop, start)) >= 0]
        end = min(ends, default=len(text))
        step = text[start:end]
        yield Step(start, step, call_format.parse(step)[1])
        following = opening.search(text, end) if ends else None
        start = following.start() if following else len(text)
