"""How a parameter is said in a question: " from {p}", ", at most {p}"; for a boolean, that it is true or false.

Knows no values and no sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

from swift.synth.kinds import kinds, label
from swift.synth.names import tokens
from swift.synth.properties import Property
from swift.synth.verbs import lower_first

SPECIAL: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("author", "artist", "writer", "composer", "singer", "band", "director"),
        (" by {p}", " by {p}", " from {p}", ", {label} {p}"),
    ),
    **dict.fromkeys(("recipient", "receiver", "assignee"), (" to {p}", " to {p}", ", {label} {p}")),
    **dict.fromkeys(
        ("attendee", "participant", "invitee", "attendees", "participants", "invitees", "guests"),
        (" with {p}", " with {p}", ", {label}: {p}"),
    ),
    **dict.fromkeys(("supplier", "vendor", "sender", "seller"), (" from {p}", " from {p}", ", {label} {p}")),
    **dict.fromkeys(("cc", "bcc"), (", cc {p}", " with a copy to {p}", ", with a copy to {p}", " and {p} in copy")),
    "radius": (" within {p}", " within {p}", ", no further than {p}", " no more than {p} away", ", {label} {p}"),
    **dict.fromkeys(("sort", "order_by", "sorted"), (", sorted by {p}", " sorted by {p}", ", sort by {p}")),
}
"""Words of names -> phrases that say more than those of the kind."""


def phrases_of(each: Property, enum: bool) -> Iterator[str]:
    kind, role, unit = each.kind, each.kind.role, each.kind.unit
    for word in tokens(each.name):
        if word in SPECIAL and kind.name not in ("email", "people"):
            yield from SPECIAL[word]
            return
    generic = (
        ", {label} {p}",
        ", {label}: {p}",
        " with {label} {p}",
        " ({label} {p})",
        ", and the {label} should be {p}",
    )
    if role in ("from", "to") and kind.name not in ("message", "title"):
        yield from (f" {role} {{p}}",) * 4
        yield ", {label} {p}"
        return
    if kind.name in ("date", "time", "datetime", "month", "year"):
        special = {
            "start": (" from {p}", " starting {p}", " from {p} on"), "after": (" after {p}",),
            "end": (" until {p}", " to {p}", ", until {p}"),
            "due": (" by {p}", ", due {p}", ", deadline {p}", ", due on {p}"),
            "max": (" before {p}", " until {p}"), "min": (" after {p}", " from {p}"),
        }  # fmt: skip
        yield from special.get(role, kind.phrases)
        yield ", {label} {p}"
        return
    if role in ("min", "max") and not unit and (things := things_of(each)):  # min_beds
        yield from (
            (", at least {p} " + things, " with at least {p} " + things, ", {p} " + things + " or more")
            if role == "min"
            else (", at most {p} " + things, " with up to {p} " + things, ", no more than {p} " + things)
        )
        return
    if role == "max":
        yield from (", at most {p}", " up to {p}", ", no more than {p}", ", {p} at most") if unit else (
            ", {label} {p}", ", with a {label} of {p}", ", {label}: {p}", " with {label} {p}")  # fmt: skip
        if not unit and kind.name in ("price", "quantity", "people", "number", "limit"):
            yield from (", at most {p}", " up to {p}") if kind.name != "number" else ()
        return
    if role == "min":
        yield from (", at least {p}", " of at least {p}", ", {p} or more") if unit else (
            ", {label} {p}", ", with a {label} of {p}", ", {label}: {p}", " with {label} {p}")  # fmt: skip
        return
    if role == "by":
        yield from (" by {p}", " by {p}", ", by {p}", ", {label}: {p}")
        return
    if unit and label(each.name, each.about).lower() in unit_words():
        yield from (" for {p}", ", {p}") if each.kind.name == "duration" else (", {p}", " with {p}", " ({p})", ": {p}")
        return
    if unit:
        words = set(tokens(each.name)) | set(re.findall("[a-z]+", each.about.lower()))
        is_sum = _is_sum(each)
        named = tokens(each.name)
        is_unit = any(named[-1] in row["words"] for row in kinds()["unit"])
        if len(named) == 2 and named[0].endswith("s") and not is_unit and named[1] not in ("number", "count"):
            yield from (f", {{p}} {named[1]}", f" ({{p}} {named[1]})", f", it is {{p}} {named[1]}", ", {label}: {p}")
        elif words & {"minutes", "seconds", "hours", "days", "nights", "weeks", "months", "years", "duration"}:
            yield from (" for {p}", " for {p}", ", {p}", " ({p})", ", {label}: {p}")
        elif is_sum:
            yield from (" for {p}", " of {p}", ", {label} {p}", ", {p}", " ({p})")
        else:
            yield from (", {p}", ", {label} {p}", " with {label} {p}", ", {label}: {p}", " at {p}")
        return
    if enum:
        yield from (", {label} {p}", " with {label} {p}", ", {label}: {p}", " ({p})", ", {p}")
        if kind.name not in ("text", "id", "category", "title", "number", "rating", "query", "message"):
            yield from kind.phrases
        return
    if kind.name == "quantity" and (things := things_of(each)):  # boxes
        yield from (", {p} " + things, ", {p} " + things, " ({p} " + things + ")", ", {label}: {p}")
        return
    if kind.name == "price" and not _is_sum(each):
        yield from generic
        return
    yield from kind.phrases
    if kind.name in ("id", "text", "product", "number", "rating", "title", "coordinate"):
        yield from generic
    else:
        yield from (", {label} {p}", ", {label}: {p}")


@cache
def unit_words() -> frozenset[str]:
    """The words of units in names: minutes, km ..."""
    return frozenset(word for row in kinds()["unit"] for word in row["words"]) - {"min", "s", "m"}


def things_of(each: Property) -> str:
    """What a number counts, by the parameter's name: `min_beds` counts beds. Empty if the name is no plural."""
    words = [
        word for word in tokens(each.name) if word not in ("min", "max", "minimum", "maximum", "at", "least", "most")
    ]
    counted = len(words) == 1 and words[0].endswith("s") and not words[0].endswith(("ss", "us", "is"))
    return words[0] if counted and words[0] not in ("items", "results", "units", "pieces", "times") else ""


def _is_sum(each: Property) -> bool:
    words = {"amount", "price", "sum", "cost", "budget", "total", "eur", "euros", "usd", "dollars", "yuan", "in"}
    return each.kind.name == "price" and set(tokens(each.name)) <= words


def switches(each: Property, path: str) -> Iterator[str]:
    """What says that a boolean is true or false, by its description and its name."""
    on, off = f"{{{path}=true}}", f"{{{path}=false}}"
    about = each.about.strip().rstrip(".")
    words = [
        word for word in tokens(each.name) if word not in ("is", "are", "has", "should", "flag", "do", "use", "be")
    ]
    text = " ".join(words)
    low = lower_first(re.split(r"[.;(]|, (?:default|otherwise|else)", about)[0].strip())
    if set(words) & {"on", "enabled", "active", "power", "state", "enable"}:
        yield from (f" on{on}", f" off{off}", f", on{on}", f", off{off}")
        return
    if found := re.match(r"whether (?:or not )?to (?:also )?(.+)", low):
        yield from (
            f", and {found[1]}{on}",
            f", and please {found[1]}{on}",
            f", but don't {found[1]}{off}",
            f", and do not {found[1]}{off}",
        )
    elif found := re.match(
        r"whether (?:or not )?((?:the|it|an?|this|all|its)\b.+?|\w+) "
        r"(is|are|must be|should be|must|should|can be|has|have) (.+)",
        low,
    ):
        subject, verb, rest = found.groups()
        verb = (
            verb if verb not in ("is", "are", "should be") else {"is": "should be", "are": "should be"}.get(verb, verb)
        )
        yield from (f", and {subject} {verb} {rest}{on}", f"; {subject} {verb} {rest}{on}")
        if verb in ("should be", "must be"):
            yield from (f", but {subject} {verb.split()[0]} not be {rest}{off}",)
    elif found := re.match(r"(?:only|just) (.+)", low):
        yield from (f", only {found[1]}{on}", f", but only {found[1]}{on}")
    elif found := re.match(r"(?:if (?:true|set),? |set to true to )(?:also )?(.+)", low):
        yield from (f", and {found[1]}{on}",)
    elif found := re.match(
        r"(include|wrap|send|notify|show|add|use|allow|skip|ignore|keep|force|overwrite|repeat)\b(.*)", low
    ):
        yield from (f", and {found[1]}{found[2]}{on}", f", but don't {found[1]}{found[2]}{off}")
    if words[:1] in (["include"], ["with"], ["add"], ["including"], ["show"]) and words[1:]:
        noun = " ".join(words[1:])
        yield from (f" with {noun}{on}", f", including {noun}{on}", f" without {noun}{off}", f", no {noun}{off}")
    elif words[:1] == ["no"] or words[:1] == ["without"]:
        yield from (f" without {' '.join(words[1:])}{on}",)
    elif "only" in words:
        rest = " ".join(word for word in words if word != "only")
        yield from (f", only {rest} ones{on}", f", {rest} only{on}")
    elif words[:1] == ["in"]:
        yield from (f", {text}{on}", f", only those {text}{on}")
    elif (
        text.endswith(("ed", "able", "ible", "ive", "al", "ent", "ant", "ful", "ic", "ate", "ous")) or text == "urgent"
    ):
        yield from (f", {text}{on}", f", it should be {text}{on}", f", not {text}{off}")
    elif text:
        yield from (
            f" with {text}{on}",
            f", {text} please{on}",
            f" without {text}{off}",
            f", no {text}{off}",
            f", {text}: yes{on}",
            f", {text}: no{off}",
        )
