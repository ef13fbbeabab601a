"""Rows of every known shape -> conversations. Knows no file, no tokenizer and no template; opens no image.

A row's shape is found by its own keys, so one file may mix shapes. Two steps: `read` makes sure that the row *is* a
dialogue (keys, types, order of turns), `examine` that the dialogue makes sense (calls, results, replies).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from swift.chat import Conversation, Message
from swift.data.calls import read_tools
from swift.data.examine import examine
from swift.data.fields import BadRow as BadRow
from swift.data.fields import Row, first, kind, parsed_field, text_of
from swift.data.messages import append, read_message
from swift.data.pictures import IMAGE_KEYS, with_images

Shape = Callable[[Row], Conversation]

DIALOGUE_KEYS = ("messages", "conversations", "conversation")
QUERY_KEYS = ("query", "prompt", "input", "instruction", "question", "problem")
RESPONSE_KEYS = (
    *("response", "answer", "output", "targets", "target", "answer_key"),
    *("answers", "solution", "text", "completion", "content"),
)
SYSTEM_KEYS = ("system", "system_prompt")
MEDIA_KEYS = ("videos", "audios", "video", "audio")


def conversation(row: Row, columns: Mapping[str, str] | None = None) -> Conversation:
    """A row of any known shape -> a conversation that makes sense. `columns` renames keys, {theirs: ours}."""
    found = read(row, columns)
    examine(found)
    return found


def read(row: Row, columns: Mapping[str, str] | None = None) -> Conversation:
    """A row of any known shape -> a conversation: the right types in the right order, but not yet examined."""
    if not isinstance(row, dict):
        raise BadRow("not-an-object", f"a row must be a JSON object, this is {kind(row)}")
    if columns:
        kept = {key: value for key, value in row.items() if key not in columns}
        row = kept | {columns[key]: value for key, value in row.items() if key in columns}
    for key in MEDIA_KEYS:
        if row.get(key):
            raise BadRow("not-text", f"the row has {key!r}; only text and images can be trained on")
    return shape_of(row)(row)


def shape_of(row: Row) -> Shape:
    """The function that reads this row, chosen by the row's own keys."""
    key = first(row, DIALOGUE_KEYS)
    if key is not None:
        return pairs if _looks_like_pairs(row[key]) else messages
    query, reply = first(row, QUERY_KEYS), first(row, RESPONSE_KEYS)
    if row.get("instruction") is not None and reply is not None:
        return alpaca
    if reply is not None:
        return query_response if query is not None or first(row, ("history", *SYSTEM_KEYS)) else text
    if query is not None or any(name in row for name in (*RESPONSE_KEYS, *DIALOGUE_KEYS)):
        raise BadRow("no-reply", "the row has no response")
    keys = ", ".join(map(repr, list(row)[:8])) or "none"
    raise BadRow(
        "unknown-shape", f"no messages, conversations, query/response, instruction/output or text; keys: {keys}"
    )


# The shapes -----------------------------------------------------------------------------------------------------------


def messages(row: Row) -> Conversation:
    """`messages` or `conversations`: a list of {role, content} or {from, value}, or that list as text."""
    turns: list[Message] = []
    for number, item in enumerate(_dialogue(row), 1):
        if not isinstance(item, dict):
            raise BadRow("wrong-type", f"message {number} must be an object, this is {kind(item)}")
        append(turns, read_message(item, number), number)
    return _whole(row, turns)


def pairs(row: Row) -> Conversation:
    """`conversation`: a list of {human, assistant} pairs."""
    turns: list[Message] = []
    for number, item in enumerate(_dialogue(row), 1):
        if not isinstance(item, dict) or "human" not in item or "assistant" not in item:
            raise BadRow("wrong-type", f"pair {number} must be an object with 'human' and 'assistant'")
        turns.append(Message("user", text_of(item["human"], f"'human' of pair {number}")))
        turns.append(Message("assistant", text_of(item["assistant"], f"'assistant' of pair {number}")))
    return _whole(row, turns)


def query_response(row: Row) -> Conversation:
    """`query` and `response` under any of their names, with `history` as [question, answer] pairs."""
    key = first(row, QUERY_KEYS)
    return _rounds(row, "" if key is None else text_of(row[key], repr(key)))


def alpaca(row: Row) -> Conversation:
    """`instruction`, `input` and `output`; the question is the instruction and, on the next line, the input."""
    parts = [text_of(row[key], repr(key)) for key in ("instruction", "input") if row.get(key) is not None]
    return _rounds(row, "\n".join(part for part in parts if part))


def text(row: Row) -> Conversation:
    """A response alone (or `text`): plain text to pre-train on."""
    if key := first(row, IMAGE_KEYS):
        raise BadRow("no-query", f"the row has {key!r}, but no question that they belong to")
    return Conversation((Message("assistant", _response(row)),))


# Parts of rows --------------------------------------------------------------------------------------------------------


def _dialogue(row: Row) -> list[Any]:
    key = first(row, DIALOGUE_KEYS)
    assert key is not None, row
    items = row[key]
    if isinstance(items, str):
        items = parsed_field(items, key)
    if not isinstance(items, list):
        raise BadRow("wrong-type", f"{key!r} must be a list, this is {kind(items)}")
    if not items:
        raise BadRow("no-reply", f"{key!r} is empty")
    return items


def _looks_like_pairs(items: Any) -> bool:
    if isinstance(items, str):
        return "human" in items and "assistant" in items and _looks_like_pairs(parsed_field(items, "conversation"))
    first = items[0] if isinstance(items, list) and items else None
    return isinstance(first, dict) and "human" in first and "role" not in first and "from" not in first


def _rounds(row: Row, query: str) -> Conversation:
    """System, history, question and answer. A question left empty means text to pre-train on (CSV cells)."""
    turns: list[Message] = []
    history = row.get("history") or []
    if isinstance(history, str):
        history = parsed_field(history, "history")
    if not isinstance(history, list):
        raise BadRow("wrong-type", f"'history' must be a list of pairs, this is {kind(history)}")
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRow("wrong-type", f"pair {number} of 'history' must be [question, answer]")
        turns.append(Message("user", text_of(pair[0], f"'history' pair {number}")))
        turns.append(Message("assistant", text_of(pair[1], f"'history' pair {number}")))
    if query:
        turns.append(Message("user", query))
    elif turns or any(row.get(key) for key in SYSTEM_KEYS):
        raise BadRow("no-query", "the row has a system text or a history, but no question")
    else:
        return text(row)
    turns.append(Message("assistant", _response(row)))
    return _whole(row, turns)


def _whole(row: Row, turns: list[Message]) -> Conversation:
    """Adds the row's own system text and tools, and makes sure that there is something to learn."""
    key = first(row, SYSTEM_KEYS)
    if key is not None:
        system = text_of(row[key], repr(key))
        if turns[0].role != "system":
            turns.insert(0, Message("system", system))
        elif system not in ("", turns[0].content):
            raise BadRow("two-systems", f"{key!r} and the first message are different system texts")
    if turns[-1].role != "assistant":
        raise BadRow("no-reply", f"the dialogue ends with the {turns[-1].role}, not with a reply")
    if len(turns) > 1 and not any(turn.role == "user" for turn in turns):
        raise BadRow("no-query", "the dialogue has no user message")
    return Conversation(tuple(with_images(row, turns)), read_tools(row))


def _response(row: Row) -> str:
    key = first(row, RESPONSE_KEYS)
    assert key is not None, row
    reply = text_of(row[key], repr(key))
    if not reply.strip():
        raise BadRow("empty-reply", f"{key!r} is empty")
    return reply
