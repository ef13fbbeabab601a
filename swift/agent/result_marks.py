"""Finds where a tool result begins in the text of a reply: at `Observation:` outside the arguments of a call.

Training, serving and parsing follow this one rule. Knows no format's module, no token and no stop word of a user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

RESULT_MARKS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "Observation:": re.compile(r"^[ \t]*Action Input:", re.MULTILINE | re.IGNORECASE),
        "✿RESULT✿:": re.compile(r"^✿ARGS✿:", re.MULTILINE),
    }
)
"""The marks that are ordinary text, and for each a pattern of the label before the arguments of a call.

Marks that are special tokens (`<|observation|>`) are not among them: they have ids of their own.
"""

_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<open>[\[{(])|(?P<close>[\]})])|[,:]|-?\d[\w.+-]*|"
    r"-?(?:true|false|null|True|False|None|NaN|Infinity)\b|"
    r'(?P<string>"[^"\\\r\n]*(?:\\[^\r\n][^"\\\r\n]*)*"|' + r"'[^'\\\r\n]*(?:\\[^\r\n][^'\\\r\n]*)*')"
)
"""A token of JSON, or of a Python literal, which some models write. No string contains a line break."""


def in_argument_string(text: str, at: int, mark: str) -> bool | None:
    """Whether the `mark` at `at` is within a string of the arguments of a call; None if that string has no end yet.

    A string must be closed before the end of its line: after a forgotten quote, marks begin results again.
    """
    label = RESULT_MARKS.get(mark)
    if label is None:
        return False
    line = text[text.rfind("\n", 0, at) + 1 : at]
    if '"' not in line and "'" not in line:
        return False  # most marks begin a line
    position = max((found.end() for found in label.finditer(text, 0, at)), default=at)
    depth = 0
    while position < at:
        found = _TOKEN.match(text, position)
        if found is None:
            is_open = text[position] in "\"'" and not re.search(r"[\r\n]", text[position:])
            return None if is_open else False
        position = found.end()
        if found["string"] and position > at:
            return True
        depth += bool(found["open"]) - bool(found["close"])
        if depth <= 0 and not found["space"]:
            return False  # the arguments end here
    return False


def find_mark(text: str, mark: str, start: int = 0) -> int:
    """The position of the first `mark` from `start` that begins a result; -1 if there is none.

    In a text that ends within a string, a mark in that string is part of the arguments.
    """
    return next(mark_positions(text, mark, start), -1)


def mark_positions(text: str, mark: str, start: int = 0) -> Iterator[int]:
    """The positions of all marks from `start` that begin a result, as `find_mark` finds them."""
    at = text.find(mark, start)
    while at >= 0:
        if in_argument_string(text, at, mark) is False:
            yield at
        at = text.find(mark, at + len(mark))
