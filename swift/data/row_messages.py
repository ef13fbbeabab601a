"""The messages of a row, one by one and as turns. Knows no shape of a row and makes no sense of a dialogue."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

from swift.chat import Message, ToolCall
from swift.data.harmony_messages import CHANNEL_KEYS, in_channel, without_channel
from swift.data.loss_weights import WEIGHT_KEYS, weight_of
from swift.data.reasoning import THOUGHT_KEYS, refuse_thought, spoken, thought
from swift.data.row_images import illustrated
from swift.data.row_tools import CALL_KEYS, read_calls, unread_of_calls
from swift.data.row_values import BadRow, Row, are_parts, json_text, optional, says_something, text_of

# "call" is a turn of its own in some formats; it becomes a tool call of the assistant.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "call",
    "tool_call": "call",
    "tool_calls": "call",
    "tool": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "function": "tool",
    "function_response": "tool",
    "function_result": "tool",
    "ipython": "tool",
    "observation": "tool",
    "observations": "tool",
}


def read_message(item: Row, number: int) -> Message:
    """One {role, content} or {from, value}; a turn that is a call becomes an assistant message with tool calls."""
    name = _named(item)
    role, where = _role(name), f"message {number}"
    if role in ("assistant", "tool"):
        item = without_channel(item, where)
    if role in ("system", "user", "tool"):
        refuse_thought(item, where, role)
    content = item.get("content") if item.get("content") is not None else item.get("value")
    weight = weight_of(item, number)
    if role == "system":
        return Message("system", text_of(content, where), weight=weight)
    if role == "user":
        body, images = illustrated(content, where)
        return Message("user", body, weight=weight, images=images)
    if role == "call":
        calls = _turn_of_calls(item, content, number)
        return Message("assistant", "", calls, weight, reasoning=thought(item, where))
    if role == "tool":
        if isinstance(content, dict) or (isinstance(content, list) and not are_parts(content)):
            content = json_text(content, where)
        identity, tool = item.get("tool_call_id"), item.get("name")
        body = text_of(content, where)
        return Message("tool", body, (), weight, optional(identity, "tool_call_id"), optional(tool, "name"))
    if role == "assistant":
        given = _given_calls(item, number)
        calls = read_calls(given, number) if given else ()
        text, parts = spoken(content, where)
        return Message("assistant", _said(item, text, where), calls, weight, reasoning=thought(item, where, parts))
    _unknown_role(name, number)


def unread_keys(item: Row) -> Iterator[tuple[str, str]]:
    """(what has the key, the key) of a message, for the keys that say something and that nobody reads."""
    known = _READ_OF.get(_role(_named(item)) or "", _READ)
    for key in item.keys() - (known | CHANNEL_KEYS if in_channel(item) else known):
        if says_something(item[key]):
            yield "messages", key
    for read, other in (("role", "from"), ("content", "value")):
        if read in item and other in item and item[read] is not None and item[other] not in (None, item[read]):
            yield "messages", other
    for key in ("tool_calls", "function_call"):
        if key in item:
            yield from (("calls", unread) for unread in unread_of_calls(item[key]))


_READ = frozenset({"role", "from", "content", "value", *WEIGHT_KEYS})
_READ_OF = {
    "assistant": _READ | {"tool_calls", "function_call", "refusal", *THOUGHT_KEYS},
    "call": _READ | {"tool_calls", "function_call", *CALL_KEYS, *THOUGHT_KEYS},
    "tool": _READ | {"tool_call_id", "name"},
}


def _named(item: Row) -> Any:
    return item.get("role") if item.get("role") is not None else item.get("from")


def _role(name: Any) -> str | None:
    return ROLES.get(name) if isinstance(name, str) else None


def _said(item: Row, text: str, where: str) -> str:
    """The assistant's text; a refusal is one."""
    refusal = optional(item.get("refusal"), "refusal")
    if text and refusal:
        raise BadRow("wrong-type", f"{where} has a content and a refusal, which are one text")
    return text or refusal


def _given_calls(item: Row, number: int) -> Any:
    given = [item[key] for key in ("tool_calls", "function_call") if says_something(item.get(key))]
    if len(given) > 1:
        raise BadRow("bad-call", f"message {number} has 'tool_calls' and 'function_call': leave one of them out")
    return given[0] if given else None


def _turn_of_calls(item: Row, content: Any, number: int) -> tuple[ToolCall, ...]:
    """The calls of a turn that is nothing else: in its text, in a key of their own, or the message itself."""
    if isinstance(content, list) and are_parts(content):
        content = text_of(content, f"message {number}")
    given = content if says_something(content) else _given_calls(item, number)
    if given is None and item.get("name") is not None:
        given = {key: value for key, value in item.items() if key in CALL_KEYS and key != "function"}
    calls = read_calls(given, number) if given is not None else ()
    if not calls:
        raise BadRow("bad-call", f"message {number} holds no call")
    return calls


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
    if last.tool_calls and (message.content or message.reasoning):
        raise BadRow("call-without-result", f"message {number} follows a call that has no result")
    if message.reasoning and last.content.strip():
        raise BadRow("late-thought", f"message {number} continues a turn, but thinks; a thought is first")
    if (1.0 if last.weight is None else last.weight) != (1.0 if message.weight is None else message.weight):
        raise BadRow("mixed-weights", f"message {number} continues a turn, but has another weight")
    # Joined without a separator: nothing is trained that the row does not hold.
    weight = last.weight if message.weight is None else message.weight
    turns[-1] = replace(
        last,
        content=last.content + message.content,
        tool_calls=last.tool_calls + message.tool_calls,
        weight=weight,
        reasoning="\n".join(filter(None, (last.reasoning, message.reasoning))),
    )
