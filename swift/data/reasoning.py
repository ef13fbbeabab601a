"""Reads the assistant's reasoning from all keys and content parts that hold it. Knows no row format."""

from __future__ import annotations

from typing import Any

from swift.data.row_values import BadRow, Row, kind, says_something, text_of

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
_KEYS = frozenset(REASONING_KEYS)

_PARTS = {
    "thinking": ("thinking",),
    "reasoning": ("text", "reasoning", "content"),
    "reasoning_text": ("text",),
}
"""Types of content parts that are reasoning -> the keys that may hold their text."""


def split_reasoning(content: Any, where: str) -> tuple[str, str]:
    """(text, reasoning) of a message content. None is an empty content."""
    said, thoughts = _apart(content, where) if isinstance(content, list) else (content, "")
    return "" if said is None or said == [] else text_of(said, where), thoughts


def reasoning_of(item: Row, where: str, parts: str = "") -> str:
    """The reasoning of a message or a row, "" for none. `parts`: the reasoning found in its content."""
    found = {repr(key): _text(value, f"{where}: {key!r}") for key, value in _given(item)}
    if parts.strip():
        found["the content"] = parts
    if len(set(found.values())) > 1:
        raise BadRow("two-thoughts", f"{where} has different reasoning in {' and '.join(found)}: remove one of them")
    return next(iter(found.values()), "")


def refuse_reasoning(item: Row, where: str, role: str) -> None:
    """Raises BadRow if a message that is not the assistant's has reasoning."""
    for key, _ in _given(item):
        raise BadRow(
            "thought-on-prompt", f"{where} is a {role} message with {key!r}: only assistant messages have reasoning"
        )


def _given(item: Row) -> list[tuple[str, Any]]:
    """(key, value) of each reasoning key that holds more than white space."""
    if _KEYS.isdisjoint(item):
        return []
    values = ((key, item[key]) for key in REASONING_KEYS if key in item)
    return [(key, value) for key, value in values if says_something(value.strip() if isinstance(value, str) else value)]


def _apart(parts: list[Any], where: str) -> tuple[list[Any], str]:
    """The content parts, and the reasoning parts before them joined by line breaks."""
    said: list[Any] = []
    thoughts: list[str] = []
    for part in parts:
        name = part.get("type") if isinstance(part, dict) else None
        if isinstance(name, str) and name.startswith("redacted"):
            raise BadRow("not-text", f"{where} has a part of type {name!r}, whose text is hidden: remove it")
        if name not in _PARTS:
            said.append(part)
        elif any(map(_says, said)):
            raise BadRow("late-thought", f"{where} has a part of type {name!r} after text; reasoning comes first")
        else:
            thoughts.append(_thought_in(part, where))
    return said, "\n".join(filter(str.strip, thoughts))


def _says(part: Any) -> bool:
    """Whether a part holds more than white space."""
    text = part.get("text") if isinstance(part, dict) else part
    return not isinstance(text, str) or bool(text.strip())


def _thought_in(part: Row, where: str) -> str:
    name, keys = part["type"], _PARTS[part["type"]]
    text = next((part[key] for key in keys if says_something(part.get(key))), "" if part.keys() & set(keys) else None)
    if isinstance(text, list) and all(isinstance(each, dict) and isinstance(each.get("text"), str) for each in text):
        return "\n".join(each["text"] for each in text)
    if not isinstance(text, str):
        raise BadRow("wrong-type", f"{where} has a part of type {name!r} without a text in {keys[0]!r}")
    return text


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadRow("wrong-type", f"{what} must be text, not {kind(value)}")
    return value
