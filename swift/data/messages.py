"""The messages of a row, one by one and as turns. Knows no shape of a row and makes no sense of a dialogue."""

from __future__ import annotations

import difflib
import json
import math
from typing import Any, NoReturn

from swift.chat import Message
from swift.data.calls import read_calls
from swift.data.fields import BadRow, Row, are_parts, optional, text_of
from swift.data.pictures import illustrated

# "call" is a turn of its own in some formats; it becomes a tool call of the assistant.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "function_call": "call",
    "tool_call": "call",
    "tool": "tool",
    "tool_response": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "observations": "tool",
}


def read_message(item: Row, number: int) -> Message:
    """One {role, content} or {from, value}; a turn that is a call becomes an assistant message with tool calls."""
    name = item.get("role") if item.get("role") is not None else item.get("from")
    role = ROLES.get(name) if isinstance(name, str) else None
    content = item.get("content") if item.get("content") is not None else item.get("value")
    weight = _weight(item, number)
    if role == "system":
        return Message("system", text_of(content, f"message {number}"), weight=weight)
    if role == "user":
        body, images = illustrated(content, f"message {number}")
        return Message("user", body, weight=weight, images=images)
    if role == "call":
        return Message("assistant", "", read_calls(content, number), weight)
    if role == "tool":
        if isinstance(content, dict) or (isinstance(content, list) and not are_parts(content)):
            content = json.dumps(content, ensure_ascii=False)
        identity, tool = item.get("tool_call_id"), item.get("name")
        body = text_of(content, f"message {number}")
        return Message("tool", body, (), weight, optional(identity, "tool_call_id"), optional(tool, "name"))
    if role == "assistant":
        if item.get("reasoning_content"):
            raise BadRow("reasoning-content", f"message {number}: write the reasoning into the content, as <think>...")
        given = item.get("tool_calls") or item.get("function_call") or ()
        calls = read_calls(given, number) if given else ()
        return Message("assistant", "" if content is None else text_of(content, f"message {number}"), calls, weight)
    _unknown_role(name, number)


def _unknown_role(name: Any, number: int) -> NoReturn:
    if name is None:
        raise BadRow("unknown-role", f"message {number} has no role (key 'role' or 'from')")
    near = difflib.get_close_matches(str(name).lower(), ROLES, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise BadRow("unknown-role", f"message {number} has the role {name!r}{hint}")


def append(turns: list[Message], message: Message, number: int) -> None:
    """Adds a turn; neighbouring assistant messages are one turn, since no template can show them as two."""
    last = turns[-1] if turns else None
    if message.role == "system" and last is not None:
        raise BadRow("late-system", f"message {number} is a system message, but only the first message can be one")
    if last is None or last.role != message.role or message.role == "tool":
        turns.append(message)
        return
    if message.role == "user":
        raise BadRow("two-users", f"message {number} is a second user message in a row")
    if last.tool_calls and message.content:
        raise BadRow("call-without-result", f"message {number} follows a call that has no result")
    if (1.0 if last.weight is None else last.weight) != (1.0 if message.weight is None else message.weight):
        raise BadRow("mixed-weights", f"message {number} continues a turn, but has another weight")
    # Joined without a separator: nothing is trained that the row does not hold.
    weight = last.weight if message.weight is None else message.weight
    turns[-1] = Message("assistant", last.content + message.content, last.tool_calls + message.tool_calls, weight)


def _weight(item: Row, number: int) -> float | None:
    """The weight that `loss` (a bool) and `weight` or `loss_scale` (a number) give a message."""
    weight = item.get("weight") if item.get("weight") is not None else item.get("loss_scale")
    loss = item.get("loss")
    if weight is None and loss is None:
        return None
    if loss is not None and loss not in (0, 1):
        raise BadRow("bad-weight", f"message {number}: 'loss' must be true or false, this is {loss!r}")
    if weight is None:
        return 1.0 if loss else 0.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise BadRow("bad-weight", f"message {number}: the weight must be a number from 0 on, this is {weight!r}")
    return float(weight) if loss is None or loss else 0.0
