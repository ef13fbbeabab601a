"""Conversations -> rows of a JSONL file. Knows no tokenizer and no model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from swift.chat import Conversation, Message


def write_jsonl(rows: Iterable[Conversation], path: str | Path) -> int:
    """Writes conversations as JSON lines and returns their number.

    With tools: OpenAI's `{"messages", "tools"}`; without: `{"id", "conversations": [{"from", "value"}]}`. Reasoning
    is written as `reasoning_content`, template variables as `chat_template_kwargs`.
    """
    count = 0
    with Path(path).open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, 1):
            if row.tools:
                turns = [as_message(message) for message in row.messages]
                line: dict[str, object] = {"messages": turns, "tools": [tool.spec for tool in row.tools]}
            else:
                said = [{"from": each.role, "value": each.content} | _reasoning(each) for each in row.messages]
                line = {"id": f"{row.source or 'row'}_{count}", "conversations": said}
            if row.template_kwargs:
                line["chat_template_kwargs"] = dict(row.template_kwargs)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return count


def as_message(message: Message) -> dict[str, object]:
    """A message in OpenAI's form; `loss` says whether it is trained, where the message has a weight."""
    turn: dict[str, object] = {"role": message.role, "content": message.content, **_reasoning(message)}
    if message.tool_calls:
        calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
        turn["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return turn if message.weight is None else {**turn, "loss": message.weight > 0}


def _reasoning(message: Message) -> dict[str, str]:
    return {"reasoning_content": message.reasoning} if message.reasoning else {}
