"""A dialogue as pairs of texts, for transcripts. Knows no chat and no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from swift import images
from swift.agent import ToolFormat
from swift.agent.reply import write_reply
from swift.chat import Message


def rounds(tool_format: ToolFormat, messages: Sequence[Message], offered: bool = False) -> list[list[str]]:
    """The dialogue as [input, reply] pairs of text, without the system message.

    A tool result is an input, or part of the reply for formats with inline results. `offered`: tools were offered, so
    reasoning and answers have the format's labels; other reasoning is written between <think> tags.
    """
    pairs: list[list[str]] = []
    after_tool = False
    for role, group in groupby(messages, key=lambda message: message.role):
        if role == "system":
            continue
        is_input = role == "user" or (role == "tool" and not tool_format.syntax.inline)
        if not pairs or (is_input and pairs[-1][1]):
            pairs.append(["", ""])
        if role == "tool":
            text = tool_format.result([message.content for message in group])
        elif role == "user":
            text = "".join(images.row_text(message) for message in group)
        else:
            replies = [replace(message, content=images.row_text(message)) for message in group]
            text = "".join(write_reply(tool_format, reply, offered, after_tool, block=True) for reply in replies)
        after_tool = role == "tool"
        pairs[-1][not is_input] += text
    return pairs
