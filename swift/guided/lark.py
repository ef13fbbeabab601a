"""Literals and JSON schemas in llguidance's grammar language, a dialect of Lark. Knows no tool and no format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

Special = Callable[[str], int | None]
"""Text -> the special token with that text, if there is one."""

HEAD = ("%llguidance {}", r"TEXT: /(.|\n)*/")

_JSON = {"whitespace_pattern": r"( |\n {0,16})?"}
"""White space within JSON: none, a space, or a line break with indentation. Unlimited white space would let a model
generate blanks for ever."""


_MARK = re.compile(r"(<[^<>\s]+>|\[/?[A-Z][A-Z_]*\])")
"""Texts that are special tokens in many vocabularies."""


def split_at_special_tokens(text: str, special: Special) -> list[str]:
    """The text, split before and after special tokens."""
    parts: list[str] = []
    for part in filter(None, _MARK.split(text)):
        if parts and special(part) is None and special(parts[-1]) is None:
            parts[-1] += part
        else:
            parts.append(part)
    return parts


def literals(parts: Sequence[str], special: Special) -> str:
    """A sequence of string literals and special tokens."""
    tokens = [(part, special(part)) for part in parts]
    return " ".join(quoted(part) if token is None else f"<[{token}]>" for part, token in tokens)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def json_rule(schema: dict[str, Any]) -> str:
    """A rule for JSON that matches the schema."""
    return "%json " + json.dumps({**schema, "x-guidance": _JSON}, ensure_ascii=False)


def plain_json_rule(schema: dict[str, Any]) -> str:
    """A rule for JSON that matches the schema, with the white space of Python's json.dumps."""
    options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return "%json " + json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)
