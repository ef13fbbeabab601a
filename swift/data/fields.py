"""What every part of a row is read with: its keys, texts and values. Knows no shape of a row."""

from __future__ import annotations

import ast
import json
from typing import Any

Row = dict[str, Any]


class BadRow(ValueError):
    """A row that cannot be trained on: `rule` is a short stable name, the message says what is wrong."""

    def __init__(self, rule: str, message: str, excerpt: str = "") -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.excerpt = excerpt  # only where there is no row to take one from


def parsed(value: str) -> Any:
    """JSON text, or else a Python literal, as a value; ValueError when it is neither."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ValueError(f"neither JSON nor a Python literal: {error}") from None


def parsed_field(value: str, key: str, rule: str = "wrong-type") -> Any:
    try:
        return parsed(value)
    except ValueError as error:
        raise BadRow(rule, f"{key!r} is {error}") from None


def first(row: Row, keys: tuple[str, ...]) -> str | None:
    """The first of `keys` that the row has a value for."""
    for key in keys:
        if row.get(key) is not None:
            return key
    return None


def text_of(value: Any, where: str) -> str:
    """A text, or a list of text parts as one text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and are_parts(value):
        return "".join(part if isinstance(part, str) else _part(part, where) for part in value)
    raise BadRow("wrong-type", f"{where} must be text, this is {kind(value)}")


def are_parts(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(part, str) or (isinstance(part, dict) and "type" in part) for part in value)


def _part(part: Row, where: str) -> str:
    if part["type"] != "text" or not isinstance(part.get("text"), str):
        raise BadRow("not-text", f"{where} has a part of type {part['type']!r}; only text can stand there")
    return str(part["text"])


def optional(value: Any, key: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise BadRow("wrong-type", f"{key!r} must be text, this is {kind(value)}")


def kind(value: Any) -> str:
    """A value's type in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names: dict[type, str] = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
