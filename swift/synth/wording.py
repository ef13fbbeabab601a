"""Other words for the nouns of descriptions and for the values of enums. words.toml and idioms_zh.toml have them."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from swift.synth.names import singular
from swift.system import toml_file

_ENDS = "of|in|on|for|from|to|at|by|with|and|or|that|as|is|are|into|between|after|before|until"
"""Words that may follow a noun that is replaced. Before another noun, as in "the weather forecast", it stays."""


@cache
def _nouns() -> Mapping[str, Sequence[str]]:
    nouns: Mapping[str, Sequence[str]] = _read("words.toml")["nouns"]
    return nouns


@cache
def _values() -> Mapping[str, Sequence[str]]:
    """English and Chinese ones."""
    return {**_read("words.toml")["values"], **_read("idioms_zh.toml")["values"]}


def _read(name: str) -> Mapping[str, Any]:
    return toml_file.read(Path(__file__).with_name(name))


def reworded(text: str, taken: Collection[str], rng: random.Random) -> str:
    """A noun phrase with one of its nouns replaced by another word for it: "the light of {room}" for the lamp. `taken`:
    words that mean something else in this set of tools. A word that the text already has is not used. Returns the text
    unchanged if there is no other word for any noun."""
    said = {*taken, *map(singular, re.findall(r"[a-z]+", text))}
    found = [
        (each, instead)
        for each in re.finditer(rf"(?<![{{\w.])[a-z]+(?![\w}}.=])(?! (?!(?:{_ENDS})\b)[a-z])", text)
        if (instead := [word for word in _nouns().get(singular(each[0]), ()) if not set(word.split()) & said])
    ]
    if not found:
        return text
    noun, instead = rng.choice(found)
    word = rng.choice(instead)
    if noun[0] != singular(noun[0]):
        word = plural(word)
    before = text[: noun.start()]
    if article := re.search(r"\ban? $", before, re.IGNORECASE):
        before = before[: article.start()] + ("an " if word[0] in "aeio" else "a ")
    return before + word + text[noun.end() :]


def of_value(words: str) -> Sequence[str]:
    """Other words for a value of an enum; empty if none are known."""
    return _values().get(words.lower(), ())


def plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if re.search("[^aeiou]y$", noun) else f"{noun}s"
