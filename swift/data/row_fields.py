"""The parts of a row that a person may correct: answers, calls, weights. Knows no file, and does not validate rows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from swift.agent import jsontext
from swift.data.loss_weights import WEIGHT_KEYS, weight_of
from swift.data.readers import json_row
from swift.data.reasoning import REASONING_KEYS
from swift.data.row_messages import ROLES
from swift.data.row_values import BadRow, Row, first, parsed
from swift.data.rows import DIALOGUE_KEYS, QUERY_KEYS, RESPONSE_KEYS, SYSTEM_KEYS

Step = str | int
Keys = tuple[Step, ...]


class Field(NamedTuple):
    """A part of a row that can be edited. `keys`: where it is. `number`: of its message, from 1; 0: of the row.

    `what`: content, reasoning, name, arguments, weight or value. `is_json`: its text is JSON.
    """

    keys: Keys
    number: int
    role: str
    what: str
    text: str
    is_json: bool = False


def fields(row: Row) -> list[Field]:
    """The parts of a row that can be edited one by one; none of a row of an unknown shape."""
    key = first(row, DIALOGUE_KEYS)
    if key is None:
        keys = (first(row, SYSTEM_KEYS), *_queries(row), first(row, RESPONSE_KEYS))
        return [_text((each,), 0, each, "content", row[each]) for each in dict.fromkeys(keys) if each]
    found = [_text((each,), 0, each, "content", row[each]) for each in [first(row, SYSTEM_KEYS)] if each]
    try:
        items = parsed(row[key]) if isinstance(row[key], str) else row[key]
    except ValueError:
        return found
    for at, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            found += _of_message((key, at), at + 1, item)
    return found


def _queries(row: Row) -> list[str]:
    named = [key for key in ("instruction", "input") if row.get(key) is not None]
    return named if "instruction" in named else [key for key in [first(row, QUERY_KEYS)] if key]


def _of_message(keys: Keys, number: int, item: Row) -> Iterator[Field]:
    role = str(item.get("role") if item.get("role") is not None else item.get("from"))
    for key in ("human", "assistant"):
        if key in item:
            yield _text((*keys, key), number, key, "content", item[key])
    for key in REASONING_KEYS:
        if isinstance(item.get(key), str) and item[key]:
            yield Field((*keys, key), number, role, "reasoning", item[key])
    for key in ("content", "value"):
        if item.get(key) is not None:
            yield _text((*keys, key), number, role, "content", item[key])
    for key in ("tool_calls", "function_call"):
        if item.get(key):
            yield from _of_calls((*keys, key), number, role, item[key])
    if ROLES.get(role) in ("assistant", "call"):
        yield Field((*keys, "weight"), number, role, "weight", _weight(item, number))


def _weight(item: Row, number: int) -> str:
    try:
        weight = weight_of(item, number)
    except BadRow:
        return ""
    return "" if weight is None else f"{weight:g}"


def _of_calls(keys: Keys, number: int, role: str, calls: Any) -> Iterator[Field]:
    if isinstance(calls, str):
        yield Field(keys, number, role, "value", calls, is_json=True)
        return
    for at, call in enumerate(calls if isinstance(calls, list) else [calls]):
        inner = (*keys, at) if isinstance(calls, list) else keys
        if isinstance(call, dict) and isinstance(call.get("function"), dict):
            inner, call = (*inner, "function"), call["function"]
        if isinstance(call, dict) and isinstance(call.get("name"), str):
            yield Field((*inner, "name"), number, role, "name", call["name"])
            key = "arguments" if call.get("arguments") is not None else "parameters"
            arguments = call.get(key, "{}")
            text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            yield Field((*inner, key), number, role, "arguments", text, is_json=True)


def _text(keys: Keys, number: int, role: str, what: str, value: Any) -> Field:
    if isinstance(value, str):
        return Field(keys, number, role, what, value)
    return Field(
        keys, number, role, "value", json.dumps(value, ensure_ascii=False, indent=1, default=str), is_json=True
    )


def changed(row: Row, texts: Mapping[Keys, str]) -> Row:
    """The row with other texts in its fields. Raises ValueError that names the field."""
    new = row
    for field in fields(row):
        if field.keys not in texts or texts[field.keys] == field.text:
            continue
        text = texts[field.keys]
        try:
            if field.what == "weight":
                new = _replaced(new, field.keys[:-1], partial(_weighted, text))
            else:
                new = _replaced(new, field.keys, partial(_text_of, field, text))
        except ValueError as error:
            where = f"message {field.number}, {field.what}" if field.number else ".".join(map(str, field.keys))
            raise ValueError(f"{where}: {error}") from None
    return new


def _replaced(value: Any, keys: Keys, change: Callable[[Any], Any]) -> Any:
    """A copy of a value with a part changed. JSON text on the way, such as a dialogue in a CSV cell, stays text."""
    if not keys:
        return change(value)
    if isinstance(value, str):
        return jsontext.dumps(_replaced(parsed(value), keys, change))
    copy: Any = value.copy()
    key, rest = keys[0], keys[1:]
    copy[key] = _replaced(value.get(key) if isinstance(value, dict) else value[key], rest, change)
    return copy


def _text_of(field: Field, text: str, old: Any) -> Any:
    """The new value of a field whose text a user has changed. What was text stays text."""
    if field.what == "name" and not text.strip():
        raise ValueError("the name is empty")
    new = jsontext.loads(text, once=True) if field.is_json else text
    if field.what == "arguments" and not isinstance(new, dict):
        raise ValueError("arguments must be a JSON object")
    return text if isinstance(old, str) or old is None else new


def _weighted(text: str, item: Row) -> Row:
    """A message with another weight; an empty text removes it."""
    plain = {key: value for key, value in item.items() if key not in WEIGHT_KEYS}
    if not text.strip():
        return plain
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise ValueError(f"{text!r} is not a number of at least 0")
    return {**plain, "weight": int(weight) if weight.is_integer() else weight}


def row_of(text: str) -> Row:
    """The row that a user has typed as JSON. Raises ValueError."""
    try:
        row = json_row(text.encode())
    except UnicodeEncodeError:
        raise ValueError("the text has half of a surrogate pair") from None
    if isinstance(row, BadRow):
        raise ValueError(f"{row.rule}: {row.message}")
    return row
