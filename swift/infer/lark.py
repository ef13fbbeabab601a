"""Texts and schemas in the language of llguidance's grammars, a dialect of Lark."""

from __future__ import annotations

import json
from typing import Any

HEAD = ("%llguidance {}", r"TEXT: /(.|\n)*/")

_JSON = {"whitespace_pattern": r"( |\n {0,16})?"}
"""Between the parts of a JSON text: nothing, a space, or a new line with its indentation. Free white space would let a
model write blanks for ever."""


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def json_of(schema: dict[str, Any]) -> str:
    """JSON text that fits the schema."""
    return "%json " + json.dumps({**schema, "x-guidance": _JSON}, ensure_ascii=False)


def plain_json_of(schema: dict[str, Any]) -> str:
    """JSON text that fits the schema, with the white space that Python's json writes."""
    options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return "%json " + json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)
