"""Strict JSON (RFC 8259): parsing, writing, and slicing a value out of an object's text. Knows no tool."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")


class DuplicateKeyError(ValueError):
    """An object has a duplicate key, of which most parsers keep one."""


class LoneSurrogateError(ValueError):
    """A string contains a lone surrogate."""


def loads(text: str, once: bool = False) -> Any:
    """The value of a JSON text.

    Raises ValueError for what other programs cannot read: NaN and Infinity, a number beyond a double, a lone
    surrogate (not encodable as UTF-8), nesting that is too deep and, with `once`, a duplicate key.
    """
    try:
        value = (_ONCE if once else _DECODER).decode(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if may_hold_lone_surrogate(text):
        refuse_lone_surrogates(value)
    return value


def raw_decode(text: str, at: int = 0, once: bool = False) -> tuple[Any, int]:
    """(the value at `at`, its end). Raises ValueError like `loads`."""
    try:
        value, end = (_ONCE if once else _DECODER).raw_decode(text, at)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if may_hold_lone_surrogate(text[at:end]):
        refuse_lone_surrogates(value)
    return value, end


def dumps(value: Any) -> str:
    """The JSON text of a value, not escaped to ASCII. Raises ValueError for a value that `loads` would not return."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not text.isascii():
        refuse_lone_surrogates(text)
    return text


def can_dump(value: Any) -> bool:
    """Whether JSON can represent a value: no NaN, no dates, no bytes. Does not check for lone surrogates."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(can_dump, value.values()))
    if isinstance(value, list | tuple):
        return all(map(can_dump, value))
    return value is None or isinstance(value, str | int)


def is_json(text: str) -> bool:
    """Whether `text` is JSON."""
    try:
        loads(text)
    except ValueError:
        return False
    return True


def slice_value(text: str, keys: tuple[str, ...]) -> str | None:
    """The text of the value of the first of `keys` in the JSON object `text`; None if it has none of them.

    Raises ValueError if `text` is not a JSON object.
    """
    position = _skip(text, 0)
    if text[position : position + 1] != "{":
        raise json.JSONDecodeError("expected an object", text, position)
    position = _skip(text, position + 1)
    found: str | None = None
    while text[position : position + 1] != "}":
        key, position = raw_decode(text, position)
        position = _skip(text, position)
        if text[position : position + 1] != ":":
            raise json.JSONDecodeError("expected ':'", text, position)
        start = _skip(text, position + 1)
        _, position = raw_decode(text, start)
        if key in keys and found is None:
            found = text[start:position]
        position = _skip(text, position)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
        elif text[position : position + 1] != "}":
            raise json.JSONDecodeError("expected ',' or '}'", text, position)
    return found


# Surrogates -----------------------------------------------------------------------------------------------------------


def may_hold_lone_surrogate(text: str) -> bool:
    """Whether a value parsed from this JSON text may contain a lone surrogate."""
    return _ESCAPED.search(text) is not None or has_lone_surrogate(text)


def has_lone_surrogate(text: str) -> bool:
    """Whether a string contains a lone surrogate, so that it cannot be encoded as UTF-8."""
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        return True
    return False


def refuse_lone_surrogates(value: Any) -> None:
    """Raises LoneSurrogateError with the place, for a string or key at any depth that contains one."""
    if _any_lone_surrogate(value):
        _refuse_lone_surrogates(value, "")


def _any_lone_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return not value.isascii() and has_lone_surrogate(value)
    if isinstance(value, dict):
        return any(map(_any_lone_surrogate, value)) or any(map(_any_lone_surrogate, value.values()))
    return isinstance(value, list | tuple) and any(map(_any_lone_surrogate, value))


def _refuse_lone_surrogates(value: Any, where: str) -> None:
    if isinstance(value, str):
        if has_lone_surrogate(value):
            half = next(letter for letter in value if "\ud800" <= letter <= "\udfff")
            place = f"{where} holds " if where else ""
            raise LoneSurrogateError(f"{place}\\u{ord(half):04x}, a lone surrogate, which UTF-8 cannot hold")
    elif isinstance(value, dict):
        for key, part in value.items():
            _refuse_lone_surrogates(key, f"a key of {where}" if where else "a key")
            _refuse_lone_surrogates(part, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            _refuse_lone_surrogates(part, f"{where}[{number}]")


# Stricter than the standard library -----------------------------------------------------------------------------------


def _constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:20]} is beyond what a double can hold")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DuplicateKeyError(f"an object has the key {twice!r} twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_float)
_ONCE = json.JSONDecoder(parse_constant=_constant, parse_float=_float, object_pairs_hook=_once)


def _skip(text: str, position: int) -> int:
    space = re.compile(r"\s*").match(text, position)
    return space.end() if space else position
