"""The value or the exception of a call as text for the model, and as much of it as is kept. Calls nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple, cast

from pydantic_core import to_jsonable_python

from swift.system import utf8
from swift.tools.errors import ToolError

MAX_ITEMS = 100_000
"""Items of an iterator, which may have no end."""


class ResultText(NamedTuple):
    """`text`: the beginning of a text of `characters` characters. UTF-8 can encode it.

    `replaced`: the whole contained invalid UTF-8 or lone surrogates, which U+FFFD replaces.
    """

    text: str
    characters: int
    replaced: bool = False


class CutError(ToolError):
    """A failure whose text may be cut already."""

    def __init__(self, whole: ResultText) -> None:
        super().__init__(whole.text)
        self.whole = whole


def of_value(value: object, most: int | None = None) -> ResultText:
    """The result of a function: a string as it is, other values as JSON with null for NaN and Infinity.

    Keeps at most `most` characters. Raises ToolError for a value without a text, and what the value's own methods
    raise.
    """
    return value if isinstance(value, ResultText) else _kept(_text(value), most)


def of_error(error: BaseException, most: int | None = None) -> ResultText:
    """What a function raised: the type and the message, or the text of a ToolError alone."""
    if isinstance(error, CutError):
        return error.whole
    try:
        message = str(error)
    except Exception as second:  # the exceptions of users are user code too
        message = f"(its message raised {type(second).__name__})"
    return _kept(message if isinstance(error, ToolError) else f"{type(error).__name__}: {message}", most)


def _kept(text: str, most: int | None) -> ResultText:
    encodable = utf8.replace_surrogates(text)
    return ResultText(encodable[:most], len(encodable), encodable is not text)


def _text(value: object) -> str:
    """Invalid bytes become lone surrogates."""
    try:
        value = _plain(value)
        if isinstance(value, str):
            return value
        jsonable = to_jsonable_python(value, fallback=str)
    except RecursionError:
        raise ToolError("the result contains itself or is nested too deep") from None
    try:
        return json.dumps(
            json.loads(json.dumps(jsonable), parse_constant=lambda _: None),
            ensure_ascii=False,
        )
    except RecursionError:
        raise ToolError("the result is nested too deep") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ToolError(f"the result cannot be written as JSON: {error}") from None


def _plain(value: object) -> object:
    """`value` with text for bytes and lists for iterators, and with strings of exactly that type."""
    if isinstance(value, str):
        return str.__str__(value)  # of an enumeration, the value
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, dict):
        return {_key(_plain(key)): _plain(part) for key, part in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return [_plain(part) for part in cast(Sequence[object], value)]
    if isinstance(value, Iterator):
        items = list(islice(value, MAX_ITEMS + 1))
        if len(items) > MAX_ITEMS:
            raise ToolError(f"the result is an iterator of more than {MAX_ITEMS:,} items")
        return [_plain(part) for part in items]
    return value


def _key(name: object) -> object:
    return utf8.replace_surrogates(name) if isinstance(name, str) else name  # pydantic rejects lone surrogates in keys
