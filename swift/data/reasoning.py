"""What the assistant thinks before it speaks, under all the names that rows have for it. Knows no shape of a row."""

from __future__ import annotations

from typing import Any

from swift.data.row_values import BadRow, Row, kind, says_something, text_of

THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
_KEYS = frozenset(THOUGHT_KEYS)

_PARTS = {
    "thinking": ("thinking",),
    "reasoning": ("text", "reasoning", "content"),
    "reasoning_text": ("text",),
}
"""Parts of a content that are thoughts, and the keys that may hold their text."""


def spoken(content: Any, where: str) -> tuple[str, str]:
    """What a content says, and what the parts of it think that are thoughts. None says nothing."""
    said, thoughts = _apart(content, where) if isinstance(content, list) else (content, "")
    return "" if said is None or said == [] else text_of(said, where), thoughts


def thought(item: Row, where: str, parts: str = "") -> str:
    """The thought under the keys of a message or a row; "" for none. `parts`: the one in its content."""
    found = {repr(key): _text(value, f"{where}: {key!r}") for key, value in _given(item)}
    if parts.strip():
        found["the content"] = parts
    if len(set(found.values())) > 1:
        raise BadRow("two-thoughts", f"{where} has different thoughts in {' and '.join(found)}: leave one of them out")
    return next(iter(found.values()), "")


def refuse_thought(item: Row, where: str, role: str) -> None:
    """BadRow where somebody else than the assistant thinks."""
    for key, _ in _given(item):
        raise BadRow("thought-on-prompt", f"{where} is the {role}'s and has {key!r}: only the assistant thinks")


def _given(item: Row) -> list[tuple[str, Any]]:
    """The keys of thoughts that hold more than white space, with their values."""
    if _KEYS.isdisjoint(item):
        return []
    values = ((key, item[key]) for key in THOUGHT_KEYS if key in item)
    return [(key, value) for key, value in values if says_something(value.strip() if isinstance(value, str) else value)]


def _apart(parts: list[Any], where: str) -> tuple[list[Any], str]:
    """The content parts, and the reasoning before them as one text, a line break between its parts."""
    said: list[Any] = []
    thoughts: list[str] = []
    for part in parts:
        name = part.get("type") if isinstance(part, dict) else None
        if isinstance(name, str) and name.startswith("redacted"):
            raise BadRow("not-text", f"{where} has a part of type {name!r}, whose text is hidden: leave it out")
        if name not in _PARTS:
            said.append(part)
        elif any(map(_says, said)):
            raise BadRow("late-thought", f"{where} has a part of type {name!r} behind what it says; a thought is first")
        else:
            thoughts.append(_thought_in(part, where))
    return said, "\n".join(filter(str.strip, thoughts))


def _says(part: Any) -> bool:
    """Whether a part is more than white space."""
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
        raise BadRow("wrong-type", f"{what} must be text, this is {kind(value)}")
    return value
