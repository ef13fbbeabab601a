"""Places for values in questions: a slot for each parameter, its phrases, and what it may replace in an object.

Knows no values and no sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from swift.synth.catalogue import SLOT
from swift.synth.names import GENERIC, tokens
from swift.synth.properties import Property
from swift.synth.slot_phrases import SPECIAL, phrases_of, switches, things_of, unit_words
from swift.synth.verbs import is_plural

_LISTED = frozenset(("weekday", "date", "time", "month", "city", "food", "language"))
"""Kinds whose lists take the phrases of one value: "on Monday and Friday"."""


_NO_NOUNS = frozenset(("from", "to", "since", "after", "before", "until", "till", "by", "in", "on", "at", "cc", "bcc"))
"""Names of parameters that no article stands before."""


class Slot(NamedTuple):
    """A place for a value in questions. `paths`: the parameters that its phrases say. `merge`: how it replaces `nouns`
    in the object."""

    paths: tuple[str, ...]
    required: bool
    label: str
    phrases: tuple[str, ...]
    trailers: tuple[str, ...]
    nouns: tuple[str, ...]
    merge: str
    role: str
    kind: str
    is_array: bool = False


def slots_of(properties: Sequence[Property], owner: Sequence[str]) -> list[Slot]:
    """The slots of a function's parameters. `owner`: nouns of what the function is about."""
    made: list[Slot] = []
    called = _names(properties)
    for each in properties:
        if each.inner:
            made += _nested(each)
        else:
            made.append(_slot(each, each.name, not each.parameter.optional, owner, called[each.name]))
    return [_labelled(each, made) for each in made]


def _names(properties: Sequence[Property]) -> dict[str, str]:
    """How users call each parameter: by its label, or, where two have the same one, by the words of its name."""
    labels = [each.label.lower() for each in properties]
    return {
        each.name: each.label if labels.count(each.label.lower()) == 1 else " ".join(tokens(each.name))
        for each in properties
    }


def _labelled(slot: Slot, slots: Sequence[Slot]) -> Slot:
    """A slot whose phrases have its label if another slot could be meant: two times, two lengths."""
    alike = [each for each in slots if each is not slot and each.kind == slot.kind and each.role == slot.role]
    if not alike or slot.kind in ("bool", "object"):
        return slot
    kept = tuple(text for text in slot.phrases if slot.label in SLOT.sub("", text))
    return slot._replace(phrases=kept or (f", {slot.label} {{{slot.paths[0]}}}",))


def _nested(outer: Property) -> Iterator[Slot]:
    required = not outer.parameter.optional
    called = _names(outer.inner)
    inner = [
        _slot(each, f"{outer.name}.{each.name}", not each.parameter.optional, tokens(outer.name), called[each.name])
        for each in outer.inner
    ]
    needed = [each for each in inner if each.required]
    extra = [each for each in inner if not each.required]
    if required or not needed:
        yield from (each._replace(required=required and each.required) for each in inner)
        return
    joined = tuple("".join(_at(each.phrases, at) for each in needed) for at in range(4))
    paths = tuple(path for each in needed for path in each.paths)
    yield Slot(paths, False, outer.label, joined, (), (), "", "", "object")
    for each in extra:
        more = tuple(text + _at(each.phrases, at) for at, text in enumerate(joined))
        yield Slot((*paths, *each.paths), False, outer.label, more, (), (), "", "", "object")


def _at(texts: Sequence[str], at: int) -> str:
    return texts[at % len(texts)] if texts else ""


def _slot(each: Property, path: str, required: bool, owner: Sequence[str], called: str) -> Slot:
    slot = f"{{{path}}}"
    if each.parameter.type == "boolean":
        return Slot((path,), required, called, tuple(switches(each, path)), (), (), "", each.kind.role, "bool")
    enum = bool(each.parameter.enum) or _is_closed(each)
    phrases = list(phrases_of(each, enum))
    first = re.split(r"\s(?:of|in|for|from|to|at|on|by|with|below|as)\s", each.label.lower())[0]
    nouns = [
        word
        for word in (*tokens(each.name), *re.findall(r"[a-z]+", first))
        if word not in GENERIC and word not in ("second", "third") and not (len(word) > 4 and word.endswith("ed"))
    ]
    if not nouns:  # "to": "Phone number with country code"
        said = re.split(r"\s(?:of|in|for|from|to|at|on|by|with)\s|[,.;(]", each.about.lower())[0].split()
        nouns = [word for word in said if len(said) <= 3 and word.isalpha() and word not in GENERIC]
    if not nouns and each.kind.name in ("id", "title", "text", "person"):
        named = re.match(r"(?:full |first |last )?name of (?:the |an? )?([a-z]+)", called.lower())
        nouns = [named[1]] if named else []
        nouns += [word for word in owner if word not in nouns]
    if each.kind.name == "id" and nouns and not enum and not each.kind.role:
        noun = nouns[-1] if nouns == list(owner) else nouns[0]
        phrases = [
            f" of {noun} {{p}}",
            f" for {noun} {{p}}",
            f", {noun} {{p}}",
            f" ({noun} {{p}})",
            ", {label} {p}",
            " for {p}",
        ]
    made = tuple(dict.fromkeys(_with_slot(text, called, slot) for text in phrases))
    trailers: tuple[str, ...] = (
        f" The {called} {'are' if is_plural(called) else 'is'} {slot}.",
        f" {called[:1].upper()}{called[1:]}: {slot}.",
        f" Use {slot} as the {called}.",
    )
    if called.lower() in _NO_NOUNS:
        trailers = trailers[1:2]
    merge = "enum" if enum else each.kind.merge
    if each.kind.role in ("from", "to"):
        merge = ""
    if each.parameter.type == "array":
        merge = "list"
        bare = [": {p}", " ({p})"] if required else []
        listed = [*bare, ", {label}: {p}", ", {label} {p}"]
        if any(word in ("cc", "bcc") for word in tokens(each.name)):
            listed = phrases
        elif each.kind.name in _LISTED or any(word in SPECIAL for word in tokens(each.name)):
            listed += [text for text in phrases if text not in listed] * 2
        made = tuple(_with_slot(text, called, slot) for text in listed)
    return Slot(
        (path,),
        required,
        called,
        made,
        () if called.lower() in unit_words() or (each.kind.role in ("min", "max") and things_of(each)) else trailers,
        tuple(dict.fromkeys(nouns)),
        merge,
        each.kind.role,
        each.kind.name,
        each.parameter.type == "array",
    )


def _with_slot(phrase: str, label: str, slot: str) -> str:
    """A phrase with its label and its slot: "3 people" for "number of people", not "3 number of people"."""
    counted = label.removeprefix("number of ")
    return phrase.replace("{p} {label}", f"{{p}} {counted}").replace("{label}", label).replace("{p}", slot)


def _is_closed(each: Property) -> bool:
    of = each.parameter.of
    return isinstance(of, list) and len(of) <= 12 and each.kind.name in ("category", "text", "unit", "rating", "room")
