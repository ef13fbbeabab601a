"""What a row is: its kind, and where it says that it comes from. Knows no file."""

from __future__ import annotations

from swift.chat import Conversation
from swift.data.row_values import BadRow, Row
from swift.data.validate_text_calls import writes_call

LONGEST = 100
"""Characters of a source."""


def kind_of(conversation: Conversation) -> str:
    """What a row teaches, in a few words."""
    if conversation.is_text:
        return "plain text"
    replies = (message for message in conversation.messages if message.role == "assistant")
    if any(reply.tool_calls or writes_call(reply.content) for reply in replies):
        return "tool calls"
    if conversation.tools:
        return "tools offered, none called"
    return "dialogue" if sum(message.role == "user" for message in conversation.messages) > 1 else "question and answer"


def source_of(row: Row | BadRow) -> str:
    """Where a row comes from, as far as it says so: `source` or `dataset`, or an id such as `ms_bench_17`."""
    if isinstance(row, BadRow):
        return ""
    for key in ("source", "dataset"):
        if isinstance(row.get(key), str) and row[key]:
            return str(row[key])[:LONGEST]
    name, _, number = str(row.get("id") or "").rpartition("_")
    return name[:LONGEST] if number.isdigit() else ""
