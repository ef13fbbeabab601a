"""The words of names of functions and parameters, and which of them say nothing. Knows no schema."""

from __future__ import annotations

import re

CHINESE = re.compile("[\u3400-\u9fff]")
_SILENT = frozenset(("id", "ids", "number", "no", "name", "value", "string", "text", "code", "key", "type"))
_PARTICLES = frozenset(("of", "the", "a", "an", "to", "from", "in", "on", "at", "for", "and", "or"))
GENERIC = _SILENT | _PARTICLES
"""Words that do not tell what a parameter is about."""


def tokens(name: str) -> list[str]:
    """The words of a name, in lower case."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\-.\s]+", " ", name)
    return spaced.lower().split()


def nouns_of(name: str) -> list[str]:
    """The nouns of a function's name, in the singular."""
    words = tokens(name)
    rest = [word for word in words[1:] or words if word not in GENERIC and len(word) > 1]
    return [singular(word) for word in rest]


def singular(name: str) -> str:
    if name.endswith("ies") and len(name) > 4:
        return f"{name[:-3]}y"
    if name.endswith(("sses", "shes", "ches", "xes")):
        return name[:-2]
    return name[:-1] if name.endswith("s") and not name.endswith(("ss", "us", "is")) and len(name) > 3 else name
