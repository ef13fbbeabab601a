"""Requests that look like an offered function, and that no offered function does. Knows no reply.

Two sources: verbs that none of the functions has, with the object of one of them ("print booking HB-12345"), and
questions of another kind with a value of one of them ("Who is the mayor of Oslo?").
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from swift.chat import Tool
from swift.synth import phrasing
from swift.synth.catalogue import Function, Parameter
from swift.synth.described import near_misses
from swift.synth.names import tokens

TOO_ALIKE = 0.34
"""Share of common words above which two functions may do the same: neither is a near miss for the other."""
_KINDS = {
    "first_name": "person",
    "weekday": "",
    "month": "",
    "street": "",
    "url": "",
    "phone": "",
    "bool": "",
    "time": "",
}
_EMPTY = frozenset(
    ("the", "a", "an", "of", "for", "to", "in", "on", "at", "by", "with", "and", "or", "is", "are", "get",
     "set", "find", "list", "show", "make", "new", "from", "that", "this", "it", "its", "all", "one", "as")
)  # fmt: skip


def request(
    functions: Sequence[Function], lead: Function, rng: random.Random, questions: Mapping[str, Sequence[Sequence[str]]]
) -> str | None:
    """A request with values of `lead` that none of the functions does, or None. English only."""
    if rng.random() < 0.5:
        near = near_misses([Tool(dict(each.spec)) for each in functions], [lead])
        if near:
            chosen = rng.choice(near)
            return phrasing.request(chosen, rng.choice(chosen.ask), rng).text if chosen.ask else None
    return _other_question(functions, lead, rng, questions)


def alike(one: Function, other: Function) -> bool:
    """Whether the names and descriptions of two functions have so much in common that they may do the same."""
    return in_common(one, other) > TOO_ALIKE


def in_common(one: Function, other: Function) -> float:
    """The share of words that the names and descriptions of two functions have in common, from 0 to 1."""
    first, second = _words(one), _words(other)
    return len(first & second) / max(1, min(len(first), len(second)))


def _other_question(
    functions: Sequence[Function], lead: Function, rng: random.Random, questions: Mapping[str, Sequence[Sequence[str]]]
) -> str | None:
    paths = sorted(path for path in lead.required() if kind_of(lead.parameter(path)) in questions)
    if not paths:
        return None
    about = lead.parameter(rng.choice(paths))
    words = {word for each in functions for word in _words(each)}
    fitting = [
        text
        for unless, text in questions[kind_of(about)]
        if not any(word.startswith(stem) for word in words for stem in unless.split("|"))
    ]
    said = about.draw(rng).words
    if not fitting or len(said) > 40 or (about.type == "integer" and not said.isdigit()):
        return None
    return rng.choice(fitting).format(x=said)


def kind_of(about: Parameter) -> str:
    """The kind of the values of a parameter: of the questions in phrases.toml; empty for none."""
    if about.enum or about.parameters is not None or about.type in ("array", "boolean"):
        return ""
    if about.type == "integer":
        return "number"
    of: Any = about.of
    if isinstance(of, str) and of in _KINDS:
        return _KINDS[of]
    if isinstance(of, str) and of.isidentifier():
        return of
    return "text" if isinstance(of, list | tuple) and all(_is_name(each) for each in of) else ""


def _is_name(value: Any) -> bool:
    """Whether a value is a name or a noun rather than a number, an expression or a sentence."""
    return isinstance(value, str) and re.fullmatch(r"[A-Z][A-Za-z' ]{2,30}", value) is not None


def _words(function: Function) -> frozenset[str]:
    return _words_of(function.name, function.description)


@lru_cache(maxsize=8192)
def _words_of(name: str, description: str) -> frozenset[str]:
    found = re.findall(r"[a-z]+", f"{' '.join(tokens(name))} {description}".lower())
    return frozenset(word.removesuffix("s") for word in found if word not in _EMPTY and len(word) > 2)
