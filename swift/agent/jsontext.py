"""JSON as text: a value is cut out of its object without being rewritten. Knows no tool."""

from __future__ import annotations

import json
import re
from typing import Any

_DECODER = json.JSONDecoder()


def slice_value(text: str, keys: tuple[str, ...]) -> str | None:
    """The text of the first of `keys` at the top level of the JSON object `text`; None where there is none.

    Raises json.JSONDecodeError when `text` is no JSON object.
    """
    position = _skip(text, 0)
    if text[position : position + 1] != "{":
        raise json.JSONDecodeError("expected an object", text, position)
    position = _skip(text, position + 1)
    found: str | None = None
    while text[position : position + 1] != "}":
        key, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position)
        if text[position : position + 1] != ":":
            raise json.JSONDecodeError("expected ':'", text, position)
        start = _skip(text, position + 1)
        _, position = _DECODER.raw_decode(text, start)
        if key in keys and found is None:
            found = text[start:position]
        position = _skip(text, position)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
        elif text[position : position + 1] != "}":
            raise json.JSONDecodeError("expected ',' or '}'", text, position)
    return found


def is_json(text: str) -> bool:
    """Whether `text` is JSON from end to end."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def write_values(arguments: str, form: str) -> dict[str, str]:
    """The values of a JSON object as text, for forms that write each by itself: a string bare, the rest as JSON."""
    values = json.loads(arguments) if is_json(arguments) else None
    if not isinstance(values, dict):
        raise ValueError(f"{form} writes arguments that are a JSON object, not {arguments[:60]!r}")
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
    }


def read_value(text: str) -> Any:
    """A value that `write_values` wrote."""
    return json.loads(text) if is_json(text) else text


def _skip(text: str, position: int) -> int:
    space = re.compile(r"\s*").match(text, position)
    return space.end() if space else position
