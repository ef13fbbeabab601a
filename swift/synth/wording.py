"""English questions for a function that only its description explains: a grammar of verb, object and slots.

The verb and the object come from the first sentence of the description and from the name; slots stand in the object
where it names them, and in phrases with prepositions elsewhere. verbs.toml has the frames. Knows no values.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from swift.synth.catalogue import SLOT
from swift.synth.schema_values import GENERIC, Property, kinds, label, tokens

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST = 60
"""Questions of a function."""
CREATES = frozenset(
    [
        "create",
        "make",
        "add",
        "new",
        "register",
        "open",
        "start",
        "book",
        "schedule",
        "write",
        "draft",
        "set",
        "save",
        "record",
        "insert",
    ]
)
SETS = frozenset(
    [
        "set",
        "change",
        "adjust",
        "update",
        "raise",
        "lower",
        "dim",
        "turn",
        "put",
        "switch",
        "move",
        "increase",
        "decrease",
        "rename",
        "reschedule",
    ]
)
_CUT = re.compile(
    r"\s*(?:[,;:(]|\.\s|\.$| that | which | who | whose | where | (?:after|before|once) (?:it|they|he|she|this) |"
    r" so that | using | based on | given | including |"
    r" according to | if | when | as | then | and returns? | with its | with their | by its | such as )"
)
_NOUNS = frozenset(
    ("balance", "book", "call", "change", "check", "claim", "count", "decrease", "draft", "estimate", "forecast",
     "increase", "list", "log", "measure", "message", "note", "order", "plan", "play", "price", "query", "rank",
     "rate", "record", "report", "request", "return", "review", "schedule", "set", "share", "sort", "state", "test",
     "transfer", "update")
)  # fmt: skip
"""Verbs that are nouns too: in "Record of a patient" they are."""
_OPPOSITES = ({"raise", "lower"}, {"increase", "decrease"})
_DETERMINERS = frozenset(["a", "an", "the", "one", "all", "some", "any", "your", "this", "that", "every", "each", "no"])
_PREPOSITIONS = frozenset(["in", "into", "from", "to", "on", "onto", "of", "for", "by", "with", "at"])
_LISTED_NOUNS = re.compile(
    r"([\w-]+(?: [\w-]+){0,2}(?:, [\w-]+(?: [\w-]+){0,2})+ and [\w-]+(?: [\w-]+){0,3}? (?:of|for|in|on|at) )(.+)"
)
"""Several nouns with one owner: "Area, perimeter and angle of a polygon"."""
_ATTRIBUTES = re.compile(r"\b(?:with|including|and) (?:its|their) ([a-z ,]+)")
_ARTICLE = (
    r"(?:(?:(?:one|two) or more|several|an?|the|one|this|that|your|some|any|another|each|every|specific|given|single|"
    r"specified|certain)\s+)+"
)


_VALUES = frozenset(("number", "price", "rating", "duration", "colour"))
_LISTED = frozenset(("weekday", "date", "time", "month", "city", "food", "language"))
"""Kinds whose lists take the phrases of one value: "on Monday and Friday"."""


class Head(NamedTuple):
    """A verb and its object: ("cancel", "act", "an order")."""

    verb: str
    kind: str
    object: str


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


@cache
def verbs() -> Mapping[str, Any]:
    """verbs.toml."""
    made: dict[str, Any] = tomllib.loads(Path(__file__).with_name("verbs.toml").read_text(encoding="utf-8"))
    return made


@cache
def _groups() -> Mapping[str, Mapping[str, Any]]:
    return {verb: group for group in reversed(verbs()["group"]) for verb in group["verbs"]}


# --- the verb and the object ----------------------------------------------------------------------------------------


def heads(name: str, description: str) -> list[Head]:
    """The verbs and objects of a function: of its description first, of its name last."""
    words = tokens(name)
    found = [head] if (head := _of_description(words, description)) else []
    if found and head and head.kind == "ask" and (named := _ATTRIBUTES.search(description.split(". ")[0])):
        for attribute in re.split(r",\s*(?:and )?|\s+and\s+", named[1].strip()):
            if 0 < len(attribute.split()) <= 2:
                found.append(Head("get", "ask", f"the {attribute} of {head.object}"))
    verb, rest = _verb_of(words)
    if found and (rest[:1] and rest[0] in _PREPOSITIONS):
        return found
    if found and found[0].kind == "ask" and verb and _kind(verb) == "act":
        found.append(Head("get", "ask", _with_article(words)))  # the claim status: a noun
    elif verb and rest:
        found.append(Head(verb, _kind(verb), _with_article(rest)))
    elif verb and not found:
        found.append(Head(verb, _kind(verb), ""))
    elif not found:
        found.append(Head("get", "ask", _with_article(words)))
    return found


def verb_of(name: str, description: str) -> str:
    """The verb that a function begins with; empty for none."""
    return _verb_of(tokens(name))[0] or next((head.verb for head in heads(name, description)), "")


_ABOUT_API = re.compile(
    r"^call this tool to interact with the .+? API\.\s*(?:what is the .+? api useful for\?\s*)?"
    r"(?:(?:this|the) api (?:is used to|is used for|is for|will|can|should)\s+)?", re.IGNORECASE
)  # fmt: skip
"""How the rows of ms-agent begin every description."""


def _of_description(named: Sequence[str], description: str) -> Head | None:
    description = _ABOUT_API.sub("", description.strip())
    first = re.split(r"(?<=[.!?])\s", description.strip())[0].strip().rstrip(".")
    first = re.sub(
        r"^(?:this (?:function|tool)|(?:a |the )?(?:function|tool) (?:that|to)|use(?:d)? (?:this )?to|"
        r"allows? (?:you|users?) to)\s+",
        "", first, flags=re.IGNORECASE,
    )  # fmt: skip
    words = first.split()
    if not words:
        return None
    if words[0].lower() in ("what", "which", "how", "whether", "who", "when", "where"):
        return Head("get", "ask", _lower(_CUT.split(" " + first)[0].strip()) if "," in first else _lower(first))
    verb = base_form(words[0].lower().strip(",:"))
    two = f"{verb} {words[1].lower()}" if len(words) > 1 else verb
    rest = words[1:]
    if two in _groups():
        verb, rest = two, words[2:]
    after = words[1].lower() if len(words) > 1 else ""
    is_noun = verb in _NOUNS and after in ("of", "that", "needed", "at", "between", "is", "are", "held")
    if (words[0].endswith("s") and after == "of") or (after == "that" and verb not in _groups()):
        is_noun = True  # "Cars that can be rented"
    if after == "and" and len(words) > 2 and base_form(words[2].lower().strip(",")) not in _groups():
        is_noun = True  # "Charge and energy of a capacitor"
    if words[0].endswith(",") and base_form(after.strip(",")) not in _groups():
        is_noun = True  # "Make, model and year"
    known = (verb in _groups() or two in _groups()) and not (is_noun and two not in _groups())
    known = known or (
        len(words) > 1 and not is_noun and words[1].lower() in _DETERMINERS and words[0].lower() not in _DETERMINERS
    )
    if not known:
        listed = _LISTED_NOUNS.match(first)
        phrase = _lower(listed[1]) + _trimmed(listed[2]) if listed else _trimmed(_lower(first))
        if len(phrase.split()) < 2:
            return None
        return Head("get", "ask", phrase if words[0].lower() in _DETERMINERS or is_plural(phrase) else f"the {phrase}")
    if verb == "return" and (not named or named[0] != "return"):
        verb = "get"  # "Returns the weather": documentation, not a deed
    if len(rest) > 1 and rest[0].lower() == "or" and {verb, rest[1].lower()} in _OPPOSITES:
        verb = "change"
    if len(rest) > 1 and rest[0].lower() in ("or", "and") and base_form(rest[1].lower()) in _groups():
        rest = rest[2:]  # "Create or replace a note": the object is what counts
    return Head(verb, _kind(verb), _trimmed(" ".join(rest)))


def _verb_of(words: Sequence[str]) -> tuple[str, list[str]]:
    if not words:
        return "", []
    if " ".join(words[:2]) in _groups():
        return " ".join(words[:2]), list(words[2:])
    verb = base_form(words[0])
    if verb == "new":
        verb = "create"
    return (verb, list(words[1:])) if verb in _groups() else ("", list(words))


def _kind(verb: str) -> str:
    return str(_groups()[verb]["kind"]) if verb in _groups() else "act"


def base_form(word: str) -> str:
    """The base form of a verb in the third person: "searches" -> "search"."""
    if word in _groups() or not word.endswith("s") or word.endswith("ss"):
        return word
    for end, new in (("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(end) and (made := word[: -len(end)] + new) in _groups():
            return made
    return word[:-1] if len(word) > 3 else word


def said_for(verb: str) -> Sequence[str]:
    """What users say for a verb of a description; empty if it is only said as it is."""
    said: Sequence[str] = _groups().get(verb, {}).get("said", [])
    return said if verb not in ("give", "make") else ()  # "make a key invalid" is not "set up a key invalid"


def participle(verb: str) -> str:
    """The past participle of a verb; of a phrasal verb, that of its first word with the rest."""
    first, _, rest = verb.partition(" ")
    irregular: Mapping[str, str] = verbs()["participles"]
    if first in irregular:
        made = irregular[first]
    elif first.endswith("e"):
        made = f"{first}d"
    elif first.endswith("y") and first[-2:-1] not in "aeiou":
        made = f"{first[:-1]}ied"
    elif re.fullmatch(r"[^aeiou]*[aeiou][bdgmnprt]", first):
        made = f"{first}{first[-1]}ed"
    else:
        made = f"{first}ed"
    return f"{made} {rest}" if rest else made


def _with_article(words: Sequence[str]) -> str:
    text = " ".join(words)
    if not text or words[0] in ("the", "a", "an", "all", "my", "to", "from", "in", "by", "for", "with"):
        return text
    return text if is_plural(text) else f"the {text}"


def is_plural(phrase: str) -> bool:
    """Whether a noun phrase is in the plural, by its head: the last word before a preposition."""
    head = re.split(r"\s(?:of|in|for|from|to|at|on|by|with|between)\s", f"{phrase} ")[0].split()
    last = head[-1].lower() if head else ""
    return last.endswith("s") and not last.endswith(("ss", "us", "is", "news"))


def _trimmed(text: str) -> str:
    if text.startswith("that "):  # "note that a plant has a pest"
        return text
    cut = _CUT.split(f" {text}")[0].strip() or text.strip()
    return re.sub(r"\s(?:on|in|for|of|to|with|by|at|from)(?:\s(?:an?|the))?$", "", cut)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[:2] == "A " else text


# --- slots ----------------------------------------------------------------------------------------------------------


def slots_of(properties: Sequence[Property], owner: Sequence[str]) -> list[Slot]:
    """The slots of a function's parameters. `owner`: nouns of what the function is about."""
    made: list[Slot] = []
    for each in properties:
        if each.inner:
            made += _nested(each)
        else:
            made.append(_slot(each, each.name, not each.parameter.optional, owner))
    return [_labelled(each, made) for each in made]


def _labelled(slot: Slot, slots: Sequence[Slot]) -> Slot:
    """A slot whose phrases have its label if another slot could be meant: two times, two lengths."""
    alike = [each for each in slots if each is not slot and each.kind == slot.kind and each.role == slot.role]
    if not alike or slot.kind in ("bool", "object"):
        return slot
    kept = tuple(text for text in slot.phrases if slot.label in SLOT.sub("", text))
    return slot._replace(phrases=kept or (f", {slot.label} {{{slot.paths[0]}}}",))


def _nested(outer: Property) -> Iterator[Slot]:
    required = not outer.parameter.optional
    inner = [
        _slot(each, f"{outer.name}.{each.name}", not each.parameter.optional, tokens(outer.name))
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


def _slot(each: Property, path: str, required: bool, owner: Sequence[str]) -> Slot:
    slot = f"{{{path}}}"
    if each.parameter.type == "boolean":
        return Slot((path,), required, each.label, tuple(_switches(each, path)), (), (), "", each.kind.role, "bool")
    enum = bool(each.parameter.enum) or _is_closed(each)
    phrases = list(_phrases(each, enum))
    called = each.label
    first = re.split(r"\s(?:of|in|for|from|to|at|on|by|with|below|as)\s", called.lower())[0]
    nouns = [
        word
        for word in (*tokens(each.name), *re.findall(r"[a-z]+", first))
        if word not in GENERIC and not (len(word) > 4 and word.endswith("ed"))
    ]
    if not nouns and each.kind.name in ("id", "title", "text", "person"):
        nouns = list(owner)
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
    made = tuple(dict.fromkeys(text.replace("{p}", slot).replace("{label}", called) for text in phrases))
    trailers = (
        f" The {called} is {slot}.",
        f" {called[:1].upper()}{called[1:]}: {slot}.",
        f" Use {slot} as the {called}.",
    )
    merge = "enum" if enum else each.kind.merge
    if each.kind.role in ("from", "to"):
        merge = ""
    if each.parameter.type == "array":
        merge = "list"
        listed = [": {p}", ", {label}: {p}", " ({p})", ", {label} {p}"]
        if each.kind.name in _LISTED or any(word in SPECIAL for word in tokens(each.name)):
            listed += [text for text in phrases if text not in listed] * 2
        made = tuple(text.replace("{p}", slot).replace("{label}", called) for text in listed)
    return Slot(
        (path,),
        required,
        called,
        made,
        () if called.lower() in unit_words() else trailers,
        tuple(dict.fromkeys(nouns)),
        merge,
        each.kind.role,
        each.kind.name,
        each.parameter.type == "array",
    )


def _is_closed(each: Property) -> bool:
    of = each.parameter.of
    return isinstance(of, list) and len(of) <= 12 and each.kind.name in ("category", "text", "unit", "rating", "room")


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
    **dict.fromkeys(("sort", "order_by", "sorted"), (", sorted by {p}", " sorted by {p}", ", sort by {p}")),
}
"""Words of names -> phrases that say more than those of the kind."""


def _phrases(each: Property, enum: bool) -> Iterator[str]:
    kind, role, unit = each.kind, each.kind.role, each.kind.unit
    for word in tokens(each.name):
        if word in SPECIAL and kind.name != "email":
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


def _is_sum(each: Property) -> bool:
    words = {"amount", "price", "sum", "cost", "budget", "total", "eur", "euros", "usd", "dollars", "yuan", "in"}
    return each.kind.name == "price" and set(tokens(each.name)) <= words


def _switches(each: Property, path: str) -> Iterator[str]:
    """What says that a boolean is true or false, by its description and its name."""
    on, off = f"{{{path}=true}}", f"{{{path}=false}}"
    about = each.about.strip().rstrip(".")
    words = [
        word for word in tokens(each.name) if word not in ("is", "are", "has", "should", "flag", "do", "use", "be")
    ]
    text = " ".join(words)
    low = _lower(re.split(r"[.;(]|, (?:default|otherwise|else)", about)[0].strip())
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


# --- questions ------------------------------------------------------------------------------------------------------


class Grammar:
    """The questions of one function. `taken`: verbs that other functions with the same object begin with. `full`:
    questions may say up to five optional slots, and the object stays behind its verb."""

    def __init__(
        self,
        name: str,
        description: str,
        slots: Sequence[Slot],
        rng: random.Random,
        taken: Collection[str] = (),
        full: bool = False,
    ) -> None:
        self._full = full
        self._heads, self._slots, self._rng, self._taken = heads(name, description), slots, rng, taken
        self.required = [each for each in slots if each.required]
        self.optional = [each for each in slots if not each.required]

    @property
    def head(self) -> Head:
        return self._heads[0]

    def questions(self, count: int = MOST) -> list[str]:
        """Different questions that say every required slot, and some optional ones in brackets."""
        return self._distinct(count, lambda: self._question(self.required))

    def without(self, slot: Slot, count: int = 6) -> list[str]:
        """Questions that leave a required slot out."""
        return self._distinct(
            count, lambda: self._question([each for each in self.required if each is not slot], few=True)
        )

    def pairs(self, count: int = 8) -> list[str]:
        """Requests for two calls: `{1.city}` and `{2.city}`."""
        return self._distinct(count, self._pair) if self.required else []

    def _distinct(self, count: int, make: Any) -> list[str]:
        made: dict[str, None] = {}
        for _ in range(8 * count):
            text = _tidy(make())
            if text and _balanced(text):
                made.setdefault(text)
            if len(made) == count:
                break
        return list(made)

    def _question(self, required: Sequence[Slot], few: bool = False) -> str:
        rng = self._rng
        head = self._head()
        spoken, left = self._object(head, required)
        verb = self._verb(head)
        inline, front, trail = self._placed(left, verb)
        counts: tuple[int, ...] = (0, 1, 1, 2, 2, 3) if self.required else (0, 1, 1, 1, 2, 2, 3)
        counts = (5,) if self._full else counts
        shown = [] if few else rng.sample(self.optional, min(len(self.optional), rng.choice(counts)))
        ends: list[str] = []
        for each in _compatible(shown):
            options = [*each.phrases] or [""]
            if head.verb in ("move", "reschedule", "postpone", "shift", "delay") and each.kind in (
                "date",
                "time",
                "datetime",
            ):
                options += [f" to {{{each.paths[0]}}}"] * 3
            text = rng.choice(options)
            if each.trailers and rng.random() < 0.12:
                ends.append(f"[{rng.choice(each.trailers)}]")
            elif text:
                inline.append(f"[{text}]")
        frame = self._frame(head, verb, spoken)
        # what begins with a comma would otherwise seem to own the next phrase
        inline.sort(key=lambda text: (self._is_open(text), _is_text(text), text.lstrip("[").startswith((",", " ("))))
        if any(map(self._is_open, inline)) and not re.search(r"\{S\}[.]?$", frame):
            frame = rng.choice(("{V} {O}{S}", "Please {v} {O}{S}", "Can you {v} {O}{S}", "I want to {v} {O}{S}"))
        text = _filled(frame, verb, spoken, "".join(inline))
        if front:
            text = f"{front}, {_lower(text)}"
        tail = "".join([*trail, *ends])
        if tail and text[-1:] not in ".?!":
            text += "."
        if rng.random() < 0.1:
            text = f"{rng.choice(verbs()['frames']['context'])} {text}"
        return text + tail

    def _is_open(self, text: str) -> bool:
        """Whether a phrase ends with a sentence that nothing closes: whatever follows would belong to it."""
        found = re.search(r"\{([\w.]+)\}\]?$", text)
        path = found[1] if found else ""
        return any(path in each.paths and each.kind in ("message", "code", "sql", "task") for each in self._slots)

    def _pair(self) -> str:
        rng = self._rng
        head = self._head()
        spoken, left = self._object(head, self.required)
        verb = self._verb(head)
        phrases = [
            rng.choice([text for text in each.phrases if not self._is_open(text)] or each.phrases)
            for each in left
            if each.phrases
        ]
        clause = spoken + "".join(sorted(phrases, key=lambda text: text.startswith(",")))
        varying = [each for each in self.required if each.kind != "bool"]
        if not varying:
            return ""
        start = rng.choice(("{v} ", "please {v} ", "Can you {v} ", "I need to {v} ")).format(v=verb)
        mark = "?" if start.startswith("Can") else rng.choice((".", ""))
        many = any(each.is_array for each in self.required)
        if len(varying) == 1 and len(varying[0].paths) == 1 and not many and rng.random() < 0.7:
            path = varying[0].paths[0]
            both = rng.choice((f"{{1.{path}}} and {{2.{path}}}", f"{{1.{path}}} and also {{2.{path}}}"))
            text = start + clause.replace(f"{{{path}}}", both) + mark
        else:
            one, two = _numbered(clause, "1"), _numbered(clause, "2")
            between = rng.choice(
                (f", then {verb} ", f". Also {verb} ")
                if many
                else (" and ", ", and ", f", then {verb} ", f". Also {verb} ")
            )
            text = start + one + between + two + mark
        return text[:1].upper() + text[1:] if rng.random() < 0.7 else text

    def _head(self) -> Head:
        if len(self._heads) == 1 or self._rng.random() < 0.6:
            return self._heads[0]
        return self._rng.choice(self._heads[1:])

    def _verb(self, head: Head) -> str:
        said = said_for(head.verb)
        allowed = [verb for verb in said if verb not in self._taken]
        return self._rng.choice([head.verb, *allowed]) if allowed else head.verb

    def _object(self, head: Head, required: Sequence[Slot]) -> tuple[str, list[Slot]]:
        """The object with the slots that it names, and the slots that are left."""
        text, left = head.object, []
        for each in required:
            merged = self._merged(text, each, head)
            if merged is None:
                left.append(each)
            else:
                text = merged
        if converted := self._converted(left, head):
            return converted
        for each in left:
            if each.kind == "room" and len(each.paths) == 1:  # "the brightness of a lamp", and the room where it is
                value = f"{{{each.paths[0]}}}"
                said = self._rng.choice(
                    (rf"\1the {value} \2", rf"\1the \2 in the {value}", rf"\1the \2 in the {value}")
                )
                replaced = re.sub(rf"(^|\bof |\bfor ){_ARTICLE}([a-z]+)\b(?= |$)(?! of)", said, text, count=1)
                if replaced != text and "{" not in text:
                    text, left = replaced, [other for other in left if other is not each]
                    break
        if len(left) == 1 and left[0].merge in ("proper", "room", "id") and left[0].kind != "bool":
            # "the time of a place": the only other noun is the only slot that is left
            loose = rf"\b(of|for|in|at) {_ARTICLE}[a-z]+\b"
            replaced = re.sub(loose, lambda found: f"{found[1]} {{{left[0].paths[0]}}}", text, count=1)
            if replaced != text:
                text, left = replaced, []
        if len(left) == 1 and left[0].merge in ("id", "proper") and head.verb not in CREATES and "{" not in text:
            text, count = re.subn(r"^(?:an?|one|the) ([a-z]+)\b(?! of)", rf"\1 {{{left[0].paths[0]}}}", text, count=1)
            left = left if not count else []
        if len(left) > 1:
            text = re.sub(r" (?:from|between) (?:one|two) \w+(?: (?:to|and) (?:another|other))?$", "", text)
        for each in left:
            if each.kind == "date" and not each.role:  # "the events of a day"
                said = self._rng.choice(("on", "of", "on", "for"))
                replaced = re.sub(
                    r" (?:of|on|for) (?:a|one|the) (?:day|date)\b", f" {said} {{{each.paths[0]}}}", text, count=1
                )
                if replaced != text:
                    text, left = replaced, [other for other in left if other is not each]
                    break
        if any(each.kind in ("date", "time", "datetime") for each in self._slots):
            text = re.sub(r" to (?:another|a new|a different) \w+(?: or \w+)?$", "", text)
        if any(each.kind == "bool" for each in required):
            text = re.sub(r" on or off\b| on and off\b", "", text)
        return text, left

    def _converted(self, left: Sequence[Slot], head: Head) -> tuple[str, list[Slot]] | None:
        """The object of a conversion: "convert 20 EUR to USD"."""
        amount = next((each for each in left if each.kind in ("price", "number", "quantity")), None)
        units = {each.role: each for each in left if each.kind in ("currency", "unit") and len(each.paths) == 1}
        if head.verb not in ("convert", "change", "exchange") or amount is None or not {"from", "to"} <= units.keys():
            return None
        value, source, target = (f"{{{each.paths[0]}}}" for each in (amount, units["from"], units["to"]))
        rest = [each for each in left if each not in (amount, *units.values())]
        if self._rng.random() < 0.15:
            return f"{value} from {source} to {target}", rest
        return f"{value} {source} {self._rng.choice(('to', 'into', 'to', 'in'))} {target}", rest

    def _merged(self, text: str, slot: Slot, head: Head) -> str | None:
        if not slot.merge or not slot.nouns or len(slot.paths) != 1:
            return None
        value, rng = f"{{{slot.paths[0]}}}", self._rng
        masked = re.sub(r"\{[^}]*\}", lambda found: "\0" * len(found[0]), text)
        stop = r"\0" if slot.merge == "enum" else r"of|\0"
        for noun in slot.nouns:
            phrase = re.search(
                rf"(?:\b{_ARTICLE})?(?:\b[A-Za-z]+ )??\b({re.escape(noun)})s?\b(?! (?:{stop})|['’])", masked
            )
            if not phrase or "\0" in phrase[0]:
                continue
            with_article = re.search(rf"\b{_ARTICLE}((?:[A-Za-z]+ )?{re.escape(noun)})s?\b(?! (?:{stop})|['’])", masked)
            found = with_article or re.search(rf"\b({re.escape(noun)})s?\b(?! (?:{stop}))", masked)
            if not found:
                continue
            plain = found[1]
            creates = head.verb in CREATES and found.start() == 0
            if slot.merge == "list":
                word = found[0].split()[-1]
                said = rng.choice((value, f"{word} {value}", f"the {word} {value}"))
            elif slot.merge == "proper":
                said = rng.choice((value, value, value, f"the {plain} {value}"))
            elif slot.merge == "id":
                said = rng.choice(
                    (f"{plain} {value}", f"the {plain} {value}", f"{plain} number {value}", value, f"{plain} {value}")
                )
            elif slot.merge == "room":
                said = rng.choice((f"the {value}", f"the {value}", value))
            elif slot.merge == "enum":
                said = rng.choice((f"the {value}", f"the {value} {plain}", f"{value}", f"the {value}"))
            elif creates:
                said = rng.choice(
                    (
                        f"a {plain} called {value}",
                        f'a {plain} "{value}"',
                        f"the {plain} {value}",
                        f"a {plain} named {value}",
                    )
                )
            else:
                said = rng.choice(
                    (f"the {plain} {value}", f'the {plain} "{value}"', f"{value}", f"the {plain} called {value}")
                )
            # of alternatives, "a fine or a ticket", the one that has a value is meant
            before = re.sub(r"(?:\b(?:an?|the)\s+)?\w+ or $", "", text[: found.start()])
            after = re.sub(r"^ or (?:(?:an?|the)\s+)?\w+", "", text[found.end() :])
            return before + said + after
        return None

    def _placed(self, left: Sequence[Slot], verb: str) -> tuple[list[str], str, list[str]]:
        """(phrases in the sentence, a phrase in front of it, sentences after it) for required slots."""
        rng = self._rng
        order = list(left)
        goes = any(each.role == "to" for each in self.required)
        settable = (
            []
            if goes
            else [each for each in order if each.kind in _VALUES or (each.merge == "enum" and each.kind != "room")]
        )
        texts = [each for each in order if each.kind in ("message", "code", "sql")]
        order = [each for each in order if each not in texts]
        if rng.random() < 0.35:
            rng.shuffle(order)
        inline, front, trail = [], "", []
        for each in [*order, *texts]:
            options = list(each.phrases)
            if verb.split()[0] in SETS and settable and each is settable[-1] and not each.role and len(each.paths) == 1:
                options = [f" to {{{each.paths[0]}}}"] * 4 + options[:1]
            text = rng.choice(options) if options else ""
            starts = re.match(r" (in|for|on|at|from|by)\b", text)
            if not front and starts and each.kind != "bool" and rng.random() < 0.1:
                front = text.strip()[:1].upper() + text.strip()[1:]
            elif each.trailers and len(order) > 1 and rng.random() < 0.07:
                trail.append(rng.choice(each.trailers))
            else:
                inline.append(text)
        return inline, front, trail

    def _frame(self, head: Head, verb: str, spoken: str) -> str:
        rng, frames = self._rng, verbs()["frames"]
        if head.kind != "act" and re.match(r"(?:whether|if|how|what|which|who|when|where)\b", spoken):
            return str(rng.choice(frames["whether"]))
        if head.kind == "ask" and spoken.startswith("{") and spoken.endswith("}") and rng.random() < 0.5:
            return str(
                rng.choice(
                    (
                        "Show me {O}{S}.",
                        "Look up {O}{S}, please.",
                        "{O}{S}?",
                        "What about {O}{S}?",
                        "I need to see {O}{S}.",
                    )
                )
            )
        if head.kind == "ask" and spoken and not spoken.startswith("{") and rng.random() < 0.65:
            return str(rng.choice(frames["ask"]))
        if head.kind == "find" and spoken and rng.random() < 0.4:
            return str(
                rng.choice(
                    [
                        "I'm looking for {O}{S}.",
                        "Where can I find {O}{S}?",
                        "Are there any {N}{S}?" if is_plural(spoken) else "{V} {O}{S}.",
                        "looking for {O}{S}",
                        "{O}{S}?",
                        "I need {O}{S}.",
                        "Help me find {O}{S}.",
                    ]
                )
            )
        if (
            head.kind == "act"
            and spoken
            and " " not in head.verb
            and head.verb == verb
            and _is_plain(spoken)
            and not self._full
            and rng.random() < 0.3
        ):
            return str(rng.choice(frames["want"]))
        if spoken and not (self._full and head.kind == "act") and rng.random() < 0.06:
            return (
                str(rng.choice(frames["bare"]))
                if head.kind != "act" or not _is_plain(spoken)
                else "{O}{S}: {v} {t}, please"
            )
        return str(rng.choice(frames["act"]))


def _is_plain(spoken: str) -> bool:
    """Whether an object is short enough to stand before its verb."""
    if spoken.split()[:1] and spoken.split()[0] in _PREPOSITIONS:
        return False
    return not re.search(r"\b(?:back|into|onto|to|for|from|whether|if|how|what|which|when|out|and measure)\b", spoken)


def _is_text(text: str) -> bool:
    return bool(re.match(r"\[?(?:[:;]| saying| with the \w+ \"|, \w+ ['\"])", text))


def _filled(frame: str, verb: str, spoken: str, phrases: str) -> str:
    plural = is_plural(spoken)
    w, i = ("what", "are" if plural else "is")
    parts = {
        "{V}": verb[:1].upper() + verb[1:], "{v}": verb, "{O}": spoken, "{S}": phrases, "{d}": participle(verb),
        "{W}": f"What {i}", "{w}": w, "{i}": i, "{t}": "them" if plural else "it",
        "{N}": re.sub(rf"^{_ARTICLE}", "", spoken),
    }  # fmt: skip
    text = re.sub(r"\{(?:[VvOSdWwiNt])\}", lambda found: parts[found[0]], frame)
    text = re.sub(r"\b(is|are) (any)\b", r"\1 there \2", text)
    return text


def _compatible(shown: Sequence[Slot]) -> list[Slot]:
    """Slots of which no two say the same parameter."""
    said: set[str] = set()
    kept = []
    for each in shown:
        if not said & set(each.paths):
            kept.append(each)
            said |= set(each.paths)
    return kept


def _numbered(clause: str, number: str) -> str:
    return SLOT.sub(
        lambda found: f"{{{number}.{found[1]}}}" if found[2] is None else f"{{{number}.{found[1]}={found[2]}}}", clause
    )


def _balanced(text: str) -> bool:
    return text.count('"') % 2 == 0 and len(re.sub(r"\{[^}]*\}", "x", text)) > 1


def _tidy(text: str) -> str:
    text = re.sub(r" {2,}", " ", text)
    text = re.sub(r"\b(remind|notify|inform|warn) (of|about)\b", r"\1 me \2", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+([,.?!;:])", r"\1", text)
    text = re.sub(r"\b(to|you|u|let's|and|quickly|also) (show|give) me\b", r"\1 \2", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(show|give) me (.+) for me\b", r"\1 me \2", text, flags=re.IGNORECASE)
    text = re.sub(r"\b([Aa]) (?=[aeio][a-z])(?!one\b|eu)", r"\1n ", text)
    return re.sub(r"([.?!])\.", r"\1", text).strip()
