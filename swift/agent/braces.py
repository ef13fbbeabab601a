"""Calls in Gemma's syntax, `call:name{key:value,...}`, with special quotes around strings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from swift.agent import PYTHON_WORDS, ArgumentTags, Notation, Syntax
from swift.agent.jsontext import dumps, is_json, loads
from swift.agent.tagged import constant, write_arguments
from swift.chat import ToolCall


class Read(NamedTuple):
    """A value, and the end of its text."""

    value: Any
    end: int


class Braces(NamedTuple):
    """The texts around a call and around a result, and the quotes of strings."""

    begin: str
    end: str
    result_begin: str
    result_end: str
    quote: str

    @property
    def tags(self) -> ArgumentTags:
        return ArgumentTags(
            before="", between=":", after="", ends=(), joint=",", notation=Notation(quote=self.quote, deep=True)
        )

    @property
    def syntax(self) -> Syntax:
        return Syntax(
            stop=(self.result_begin,), call=(self.begin,), results="turn", special=tuple(self), tags=self.tags
        )

    def call(self, content: str, calls: Sequence[ToolCall]) -> str:
        if not calls:
            return content
        written = [f"call:{each.name}{{{write_arguments(each.arguments, self.tags)}}}" for each in calls]
        return content + "".join(f"{self.begin}{each}{self.end}" for each in written) + self.result_begin

    def result(self, texts: Sequence[str]) -> str:
        written = [f"response:tool{{value:{self.quote}{text}{self.quote}}}" for text in texts]
        return "".join(f"{self.result_begin}{each}{self.result_end}" for each in written)

    def parse(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        return read_calls(text, self.begin, self.end, self.result_begin, self.quote)


def read_calls(text: str, begin: str, end: str, stop: str, quote: str) -> tuple[str, tuple[ToolCall, ...]]:
    """(content around the calls, calls). Calls are `begin` call:name{...} `end`, with `stop` after the last."""
    said, calls = "", []
    opening = re.compile(re.escape(begin) + r"\s*call:\s*([^\s{}]+)\s*(?=\{)")
    at = 0
    while found := opening.search(text, at):
        try:
            values, after = _object(text, found.end(), quote)
        except (ValueError, RecursionError):
            break
        said += text[at : found.start()]
        calls.append(ToolCall(found[1], dumps(values)))
        at = after + len(end) * text.startswith(end, after)
    return said + (text[at:].removesuffix(stop) if calls else text), tuple(calls)


_KEY = re.compile(r"[^\s:,{}\[\]]+")
_BARE = re.compile(r"[^,{}\[\]]+")
_SPACE = re.compile(r"\s*")


def _value(text: str, at: int, quote: str) -> Read:
    if text.startswith(quote, at):
        return _text(text, at, quote)
    if text.startswith("{", at):
        return _object(text, at, quote)
    if text.startswith("[", at):
        return _list(text, at, quote)
    return _bare(text, at)


def _object(text: str, at: int, quote: str) -> Read:
    values: dict[str, Any] = {}
    at = _after(text, at, "{")
    while not text.startswith("}", at):
        key = _text(text, at, quote) if text.startswith(quote, at) else _matched(_KEY, text, at)
        values[key.value], at = _value(text, _after(text, key.end, ":"), quote)
        at = _separated(text, at, "}")
    return Read(values, at + 1)


def _list(text: str, at: int, quote: str) -> Read:
    values: list[Any] = []
    at = _after(text, at, "[")
    while not text.startswith("]", at):
        value, at = _value(text, at, quote)
        values.append(value)
        at = _separated(text, at, "]")
    return Read(values, at + 1)


def _text(text: str, at: int, quote: str) -> Read:
    start = at + len(quote)
    end = text.index(quote, start)
    return Read(text[start:end], end + len(quote))


def _bare(text: str, at: int) -> Read:
    """A number, a constant of JSON or Python, or an unquoted string."""
    word, end = _matched(_BARE, text, at)
    word = word.strip()
    if word in PYTHON_WORDS:
        return Read(constant(word), end)
    return Read(loads(word) if is_json(word) else word, end)


def _matched(pattern: re.Pattern[str], text: str, at: int) -> Read:
    found = pattern.match(text, at)
    if not found:
        raise ValueError(f"nothing at {at}")
    return Read(found[0], found.end())


def _after(text: str, at: int, mark: str) -> int:
    """The position after a text and the white space around it."""
    found = _skip(text, at)
    if not text.startswith(mark, found):
        raise ValueError(f"no {mark} at {at}")
    return _skip(text, found + len(mark))


def _separated(text: str, at: int, closing: str) -> int:
    """The position of the next member, or of `closing`."""
    at = _skip(text, at)
    return at if text.startswith(closing, at) else _after(text, at, ",")


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at
