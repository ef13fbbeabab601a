"""Messages in harmony, the format of gpt-oss, which have a channel and a recipient. Knows no dialogue."""

from __future__ import annotations

import difflib
from typing import Any

from swift.data.row_values import BadRow, Row, are_parts, optional, says_something, text_of

CHANNELS = ("analysis", "commentary", "final")
CHANNEL_KEYS = frozenset({"channel", "recipient", "content_type"})
_FUNCTIONS = "functions."
_PEOPLE = ("", "all", "user", "assistant")


def in_channel(item: Row) -> bool:
    return item.get("channel") in CHANNELS


def without_channel(item: Row, where: str) -> Row:
    """A harmony message in the common format: the analysis channel becomes reasoning, a function recipient a call.

    A message without one of harmony's channels is returned unchanged. Raises BadRow for a misspelt channel.
    """
    channel = item.get("channel")
    if not in_channel(item):
        if isinstance(channel, str) and (near := difflib.get_close_matches(channel, CHANNELS, 1, cutoff=0.7)):
            raise BadRow("unknown-channel", f"{where} has the channel {channel!r}; did you mean {near[0]!r}?")
        return item
    key = "content" if item.get("content") is not None else "value"
    kept = {name: value for name, value in item.items() if name not in CHANNEL_KEYS}
    if isinstance(kept.get("name"), str):
        kept["name"] = kept["name"].removeprefix(_FUNCTIONS)
    recipient = optional(item.get("recipient"), "recipient")
    if recipient not in _PEOPLE:
        arguments = _plain(kept.pop(key, None), where)
        return kept | {"function_call": {"name": recipient.removeprefix(_FUNCTIONS), "arguments": arguments}}
    if channel == "analysis" and says_something(kept.get(key)):
        return kept | {key: [{"type": "thinking", "thinking": _plain(kept[key], where)}]}
    return kept


def _plain(value: Any, where: str) -> Any:
    return text_of(value, where) if isinstance(value, list) and are_parts(value) else value
