"""Reads the messages of a row and joins them to turns. Knows no row format and does not validate dialogues."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

from swift.chat import Message, ToolCall
from swift.data.harmony_messages import CHANNEL_KEYS, in_channel, without_channel
from swift.data.loss_weights import WEIGHT_KEYS, weight_of
from swift.data.reasoning import REASONING_KEYS, reasoning_of, refuse_reasoning, split_reasoning
from swift.data.row_images import content_with_images
from swift.data.row_tools import CALL_KEYS, read_calls, unused_call_keys
from swift.data.row_values import BadRow, Row, are_parts, json_text, optional, says_something, text_of
from swift.system.nearest import closest

# "call": some formats have calls as turns; they become tool calls of the assistant.
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
        refuse_reasoning(item, where, role)
    content = item.get("content") if item.get("content") is not None else item.get("value")
    weight = weight_of(item, number)
    if role == "system":
        return Message("system", text_of(content, where), weight=weight)
    if role == "user":
        body, images = content_with_images(content, where)
        return Message("user", body, weight=weight, images=images)
    if role == "call":
        calls = _turn_of_calls(item, content, number)
        return Message("assistant", "", calls, weight, reasoning=reasoning_of(item, where))
    if role == "tool":
        if isinstance(content, dict) or (isinstance(content, list) and not are_parts(content)):
            content = json_text(content, where)
        identity, tool = item.get("tool_call_id"), item.get("name")
        body = text_of(content, where)
        return Message("tool", body, (), weight, optional(identity, "tool_call_id"), optional(tool, "name"))
    if role == "assistant":
        given = _given_calls(item, number)
        calls = read_calls(given, number) if given else ()
        text, parts = split_reasoning(content, where)
        return Message("assistant", _said(item, text, where), calls, weight, reasoning=reasoning_of(item, where, parts))
    _unknown_role(name, number)


def unused_message_keys(item: Row) -> Iterator[tuple[str, str]]:
    """(where the key is, the key) for each non-empty key of a message that is ignored."""
    known = _READ_OF.get(_role(_named(item)) or "", _READ)
    for key in item.keys() - (known | CHANNEL_KEYS if in_channel(item) else known):
        if says_something(item[key]):
            yield "messages", key
    for read, other in (("role", "from"), ("content", "value")):
        if read in item and other in item and item[read] is not None and item[other] not in (None, item[read]):
            yield "messages", other
    for key in ("tool_calls", "function_call"):
        if key in item:
            yield from (("calls", unread) for unread in unused_call_keys(item[key]))


_READ = frozenset({"role", "from", "content", "value", *WEIGHT_KEYS})
_READ_OF = {
    "assistant": _READ | {"tool_calls", "function_call", "refusal", *REASONING_KEYS},
    "call": _READ | {"tool_calls", "function_call", *CALL_KEYS, *REASONING_KEYS},
    "tool": _READ | {"tool_call_id", "name"},
}


def _named(item: Row) -> Any:
    return item.get("role") if item.get("role") is not None else item.get("from")


def _role(name: Any) -> str | None:
    return ROLES.get(name) if isinstance(name, str) else None


def _said(item: Row, text: str, where: str) -> str:
    """The assistant's text, or its refusal."""
    refusal = optional(item.get("refusal"), "refusal")
    if text and refusal:
        raise BadRow("wrong-type", f"{where} has both content and a refusal")
    return text or refusal


def _given_calls(item: Row, number: int) -> Any:
    given = [item[key] for key in ("tool_calls", "function_call") if says_something(item.get(key))]
    if len(given) > 1:
        raise BadRow("bad-call", f"message {number} has 'tool_calls' and 'function_call': remove one of them")
    return given[0] if given else None


def _turn_of_calls(item: Row, content: Any, number: int) -> tuple[ToolCall, ...]:
    """The calls of a turn that is only calls: in its content, under a key, or the message itself."""
    if isinstance(content, list) and are_parts(content):
        content = text_of(content, f"message {number}")
    given = content if says_something(content) else _given_calls(item, number)
    if given is None and item.get("name") is not None:
        given = {key: value for key, value in item.items() if key in CALL_KEYS and key != "function"}
    calls = read_calls(given, number) if given is not None else ()
    if not calls:
        raise BadRow("bad-call", f"message {number} has no call")
    return calls


def _unknown_role(name: Any, number: int) -> NoReturn:
    if name is None:
        raise BadRow("unknown-role", f"message {number} has no role (key 'role' or 'from')")
    near = closest(str(name).lower(), ROLES, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise BadRow("unknown-role", f"message {number} has the role {name!r}{hint}")


def append(turns: list[Message], message: Message, number: int) -> None:
    """Adds a turn. Consecutive assistant messages become one: templates cannot render two. Raises BadRow."""
    last = turns[-1] if turns else None
    if message.role == "system" and last is not None:
        raise BadRow("late-system", f"message {number} is a system message; only the first message can be one")
    if last is None or last.role != message.role or message.role == "tool":
        turns.append(message)
        return
    if message.role == "user":
        raise BadRow("two-users", f"message {number} is a second consecutive user message")
    if last.tool_calls and (message.content or message.reasoning):
        raise BadRow("call-without-result", f"message {number} follows a call that has no result")
    if message.reasoning and last.content.strip():
        raise BadRow("late-thought", f"message {number} continues a turn, but has reasoning, which must come first")
    if (1.0 if last.weight is None else last.weight) != (1.0 if message.weight is None else message.weight):
        raise BadRow("mixed-weights", f"message {number} continues a turn with a different weight")
    # Joined without a separator: only text of the row is trained.
    weight = last.weight if message.weight is None else message.weight
    turns[-1] = replace(
        last,
        content=last.content + message.content,
        tool_calls=last.tool_calls + message.tool_calls,
        weight=weight,
        reasoning="\n".join(filter(None, (last.reasoning, message.reasoning))),
    )
