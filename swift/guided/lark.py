"""Texts and schemas in the language of llguidance's grammars, a dialect of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

Special = Callable[[str], int | None]
"""The token that a text is alone, if it is one that no text is made of."""

HEAD = ("%llguidance {}", r"TEXT: /(.|\n)*/")

_JSON = {"whitespace_pattern": r"( |\n {0,16})?"}
"""Between the parts of a JSON text: nothing, a space, or a new line with its indentation. Free white space would let a
model write blanks for ever."""


_MARK = re.compile(r"(<[^<>\s]+>|\[/?[A-Z][A-Z_]*\])")
"""What is a token of its own in many vocabularies."""


def split_at_special_tokens(text: str, special: Special) -> list[str]:
    """The text, cut around special tokens."""
    parts: list[str] = []
    for part in filter(None, _MARK.split(text)):
        if parts and special(part) is None and special(parts[-1]) is None:
            parts[-1] += part
        else:
            parts.append(part)
    return parts


def literals(parts: Sequence[str], special: Special) -> str:
    """Texts and special tokens, one after the other."""
    tokens = [(part, special(part)) for part in parts]
    return " ".join(quoted(part) if token is None else f"<[{token}]>" for part, token in tokens)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def json_rule(schema: dict[str, Any]) -> str:
    """JSON text that fits the schema."""
    return "%json " + json.dumps({**schema, "x-guidance": _JSON}, ensure_ascii=False)


def plain_json_rule(schema: dict[str, Any]) -> str:
    """JSON text that fits the schema, with the white space that Python's json writes."""
    options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return "%json " + json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)
