"""The object of a sentence as people say it: without the words that a description has for its readers only.

Knows no values and no sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from swift.synth.names import tokens
from swift.synth.slots import Slot
from swift.synth.verbs import ARTICLE

_WHOSE = re.compile(r"\b(?:an?|the) (?:customer|user|client|guest|patient|company)['’]s |\b(?:an? )?existing ")
"""Owners: "the calendar" for "the user's calendar"."""
_ONE_OF = re.compile(r"\bone of (?:the |your |my )?(?:[a-z]+['’]s )?([a-z]+?)s\b")
_BY = re.compile(r" by (?:(?:its|their|a|the) )?[a-z]+(?:(?:,| and| or|, or|, and) [a-z]+)*$")
"""What things are looked for by: "restaurants in a city by cuisine"."""
_SEVERAL = re.compile(
    r" (?:between|among|for|with|to) ((several|some|many|other|a number of|a group of) "
    r"(?:people|persons|guests|participants|attendees|recipients)\b)"
)


def plain(spoken: str, slots: Sequence[Slot], required: Sequence[Slot]) -> str:
    """The object without owners, and without the nouns of parameters that it cannot name: optional ones, and the parts
    of nested objects. `slots`: of all parameters, `required`: those that the question says."""
    nouns = {noun for each in slots for noun in each.nouns}
    text = _WHOSE.sub("the ", spoken) if "{" not in spoken else spoken
    text = _ONE_OF.sub(r"a \1", text)
    text = _BY.sub(lambda found: "" if nouns & set(found[0].split()) else found[0], text)
    for each in slots:
        outer, _, inner = each.paths[0].partition(".")
        is_optional = each not in required and len(each.paths) == 1
        for noun in tokens(outer)[-1:] if inner else each.nouns if is_optional else ():
            text = re.sub(rf"(?<=\w) (?:in|at|for|on|to|with|from) {ARTICLE}{re.escape(noun)}$", "", text)
    return text


def with_several(spoken: str, slots: Sequence[Slot]) -> tuple[str, list[Slot]]:
    """The object with the people that it names: "a bill between 4 people", "a meeting with Mei and Leo"; and the slots
    that are left."""
    for each in slots:
        is_counted = each.kind == "people" and not each.is_array
        is_named = each.is_array and each.kind in ("people", "person", "email")
        if (is_counted or is_named) and (found := _SEVERAL.search(spoken)):
            start, end = found.span(2 if is_counted else 1)
            return f"{spoken[:start]}{{{each.paths[0]}}}{spoken[end:]}", [other for other in slots if other is not each]
    return spoken, list(slots)
