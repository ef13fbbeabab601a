"""JSON as text: a value is cut out of its object without being rewritten. Knows no tool."""

from __future__ import annotations

import json
import re

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


def _skip(text: str, position: int) -> int:
    space = re.compile(r"\s*").match(text, position)
    return space.end() if space else position
