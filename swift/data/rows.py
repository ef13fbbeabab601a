"""Rows of every known format -> conversations. Knows no file, no tokenizer and no template; opens no image.

The format of a row follows from its keys, so one file may mix formats. `read` checks the form of a row (keys, types,
order of turns), `swift.data.validate` its content (calls, results, replies).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

from swift.agent.jsontext import LoneSurrogateError, refuse_lone_surrogates
from swift.chat import Conversation, Message
from swift.data.loss_weights import WEIGHT_KEYS
from swift.data.reasoning import REASONING_KEYS, reasoning_of, split_reasoning
from swift.data.row_images import IMAGE_KEYS, with_images
from swift.data.row_messages import append, read_message, unused_message_keys
from swift.data.row_tools import TOOLS_KEYS, read_calls, read_tools
from swift.data.row_values import BadRow as BadRow
from swift.data.row_values import Row, first, kind, parsed, parsed_field, says_something, text_of
from swift.data.template_kwargs import TEMPLATE_KWARGS_KEYS, read_template_kwargs
from swift.data.trace_rows import TRACE, trace_of
from swift.data.validate import validate

Shape = Callable[[Row], Conversation]
OnUnusedKey = Callable[[str, str], None]
"""Called with where an ignored key is ("rows", "messages" or "calls"), and the key."""

DIALOGUE_KEYS = ("messages", "conversations", "conversation")
QUERY_KEYS = ("query", "prompt", "input", "instruction", "question", "problem")
RESPONSE_KEYS = (
    *("response", "answer", "output", "targets", "target", "answer_key"),
    *("answers", "solution", "text", "completion", "content"),
)
SYSTEM_KEYS = ("system", "system_prompt")
KNOWN_KEYS = (
    *(*DIALOGUE_KEYS, *SYSTEM_KEYS, *TOOLS_KEYS, *IMAGE_KEYS, *WEIGHT_KEYS, "history", "role", "content"),
    *("tool_calls", "function_call", "tool_call_id", "refusal", "name", "arguments"),
    *(*REASONING_KEYS, *TEMPLATE_KWARGS_KEYS, "channel", "recipient"),
)
"""Keys that are suggested for an ignored key."""
MEDIA_KEYS = ("videos", "audios", "video", "audio")


def _ignore(what: str, key: str) -> None:
    pass


def read(row: Row, columns: Mapping[str, str] | None = None, on_unused: OnUnusedKey = _ignore) -> Conversation:
    """A row of any known format -> a conversation whose calls and replies are not validated yet. Raises BadRow."""
    if not isinstance(row, dict):
        raise BadRow("not-an-object", f"a row must be a JSON object, not {kind(row)}")
    if columns:
        kept = {key: value for key, value in row.items() if key not in columns}
        row = kept | {columns[key]: value for key, value in row.items() if key in columns}
    for key in MEDIA_KEYS:
        if row.get(key):
            raise BadRow("not-text", f"the row has {key!r}; only text and images can be trained on")
    try:
        refuse_lone_surrogates(row)
    except LoneSurrogateError as error:
        raise BadRow("lone-surrogate", str(error)) from None
    row = _with_dialogue(row)
    shape = shape_of(row)
    found = shape(row)
    for what, key in _unused_keys(row, shape):
        on_unused(what, key)
    return found


def conversation(row: Row, columns: Mapping[str, str] | None = None, on_unused: OnUnusedKey = _ignore) -> Conversation:
    """A row of any known format -> a validated conversation. Raises BadRow.

    `columns` renames keys, {theirs: ours}; `on_unused` is called for each ignored key.
    """
    found = read(row, columns, on_unused)
    validate(found)
    return found


def shape_of(row: Row) -> Shape:
    """The function that reads this row, chosen by the row's keys."""
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


# Row formats ----------------------------------------------------------------------------------------------------------


def messages(row: Row) -> Conversation:
    """`messages` or `conversations`: a list of {role, content} or {from, value}, or that list as text."""
    turns: list[Message] = []
    for number, item in enumerate(_dialogue(row), 1):
        if not isinstance(item, dict):
            raise BadRow("wrong-type", f"message {number} must be an object, not {kind(item)}")
        append(turns, read_message(item, number), number)
    return _completed(row, turns)


def pairs(row: Row) -> Conversation:
    """`conversation`: a list of {human, assistant} pairs."""
    turns: list[Message] = []
    for number, item in enumerate(_dialogue(row), 1):
        if not isinstance(item, dict) or "human" not in item or "assistant" not in item:
            raise BadRow("wrong-type", f"pair {number} must be an object with 'human' and 'assistant'")
        turns.append(Message("user", text_of(item["human"], f"'human' of pair {number}")))
        answer, parts = split_reasoning(item["assistant"], f"'assistant' of pair {number}")
        turns.append(Message("assistant", answer, reasoning=reasoning_of(item, f"pair {number}", parts)))
    return _completed(row, turns)


def query_response(row: Row) -> Conversation:
    """`query` and `response` under any of their names, with `history` as [question, answer] pairs."""
    key = first(row, QUERY_KEYS)
    return _rounds(row, "" if key is None else text_of(row[key], repr(key)))


def alpaca(row: Row) -> Conversation:
    """`instruction`, `input` and `output`; the question is the instruction and, on the next line, the input."""
    parts = [text_of(row[key], repr(key)) for key in ("instruction", "input") if row.get(key) is not None]
    return _rounds(row, "\n".join(part for part in parts if part))


def text(row: Row) -> Conversation:
    """Only a response, or `text`: plain text for pre-training."""
    if key := first(row, IMAGE_KEYS):
        raise BadRow("no-query", f"the row has {key!r}, but no question that they belong to")
    key = first(row, RESPONSE_KEYS)
    assert key is not None, row
    return Conversation((Message("assistant", _non_empty(text_of(row[key], repr(key)), key)),))


# Parts of rows --------------------------------------------------------------------------------------------------------


def _with_dialogue(row: Row) -> Row:
    """The row with its dialogue, if it has one, parsed and under one key."""
    keys = [key for key in DIALOGUE_KEYS if row.get(key) is not None]
    keys = [key for key in keys if says_something(row[key])] or keys[:1]
    if not keys:
        return _with_completion(row)
    for other in keys[1:]:
        if row[other] != row[keys[0]]:
            raise BadRow("two-dialogues", f"the row has {keys[0]!r} and {other!r}, which differ: remove one of them")
    value = row[keys[0]]
    kept = {key: each for key, each in row.items() if key not in DIALOGUE_KEYS}
    return kept | {keys[0]: parsed_field(value, keys[0]) if isinstance(value, str) else value}


def _with_completion(row: Row) -> Row:
    """`prompt` and `completion` as lists of messages are one dialogue, of which the completion is trained."""
    asked, reply = (row.get(key) for key in ("prompt", "completion"))
    if not _are_messages(asked) or not _are_messages(reply):
        return row
    untrained = [item | {"train": False} if item.keys().isdisjoint(WEIGHT_KEYS) else item for item in asked]
    kept = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
    return kept | {"messages": [*untrained, *reply]}


def _are_messages(value: Any) -> TypeGuard[list[Row]]:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) and "role" in each for each in value)


def _dialogue(row: Row) -> list[Any]:
    key = first(row, DIALOGUE_KEYS)
    assert key is not None, row
    items = row[key]
    if not isinstance(items, list):
        raise BadRow("wrong-type", f"{key!r} must be a list, not {kind(items)}")
    if not items:
        raise BadRow("no-reply", f"{key!r} is empty")
    return items


def _looks_like_pairs(items: Any) -> bool:
    first = items[0] if isinstance(items, list) and items else None
    return isinstance(first, dict) and "human" in first and "role" not in first and "from" not in first


def _unused_keys(row: Row, shape: Shape) -> Iterator[tuple[str, str]]:
    """(where the key is, the key) for each non-empty key that is ignored."""
    choices = [DIALOGUE_KEYS, SYSTEM_KEYS, TOOLS_KEYS, IMAGE_KEYS]
    if shape not in (messages, pairs):
        choices += [RESPONSE_KEYS, ("history",)]
        choices += [("instruction",), ("input",)] if shape is alpaca else [QUERY_KEYS]
    read = {"id", *(first(row, keys) for keys in choices)}  # an id only names the row
    if trace_of(row):
        read.add(TRACE)
    if shape is not text:
        read.update(TEMPLATE_KWARGS_KEYS)
    if shape in (query_response, alpaca):
        read.update(REASONING_KEYS)
    names = (key for key in row if key not in read)
    yield from (("rows", key) for key in names if says_something(row[key]))
    for item in _dialogue(row) if shape in (messages, pairs) else ():
        if shape is messages:
            yield from unused_message_keys(item)
        else:
            names = (key for key in item if key not in ("human", "assistant", *REASONING_KEYS))
            yield from (("messages", key) for key in names if says_something(item[key]))


def _rounds(row: Row, query: str) -> Conversation:
    """System, history, question and answer. An empty question means text for pre-training (CSV cells)."""
    turns: list[Message] = []
    history = row.get("history") or []
    if isinstance(history, str):
        history = parsed_field(history, "history")
    if not isinstance(history, list):
        raise BadRow("wrong-type", f"'history' must be a list of pairs, not {kind(history)}")
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRow("wrong-type", f"pair {number} of 'history' must be [question, answer]")
        turns.append(Message("user", text_of(pair[0], f"'history' pair {number}")))
        turns.append(Message("assistant", text_of(pair[1], f"'history' pair {number}")))
    if query:
        turns.append(Message("user", query))
    elif turns or any(row.get(key) for key in SYSTEM_KEYS):
        raise BadRow("no-query", "the row has a system prompt or a history, but no question")
    else:
        return text(row)
    turns.append(_reply(row, len(turns) + 1))
    return _completed(row, turns)


def _completed(row: Row, turns: list[Message]) -> Conversation:
    """Adds the row's system prompt, images and tools, and checks that there is a reply to train on."""
    key = first(row, SYSTEM_KEYS)
    if key is not None:
        system = text_of(row[key], repr(key))
        if turns[0].role != "system":
            turns.insert(0, Message("system", system))
        elif system not in ("", turns[0].content):
            raise BadRow("two-systems", f"{key!r} and the first message are different system prompts")
    if turns[-1].role != "assistant":
        raise BadRow("no-reply", f"the dialogue ends with the {turns[-1].role}, not with a reply")
    if len(turns) > 1 and not any(turn.role == "user" for turn in turns):
        raise BadRow("no-query", "the dialogue has no user message")
    if len(turns) == 1 and turns[0].reasoning:
        raise BadRow("no-query", "the reply has reasoning, but no question")
    return Conversation(tuple(with_images(row, turns)), read_tools(row), template_kwargs=read_template_kwargs(row))


def _reply(row: Row, number: int) -> Message:
    """The response as a message. In a row with tools, a list of calls becomes tool calls."""
    key = first(row, RESPONSE_KEYS)
    value = row[key] if key is not None else None
    if first(row, TOOLS_KEYS) is not None and (calls := _list_of_calls(value)) is not None:
        if not calls:
            raise BadRow("empty-reply", f"{key!r} is an empty list of calls")
        return Message("assistant", "", read_calls(value, number), reasoning=reasoning_of(row, "the row"))
    answer, parts = split_reasoning(value, repr(key))
    return Message("assistant", _non_empty(answer, key), reasoning=reasoning_of(row, "the row", parts))


def _list_of_calls(value: Any) -> list[Any] | None:
    """The list of calls if a response is one, or its JSON text; else None."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parsed(value)
        except ValueError:
            return None
    if not isinstance(value, list):
        return None
    return value if all(isinstance(each, dict) and {"name", "arguments"} <= each.keys() for each in value) else None


def _non_empty(reply: str, key: str | None) -> str:
    if not reply.strip():
        raise BadRow("empty-reply", f"{key!r} is empty")
    return reply
