"""Rows of preference training -> dialogues with judged completions. Knows no loss, no tokenizer and no file.

Pairs (`read_pair`) have one of these shapes; what the two dialogues share is the prompt:

    {prompt, chosen, rejected}          texts, or lists of messages
    {chosen, rejected}                  two lists of messages
    {messages, rejected_response}       another last reply: a text, a message or a list of messages
    {messages, rejected_messages}       another dialogue
    {query, response, rejected_response}

Judged completions (`read_judged`) have a `label`, true or false: {prompt, completion, label}, {messages, label} or
{query, response, label}. All may have `tools`, `system` and what else `rows` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from swift.chat import Conversation, Message, Preference
from swift.data import rows
from swift.data.row_format import RowFormat
from swift.data.row_messages import ROLES
from swift.data.row_values import BadRow, Row, RowWarning, first, kind, parsed_field
from swift.data.validate import validate

PAIR_KEYS = ("chosen", "rejected")
REPLIES = ("rejected_response", "rejected_messages")
LABELS = {"true": True, "1": True, "false": False, "0": False}


def read_pair(row: Any, columns: Mapping[str, str], on_unused: rows.OnUnusedKey) -> Preference:
    """A row with a preferred and a rejected completion. Raises BadRow."""
    row = _renamed(row, columns)
    chosen_row, rejected_row, prompt_row = _two_rows(row)
    once = _once(on_unused)
    chosen = rows.read(chosen_row, None, once)
    try:
        rejected = rows.read(rejected_row, None, once)
    except BadRow as bad:
        raise BadRow(bad.rule, f"of the rejected dialogue: {bad.message}", bad.excerpt) from None
    start = _length(prompt_row) if prompt_row else _common(chosen.messages, rejected.messages)
    _check_pair(chosen, rejected, start)
    return _judged(chosen, start, rejected=rejected.messages[start:])


def read_judged(row: Any, columns: Mapping[str, str], on_unused: rows.OnUnusedKey) -> Preference:
    """A row with one completion and a label. Raises BadRow."""
    row = _renamed(row, columns)
    if any(row.get(key) is not None for key in (*PAIR_KEYS, *REPLIES)):
        raise BadRow("not-judged", "the row is a pair of completions: pairs are for --rlhf_type dpo and orpo")
    label = _label(row.get("label"))
    row = {key: value for key, value in row.items() if key != "label"}
    prompt, completion = row.get("prompt"), row.get("completion")
    if _are_messages(prompt) or _are_messages(completion):
        rest = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
        asked = _asked(prompt, "completion")
        found = rows.read(rest | {"messages": [*asked, *_replies(completion, "completion")]}, None, on_unused)
        start = _length(rest | {"messages": [*asked, _PLACEHOLDER]})
    else:
        found = rows.read(row, None, on_unused)
        start = _after_question(found.messages)
    return _judged(found, start, label=label)


def validate_preference(found: Conversation) -> list[RowWarning]:
    """Validates what is good: the dialogue with the preferred completion, or the prompt of an undesirable one.

    A rejected completion may call a tool that does not exist: that may be why it was rejected.
    """
    assert isinstance(found, Preference)
    return validate(found if found.label else found.with_messages(found.messages[: found.prompt]))


PAIRS = RowFormat(read_pair, validate_preference)
JUDGED = RowFormat(read_judged, validate_preference)


# Shapes of pairs ------------------------------------------------------------------------------------------------------

_PLACEHOLDER = {"role": "assistant", "content": "."}
"""A reply that makes a prompt a dialogue."""


def _two_rows(row: Row) -> tuple[Row, Row, Row | None]:
    """(row of the chosen dialogue, row of the rejected one, row of the prompt if the row says what it is)."""
    given = [key for key in ("rejected", *REPLIES) if row.get(key) is not None]
    if not given:
        label = " ('label' is for --rlhf_type kto)" if "label" in row else ""
        raise BadRow("no-rejected", f"the row has none of rejected, rejected_response and rejected_messages{label}")
    if len(given) > 1:
        raise BadRow("two-rejected", f"the row has {given[0]!r} and {given[1]!r}: remove one of them")
    key = given[0]
    rejected = row[key]
    rest = {name: value for name, value in row.items() if name not in (key, "chosen")}
    if key == "rejected":
        if row.get("chosen") is None:
            raise BadRow("no-chosen", "the row has 'rejected', but no 'chosen'")
        return _chosen_rejected(rest, row["chosen"], rejected)
    if row.get("chosen") is not None:
        raise BadRow("two-chosen", f"the row has 'chosen' and {key!r}: {key!r} belongs to the row's own messages")
    dialogue = first(rest, rows.DIALOGUE_KEYS)
    if key == "rejected_messages":
        if dialogue is None:
            raise BadRow("no-chosen", "the row has 'rejected_messages', but no 'messages'")
        return rest, rest | {dialogue: _list(rejected, key)}, None
    if dialogue is not None:
        items = _list(rest[dialogue], dialogue)
        if not items:
            raise BadRow("no-reply", f"{dialogue!r} is empty")
        return rest, rest | {dialogue: [*items[:-1], *_replies(rejected, key)]}, None
    response = first(rest, rows.RESPONSE_KEYS)
    if response is None:
        raise BadRow("no-chosen", "the row has 'rejected_response', but neither messages nor a response")
    return rest, rest | {response: rejected}, None


def _chosen_rejected(rest: Row, chosen: Any, rejected: Any) -> tuple[Row, Row, Row | None]:
    """The rows of `chosen` and `rejected`; `rest`: the other keys."""
    sides = {"chosen": chosen, "rejected": rejected}
    kinds = {name: "list" if isinstance(side, list) else kind(side) for name, side in sides.items()}
    if len(set(kinds.values())) > 1:
        raise BadRow("wrong-type", f"'chosen' is {kind(chosen)} and 'rejected' {kind(rejected)}: they must be alike")
    dialogue = first(rest, rows.DIALOGUE_KEYS)
    prompt = rest.get("prompt") if dialogue is None else _list(rest[dialogue], dialogue)
    if isinstance(chosen, str) and not _are_messages(prompt) and dialogue is None:
        if first(rest, rows.QUERY_KEYS) is None:
            raise BadRow("no-query", "'chosen' and 'rejected' are texts, but there is no prompt")
        return rest | {"response": chosen}, rest | {"response": rejected}, None
    rest = {name: value for name, value in rest.items() if name not in ("prompt", dialogue)}
    replies = {name: _replies(side, name) for name, side in sides.items()}
    if all(_is_reply(each[0]) for each in replies.values()):
        asked = _asked(prompt, "chosen")
        made = [rest | {"messages": [*asked, *each]} for each in (*replies.values(), [_PLACEHOLDER])]
        return made[0], made[1], made[2]
    if prompt is not None:
        _check_prompt(prompt, replies["chosen"])
    return rest | {"messages": replies["chosen"]}, rest | {"messages": replies["rejected"]}, None


def _check_prompt(prompt: Any, chosen: list[Row]) -> None:
    """Raises BadRow for a prompt beside whole dialogues that is not what they begin with."""
    if _are_messages(prompt):
        same = chosen[: len(prompt)] == prompt
    else:
        same = any(item.get("content", item.get("value")) == prompt for item in chosen[:-1])
    if not same:
        raise BadRow("two-prompts", "'chosen' is a dialogue of its own, which does not contain 'prompt'")


def _check_pair(chosen: Conversation, rejected: Conversation, start: int) -> None:
    for said, name in ((chosen.messages, "chosen"), (rejected.messages, "rejected")):
        if start == 0 or not any(message.role == "user" for message in said[:start]):
            raise BadRow("no-query", "the chosen and the rejected dialogue do not begin with the same question")
        if said[start].role != "assistant":
            raise BadRow(
                "different-prompts",
                f"message {start + 1} of the {name} dialogue is the first that differs, and is the "
                f"{said[start].role}'s: only what the model writes can be preferred",
            )
    if chosen.messages[start:] == rejected.messages[start:]:
        raise BadRow("same-completion", "the chosen and the rejected completion are the same")


# Parts ----------------------------------------------------------------------------------------------------------------


def _renamed(row: Any, columns: Mapping[str, str]) -> Row:
    if not isinstance(row, dict):
        raise BadRow("not-an-object", f"a row must be a JSON object, not {kind(row)}")
    kept = {key: value for key, value in row.items() if key not in columns}
    return kept | {columns[key]: value for key, value in row.items() if key in columns}


def _once(on_unused: rows.OnUnusedKey) -> rows.OnUnusedKey:
    """`on_unused`, called once for each key of the two dialogues."""
    seen: set[tuple[str, str]] = set()

    def call(what: str, key: str) -> None:
        if (what, key) not in seen:
            seen.add((what, key))
            on_unused(what, key)

    return call


def _label(value: Any) -> bool:
    found = LABELS.get(str(value).strip().lower())
    if found is None:
        said = "the row has no 'label'" if value is None else f"'label' must be true or false, not {value!r}"
        raise BadRow("no-label", said)
    return found


def _list(value: Any, key: str) -> list[Any]:
    found = parsed_field(value, key) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise BadRow("wrong-type", f"{key!r} must be a list of messages, not {kind(found)}")
    return found


def _replies(value: Any, key: str) -> list[Row]:
    """A completion as messages: a text, a message or a list of messages."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    found = [value] if isinstance(value, dict) else value
    if not _are_messages(found):
        raise BadRow("wrong-type", f"{key!r} must be a text or a list of messages, not {kind(value)}")
    return list(found)


def _asked(prompt: Any, key: str) -> list[Row]:
    """A prompt as messages."""
    if prompt is None:
        raise BadRow("no-query", f"{key!r} is a reply, but there is no prompt")
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not _are_messages(asked):
        raise BadRow("wrong-type", f"the prompt must be a text or a list of messages, not {kind(prompt)}")
    if _is_reply(asked[-1]):
        raise BadRow("reply-in-prompt", "the prompt ends with a reply, so the completion would continue it")
    return list(asked)


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and ("role" in each or "from" in each) for each in value)
    )


def _is_reply(item: Row) -> bool:
    name = item.get("role") if item.get("role") is not None else item.get("from")
    return ROLES.get(str(name)) in ("assistant", "call")


def _length(row: Row) -> int:
    """The number of messages of the prompt of a row whose last message is a placeholder."""
    return len(rows.read(row).messages) - 1


def _common(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> int:
    """The number of messages that two dialogues share. Where one goes on after the other's end, up to the question."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = next((at for at, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
    return _after_question(chosen[:shared]) if shared == min(len(chosen), len(rejected)) else shared


def _after_question(messages: tuple[Message, ...]) -> int:
    """The number of messages up to the last question."""
    return max((at + 1 for at, message in enumerate(messages) if message.role == "user"), default=0)


def _judged(found: Conversation, start: int, rejected: tuple[Message, ...] = (), label: bool = True) -> Preference:
    """The dialogue with its prompt untrained. Raises BadRow for what cannot be judged."""
    if found.is_text or start == 0:
        raise BadRow("no-query", "the row has a reply, but no question")
    if found.images or any(message.images for message in rejected):
        raise BadRow("not-text", "the row has images; preference training is for text")
    for number, message in enumerate(found.messages[:start], 1):
        if message.weight:
            raise BadRow("weight-on-prompt", f"message {number} has a weight, but belongs to the prompt")
    completions = {"completion": found.messages[start:], **({"rejected completion": rejected} if rejected else {})}
    for name, completion in completions.items():
        if not any(message.role == "assistant" and message.weight != 0 for message in completion):
            raise BadRow("untrained-completion", f"the {name} has no reply with a weight")
    messages = (*map(_untrained, found.messages[:start]), *found.messages[start:])
    return Preference(messages, found.tools, "", 0, found.template_kwargs, start, rejected, label)


def _untrained(message: Message) -> Message:
    return replace(message, weight=0.0) if message.role == "assistant" else message
