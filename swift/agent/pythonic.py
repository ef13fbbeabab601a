"""Calls in Python's syntax, `name(key=value, ...)`. Knows no format's syntax."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from swift.agent import PYTHON_WORDS, ArgumentTags, Notation
from swift.agent.arguments import python_literal
from swift.agent.jsontext import dumps, loads
from swift.agent.tagged import write_arguments
from swift.chat import ToolCall

TAGS = ArgumentTags(
    before="",
    between="=",
    after="",
    ends=(),
    joint=", ",
    notation=Notation(PYTHON_WORDS, "'", (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r"))),
)
"""Lists and objects are JSON, as in the templates with this syntax."""

_OPENING = re.compile(r"\s*\[\s*")
_NAME = re.compile(r"([\w.-]+)\s*\(\s*")
_KEY = re.compile(r"([^\s=(),]+)\s*=\s*")
_NEXT = re.compile(r"\s*([,)\]])\s*")
_CLOSED = re.compile(r"\s*(?:[,)\]}:]|\Z)")
"""What follows a closing quote: some templates do not escape quotes within strings."""


def write_call(call: ToolCall) -> str:
    return f"{call.name}({write_arguments(call.arguments, TAGS)})"


class Read(NamedTuple):
    """Calls, and the end of their text."""

    calls: tuple[ToolCall, ...]
    end: int


def read_list(text: str, at: int) -> Read | None:
    """The calls between [ and ] at `at`; None if there are none or one is incomplete."""
    calls: list[ToolCall] = []
    found = _OPENING.match(text, at)
    while found:
        call = _read_call(text, found.end())
        found = call and _NEXT.match(text, call.end)
        if not call or not found or found[1] == ")":
            return None
        calls += call.calls
        if found[1] == "]":
            return Read(tuple(calls), found.end(1))
    return None


def read_lines(text: str, at: int) -> Read:
    """The calls from `at` on, separated by white space."""
    calls: list[ToolCall] = []
    at = _space(text, at)
    while call := _read_call(text, at):
        calls += call.calls
        at = _space(text, call.end)
    return Read(tuple(calls), at)


def _space(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())


def _read_call(text: str, at: int) -> Read | None:
    name = _NAME.match(text, at)
    if not name:
        return None
    values: dict[str, Any] = {}
    at = name.end()
    while not text.startswith(")", at):
        key = _KEY.match(text, at)
        end = _value_end(text, key.end()) if key else at
        found = _NEXT.match(text, end)
        if not key or not found or found[1] == "]":
            return None
        try:
            values[key[1]] = _value(text[key.end() : end])
        except ValueError:
            return None
        at = found.start(1) if found[1] == ")" else found.end()
    return Read((ToolCall(name[1], dumps(values)),), at + 1)


def _value_end(text: str, at: int) -> int:
    """The end of the value at `at`: before a comma or bracket outside of it."""
    depth = 0
    while at < len(text):
        letter = text[at]
        if letter in "\"'":
            at = _text_end(text, at)
            continue
        if depth == 0 and letter in ",)]}":
            break
        depth += (letter in "([{") - (letter in ")]}")
        at += 1
    return at


def _text_end(text: str, at: int) -> int:
    """The position after the closing quote of the string at `at`."""
    quote, at = text[at], at + 1
    while at < len(text):
        if text[at] == quote and _CLOSED.match(text, at + 1):
            return at + 1
        at += 2 if text[at] == "\\" else 1
    return len(text)


def _value(text: str) -> Any:
    """JSON or a Python literal; for other text the part between quotes."""
    try:
        return loads(text)
    except ValueError:
        pass
    try:
        value = python_literal(text)
        dumps(value)
        return value
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            return text[1:-1]
        raise ValueError(str(error)) from None
