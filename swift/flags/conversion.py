"""Text of the command line, or a value of a file, -> a value of a flag's type. Knows no flag by name."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from swift.system import utf8
from swift.system.nearest import nearest as nearest

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Spec(NamedTuple):
    """Properties of a flag besides type and default; see `flag`."""

    alias: tuple[str, ...] = ()
    values: Mapping[str, str] = types.MappingProxyType({})
    commas: bool = False
    bare: str | None = None
    positional: bool = False


def convert(value: object, kind: Any, spec: Spec) -> object:
    """`value`, text of the command line or a value of a file, as `kind`."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(value, str):
        value = spec.values.get(value, value)
    if without_none(kind) is not kind:
        absent = value is None or (isinstance(value, str) and value.casefold() == "none") or value == ["none"]
        return None if absent else convert(value, without_none(kind), spec)
    if origin is Literal:
        return _choice(value, inner)
    if origin in (list, tuple):
        parts: Sequence[object] = value if isinstance(value, (list, tuple)) else [value]
        if spec.commas and len(parts) == 1 and isinstance(parts[0], str):
            parts = [part.strip() for part in parts[0].split(",") if part.strip()]
        return origin(convert(part, inner[0], spec) for part in parts)
    if origin is dict:
        return {_text(key): convert(part, inner[1], spec) for key, part in _object(value).items()}
    return READ[kind](value)


def without_none(kind: Any) -> Any:
    """`X` of `X | None`; any other `kind` unchanged."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    (inner,) = (each for each in typing.get_args(kind) if each is not type(None))
    return inner


def _choice(value: object, choices: tuple[str, ...]) -> str:
    # YAML reads a bare `no` as False, so a boolean means any of its spellings
    spellings = (TRUE if value else FALSE) if isinstance(value, bool) else (str(value),)
    for spelling in spellings:
        for choice in choices:
            if choice.casefold() == spelling.casefold():
                return choice
    raise ValueError(f"{value!r} is not one of {', '.join(choices)}{nearest(str(value), choices)}")


def _object(value: object) -> dict[Any, object]:
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=without_duplicates)
        except ValueError as error:
            raise ValueError(f"{value!r} is not a JSON object ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not a JSON object")
    return value


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r} is not text")
    if not utf8.is_encodable(str(value)):
        raise ValueError(f"{value!r} has a lone surrogate, which UTF-8 cannot encode")
    return str(value)


def _boolean(value: object) -> bool:
    word = str(value).casefold()
    if word not in TRUE + FALSE:
        raise ValueError(f"{value!r} is not true or false")
    return word in TRUE


def _integer(value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        return int(_text(value))
    except ValueError:
        raise ValueError(f"{value!r} is not a whole number") from None


def _number(value: object) -> float:
    try:
        number = float(_text(value))
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"{value!r} is not a number")
    return number


READ: dict[Any, Callable[[object], object]] = {
    str: _text,
    bool: _boolean,
    int: _integer,
    float: _number,
    Any: lambda value: value,  # as JSON has it
}


def without_duplicates(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """A JSON object's pairs as a dict. Raises ValueError for a duplicate key, which would lose a value."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)} is given twice")
    return values
