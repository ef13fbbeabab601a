"""Tools that do one of several things, by the value of a parameter: "Lock or unlock a door.", "Turn a light on or off."

Its questions are those of a tool that locks and of one that unlocks. Knows no values of other parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from swift.synth import grammar_zh, verbs
from swift.synth.names import tokens
from swift.synth.properties import Property

_VERBS = re.compile(r"^(?:to )?(?P<verbs>[a-z]+(?:, [a-z]+)*,? (?:or|and) [a-z]+) (?P<object>[a-z].+)$", re.IGNORECASE)
_ON_OR_OFF = re.compile(
    r"^(?P<verb>turns?|switch(?:es)?|powers?|puts?) "
    r"(?:on(?: or | and |/)off (?P<before>.+)|(?P<after>.+?) on(?: or | and |/)off)$",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"^(?:controls?|operates?|manages?|steers?) (?P<object>.+)$", re.IGNORECASE)
_TRUE = re.compile(
    r"\btrue\b[^a-z]*(?:(?:to|if|for|means?|turns?|switch(?:es)?|it|the|is) )*(?P<word>[a-z]+)", re.IGNORECASE
)


class Deed(NamedTuple):
    """One of the things. `name` and `description`: of a tool that does only this; `literal`: the value of the
    parameter, as a question has it."""

    name: str
    description: str
    literal: str


def deeds(name: str, description: str, properties: Sequence[Property]) -> tuple[Property, Sequence[Deed]] | None:
    """The parameter that decides, and what it decides between; None for a tool that does one thing."""
    first = re.split(r"(?<=[.!?])\s", description.strip())[0].strip().rstrip(".")
    said, thing, particle = _said(first)
    for each in properties:
        if each.parameter.optional or each.inner:
            continue
        values = each.parameter.enum or ()
        chosen = said or [word for value in values if (word := str(value).lower()) in verbs.known()]
        found = _literals(each, chosen, particle) if len(chosen) > 1 and thing else {}
        if found and (said or len(found) == len(values)):
            nouns = [word for word in tokens(name)[1:] if word in thing.lower().split() and word not in found]
            return each, [
                Deed("_".join([*verb.split(), *nouns]), f"{verb[:1].upper()}{verb[1:]} {thing}", literal)
                for verb, literal in found.items()
            ]
    return None


def deeds_zh(name: str, description: str, properties: Sequence[Property]) -> tuple[Property, Sequence[Deed]] | None:
    """`deeds` for Chinese: "打开或关闭某个房间的灯"."""
    first = re.split(r"[。\uff0c,.\uff1b;\n(\uff08]", description.strip())[0].strip()
    values = [str(value) for each in properties for value in each.parameter.enum]
    verb = "|".join(map(re.escape, sorted({*grammar_zh.known(), *values}, key=len, reverse=True)))
    found = re.match(rf"((?:{verb})(?:、(?:{verb}))*(?:或者|或|和|/)(?:{verb}))(.+)$", first)
    if not found:
        return None
    said, thing = re.split("、|或者|或|和|/", found[1]), found[2]
    for each in properties:
        if each.parameter.optional or each.inner:
            continue
        literals = _literals_zh(each, said)
        if literals:
            return each, [Deed(name, f"{verb}{thing}", literal) for verb, literal in literals.items()]
    return None


def _literals_zh(each: Property, said: Sequence[str]) -> Mapping[str, str]:
    if each.parameter.type == "boolean":
        stated = re.search(r"true\s*(?:为|表示|是|则|时|即|:|\uff1a)*(\w+)|是否(\w+)", each.about, re.IGNORECASE)
        word = (stated[1] or stated[2]) if stated else said[0]
        fitting = [verb for verb in said if word.startswith(verb) or verb.startswith(word)] or said[:1]
        if len(said) != 2 or len(fitting) != 1:
            return {}
        return {verb: f"{{{each.name}={str(verb == fitting[0]).lower()}}}" for verb in said}
    values = [str(value) for value in each.parameter.enum]
    found = {verb: [value for value in values if value.startswith(verb) or verb.startswith(value)] for verb in said}
    if len(values) != len(said) or any(len(fitting) != 1 for fitting in found.values()):
        return {}
    return {verb: f"{{{each.name}={fitting[0]}}}" for verb, fitting in found.items()}


def _said(first: str) -> tuple[list[str], str, bool]:
    """(what is done, to what, whether the verbs differ in a particle) of the first sentence of a description."""
    if found := _ON_OR_OFF.match(first):
        verb = verbs.base_form(found["verb"].lower())
        return [f"{verb} on", f"{verb} off"], found["before"] or found["after"], True
    if found := _VERBS.match(first):
        said = [verbs.base_form(each.lower()) for each in re.split(r",? (?:or|and) |, ", found["verbs"])]
        return said, found["object"], False
    found = _CONTROL.match(first)
    return [], found["object"] if found else "", False


def _literals(each: Property, said: Sequence[str], particle: bool) -> Mapping[str, str]:
    """Verb -> the value that means it, as a slot; empty unless each verb has one of its own."""
    if each.parameter.type == "boolean":
        if len(said) != 2:
            return {}
        first_is_true = _is_true(each, said, particle)
        return {verb: f"{{{each.name}={str(first_is_true == (verb == said[0])).lower()}}}" for verb in said}
    found: dict[str, str] = {}
    for verb in said:
        word = verb.split()[-1] if particle else verb
        fitting = [str(value) for value in each.parameter.enum if _means(str(value).lower(), word, particle)]
        if len(fitting) == 1:
            found[verb] = f"{{{each.name}={fitting[0]}}}"
    return found if len(set(found.values())) == len(said) == len(each.parameter.enum) else {}


def _is_true(each: Property, said: Sequence[str], particle: bool) -> bool:
    """Whether true means the first of two verbs."""
    words = [verb.split()[-1] if particle else verb for verb in said]
    stated = _TRUE.search(each.about)
    for word in [*([stated["word"].lower()] if stated else []), *tokens(each.name)]:
        fitting = [at for at, verb in enumerate(words) if _means(word, verb, particle)]
        if len(fitting) == 1:
            return fitting[0] == 0
    return True


def _means(word: str, verb: str, particle: bool) -> bool:
    if particle:
        return word == verb
    return word in (verb, verbs.participle(verb)) or word.startswith(verb.removesuffix("e"))
