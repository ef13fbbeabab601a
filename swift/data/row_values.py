"""Reads the keys, texts and values of a row. Knows no row format."""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

from swift.agent.jsontext import DuplicateKeyError, LoneSurrogateError, dumps, loads, refuse_lone_surrogates

Row = dict[str, Any]


class BadRow(ValueError):
    """A row that cannot be trained on. `rule` is a short, stable name; `message` describes the error."""

    def __init__(self, rule: str, message: str, excerpt: str = "") -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.excerpt = excerpt  # set only where there is no row to quote


class RowWarning(NamedTuple):
    """A warning about a row that is trained on nevertheless. `rule` is a short, stable name."""

    rule: str
    message: str


def parsed(value: str) -> Any:
    """The value of a JSON text or, failing that, of a Python literal. Raises ValueError if it is neither."""
    try:
        return loads(value, once=True)
    except (DuplicateKeyError, LoneSurrogateError):
        raise
    except ValueError as error:
        try:
            found = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ValueError(f"neither JSON nor a Python literal: {error}") from None
        refuse_lone_surrogates(found)
        return found


def parsed_field(value: str, key: str, rule: str = "wrong-type") -> Any:
    try:
        return parsed(value)
    except ValueError as error:
        raise BadRow(rule_of(error, rule), f"{key!r} is {error}") from None


def rule_of(error: ValueError, otherwise: str) -> str:
    """The rule for a JSON parse error: a specific one, or `otherwise`."""
    if isinstance(error, DuplicateKeyError):
        return "duplicate-key"
    return "lone-surrogate" if isinstance(error, LoneSurrogateError) else otherwise


def json_text(value: Any, where: str, rule: str = "wrong-type") -> str:
    """A value as JSON text."""
    try:
        return dumps(value)
    except ValueError as error:
        raise BadRow(rule_of(error, rule), f"{where} cannot be written as JSON: {error}") from None


def text_of(value: Any, where: str) -> str:
    """A string, or a list of text parts joined to one string."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and are_parts(value):
        return "".join(part if isinstance(part, str) else _part(part, where) for part in value)
    raise BadRow("wrong-type", f"{where} must be text, not {kind(value)}")


def are_parts(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(part, str) or (isinstance(part, dict) and "type" in part) for part in value)


def _part(part: Row, where: str) -> str:
    key = "refusal" if part["type"] == "refusal" else "text"
    if part["type"] != key or not isinstance(part.get(key), str):
        raise BadRow("not-text", f"{where} has a part of type {part['type']!r}; only text is allowed there")
    return str(part[key])


def optional(value: Any, key: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise BadRow("wrong-type", f"{key!r} must be text, not {kind(value)}")


def first(row: Row, keys: tuple[str, ...]) -> str | None:
    """The first of `keys` whose value in the row is not null."""
    for key in keys:
        if row.get(key) is not None:
            return key
    return None


def says_something(value: Any) -> bool:
    """Whether a value is neither null nor empty."""
    return value is not None and value not in ("", [], {})


def kind(value: Any) -> str:
    """The name of a value's JSON type, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names: dict[type, str] = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
