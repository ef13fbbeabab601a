"""A schema's regular expression -> texts that match it, by a random walk through llguidance's grammar of the schema."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from functools import cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer

LONGEST = 40
"""Most characters: users do not type longer codes."""
WALKS = 4
"""Tries for each text that is wanted. A try that gets longer than `LONGEST` characters is dropped."""
MARKS = 3
"""Most punctuation marks that a pattern asks for at a place; one that allows more allows any."""
_QUOTE = ord('"')


def matching(schema: Mapping[str, Any], count: int, rng: random.Random) -> list[str]:
    """At most `count` different texts that a schema with a `pattern` allows, of ASCII characters, letters and digits
    where it leaves the choice.

    Fewer where most walks are too long; none for patterns that llguidance does not know, such as look-aheads.
    """
    rules = {key: schema[key] for key in ("pattern", "minLength", "maxLength") if key in schema}
    start = LLMatcher(_bytes(), LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", **rules})))
    if start.is_error():
        return []
    made: dict[str, None] = {}
    for _ in range(WALKS * count):
        if len(made) == count:
            break
        if text := _walk(start.deep_copy(), rng):
            made[text] = None
    return list(made)


@cache
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")


def _walk(matcher: LLMatcher, rng: random.Random) -> str:
    """A text; empty for a walk that does not end. The matcher expects a JSON string, quotes included."""
    made = bytearray()
    matcher.consume_token(_QUOTE)
    while len(made) <= LONGEST:
        mask = matcher.compute_bitmask()
        allowed = [byte for byte in range(32, 127) if mask[byte >> 3] >> (byte & 7) & 1 and byte != ord("\\")]
        sorts: dict[str, list[int]] = {}
        for byte in allowed:
            sorts.setdefault(_sort(byte), []).append(byte)
        if len(sorts.get("mark", ())) > MARKS and len(sorts) > 1:
            del sorts["mark"]
        if not sorts:
            return ""
        byte = rng.choice(rng.choice(list(sorts.values())))
        if byte == _QUOTE:
            return made.decode()
        made.append(byte)
        matcher.consume_token(byte)
    return ""


def _sort(byte: int) -> str:
    text = chr(byte)
    if byte == _QUOTE:
        return "end"
    return "digit" if text.isdigit() else "capital" if text.isupper() else "small" if text.islower() else "mark"
