"""A function of the catalogue -> the same function with direct questions: every value is said in full, word for word.

The catalogue's own questions are written by hand and often imply what they mean; a small model learns to copy values
first. `version` makes the function with questions of a style: spoken (the grammar, as for a user's own
tools), written ("party size: 4", "with base = 10 and height = 5") and literal (JSON, `base=10`). Knows no conversation.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from swift.synth import described, kinds, plain_values, verbs
from swift.synth.catalogue import SLOT, Function
from swift.synth.grammar import Grammar
from swift.synth.names import nouns_of, tokens
from swift.synth.properties import Property
from swift.synth.rounds import Stage
from swift.synth.slots import Slot, slots_of

STYLES: Mapping[str, float] = {"spoken": 0.45, "written": 0.4, "literal": 0.15}
"""Style of questions -> share of the rounds with direct questions."""
VERSIONS = 3
"""Versions of a function in a style, each with other values."""
BESIDE = 3
"""Other functions that a request for several may ask for."""
QUESTIONS = 14
"""Questions of a version."""


class Field(NamedTuple):
    """A parameter in a written question. `together`: the path of its object, which is said as a whole or not at all."""

    path: str
    label: str
    name: str
    required: bool
    is_text: bool
    is_string: bool
    is_bool: bool
    is_long: bool
    together: str = ""
    needed: bool = True


class Direct:
    """Makes stages of rounds direct. A version of a function is made once, when a round first needs it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._made: dict[tuple[int, str, int], tuple[Function, Function | None]] = {}

    def stage(self, stage: Stage, kind: str) -> tuple[Stage, str]:
        """The stage with direct questions for a round of the kind, and their style; the same stage and no style if the
        function that the user asks for is no function of the catalogue."""
        rng = stage.rng
        style = rng.choices(list(STYLES), list(STYLES.values()))[0]
        if kind == "missing" and style == "literal":
            style = "written"
        if kind == "no_tool":
            if not stage.outside:
                return stage, ""
            away = self._version(rng.choice(stage.outside), style, rng)
            return (stage, "") if away is None else (replace(stage, outside=[away], direct=True), style)
        lead = self._version(stage.lead, style, rng)
        if lead is None:
            return stage, ""
        if kind != "parallel_several":
            return replace(stage, lead=lead, direct=True), style
        others = [each for each in stage.offered if each.name != stage.lead.name]
        beside = rng.sample(others, min(len(others), BESIDE))
        offered = [lead, *(self._version(each, style, rng) or each for each in beside)]
        return replace(stage, lead=lead, offered=offered, direct=True), style

    def _version(self, function: Function, style: str, rng: random.Random) -> Function | None:
        number = rng.randrange(VERSIONS)
        if function.given is not None or not function.ask or function.domain == described.DOMAIN:
            return None
        key = id(function), style, number
        if key not in self._made:
            self._made[key] = function, version(function, style, number + VERSIONS * self._seed)
        return self._made[key][1]


def version(function: Function, style: str, seed: int) -> Function | None:
    """The function with questions of a style and values of its own; None if too few questions can be made."""
    rng = random.Random(zlib.crc32(f"{seed} {style} {function.domain}.{function.name}".encode()))
    made = _spoken(function, rng) if style == "spoken" else _written(function, style, rng)
    return made if len(made.ask) >= described.LEAST or (made.ask and not function.parameters) else None


def _with_values(function: Function, properties: Sequence[Property]) -> Function:
    """The function with these values, and without questions."""
    parameters = {each.name: each.parameter for each in properties}
    return replace(function, parameters=parameters, ask=(), zh=(), pair=(), missing={})


# --- spoken ---------------------------------------------------------------------------------------------------------


def _spoken(function: Function, rng: random.Random) -> Function:
    properties = plain_values.properties(function, "spoken", rng)
    made = _with_values(function, properties)
    slots = [_labelled(each, made) for each in slots_of(properties, nouns_of(function.name))]
    grammar = Grammar(function.name, function.description, slots, rng, full=True)
    full = described.asked(made, grammar, rng, QUESTIONS)
    checked, _ = described.checked(full)
    away = list(plain_values.quoted(properties))
    ask = (_quoted(text, away) for text in checked.ask)
    commas = [each.name for each in properties if each.parameter.of in ("place", "product")]
    listed = [text for text in checked.pair if not any(f"{{1.{path}}} and" in text for path in commas)]
    pair = (_quoted(text, away) for text in listed)
    missing = {path: (_quoted(text, away), back) for path, (text, back) in checked.missing.items()}
    return replace(checked, ask=tuple(dict.fromkeys(ask)), pair=tuple(dict.fromkeys(pair)), missing=missing)


_LABELLED = frozenset(
    ("number", "share", "part", "port", "mileage", "price", "quantity", "rating", "category", "text", "limit", "year")
)
"""Kinds whose values say nothing without a label."""


def _labelled(slot: Slot, function: Function) -> Slot:
    """A slot whose phrases name the parameter where its value alone would not tell it; a switch that is named by one
    word is said as a value."""
    path, text = slot.paths[0], slot.label
    if slot.kind == "bool":
        text = " ".join(tokens(path.rpartition(".")[2]))
        weak = {word.format(text) for word in ("with {}", "{} please", "without {}", "no {}", "{}: yes", "{}: no")}
        kept = [each for each in slot.phrases if SLOT.sub("", each).strip(" ,") not in weak]
        plain = [f", {text}: {word}{{{path}={value}}}" for word, value in _SWITCHED]
        return slot._replace(phrases=tuple(kept + plain))
    if len(slot.paths) > 1:
        return slot
    is_number = function.parameter(path).type in ("integer", "number")
    if is_number or slot.is_array or slot.kind == "expression" or (slot.merge == "enum" and slot.kind != "room"):
        slot = slot._replace(merge="")
    phrases = slot.phrases
    if text.split()[0] in _LOOSE:  # nobody says "use May 5 as the since", or "with into folder x"
        phrases = tuple(each for each in phrases if f"with {text}" not in each and f"the {text}" not in each)
        slot = slot._replace(trailers=(), phrases=phrases or (f", {text} {{{path}}}",))
    kept = [each for each in slot.phrases if text in each]
    is_bare = bool(function.parameter(path).enum) or slot.is_array or slot.kind in _LABELLED
    return slot._replace(phrases=tuple(kept)) if is_bare and kept else slot


_LOOSE = kinds.ROLES.keys() | {"in", "into", "on", "at", "for", "of", "with", "deliver", "save", "translate"}
_SWITCHED = (("yes", "true"), ("no", "false"), ("true", "true"), ("false", "false"))


def _quoted(text: str, paths: Sequence[str]) -> str:
    for path in paths:
        text = re.sub(rf"[\"'`]?(\{{(?:[12]\.)?{re.escape(path)}\}})[\"'`]?", r'"\1"', text)
    return text


# --- written and literal --------------------------------------------------------------------------------------------


def _written(function: Function, style: str, rng: random.Random) -> Function:
    properties = plain_values.properties(function, style, rng)
    fields = list(_fields(properties))
    heads = verbs.heads(function.name, function.description)
    leads = list(dict.fromkeys(_lead(head, rng) for head in (heads[0], heads[0], *heads) for _ in range(4)))
    make = _literal if style == "literal" else _listed
    ask: dict[str, None] = {}
    pair: dict[str, None] = {}
    for _ in range(3 * QUESTIONS):
        lead = rng.choice(leads)
        chosen = _chosen(fields, rng)
        if not chosen:
            ask[f"{lead}{rng.choice('.!?') if lead[:3] != 'Can' else '?'}"] = None
            continue
        ask[make(lead, chosen, rng)] = None
        if any(each.required for each in chosen):
            pair[_twice(lead, chosen, style, rng)] = None
    asked = tuple(list(ask)[:QUESTIONS])
    missing = {}
    if style == "written":
        for field in (each for each in fields if each.required and not each.is_bool):
            others = [each for each in fields if each.required and each is not field]
            lead = rng.choice(leads)
            text = _listed(lead, others, rng) if others else f"{lead}{_end(lead)}"
            be = "are" if verbs.is_plural(field.label) else "is"
            back = rng.choice((f"What {be} the {field.label}?", f"Please tell me the {field.label}."))
            missing[field.path] = text, back
    return replace(_with_values(function, properties), ask=asked, pair=tuple(list(pair)[:6]), missing=missing)


def _fields(properties: Sequence[Property], outer: Property | None = None) -> Iterator[Field]:
    labels = [each.label.lower() for each in properties]
    for each in properties:
        if each.inner:
            yield from _fields(each.inner, each)
            continue
        name = " ".join(tokens(each.name))
        is_switch = each.parameter.type == "boolean"  # the description of a switch is a clause: "Only those with ..."
        label = each.label if labels.count(each.label.lower()) == 1 and not is_switch else name
        is_needed = not each.parameter.optional or (  # an object that is required is not empty
            each is properties[0] and all(other.parameter.optional for other in properties)
        )
        required = is_needed and not outer.parameter.optional if outer else not each.parameter.optional
        path = f"{outer.name}.{each.name}" if outer else each.name
        if outer and len(properties) > 1:
            outer_name = " ".join(tokens(outer.name))
            label, name = f"{outer_name} {label}", f"{outer_name} {name}"
        is_text = each.parameter.type == "string" and not each.parameter.enum and each.parameter.of not in (
            "date", "time", "month", "weekday")  # fmt: skip
        yield Field(
            path, label, name, required, is_text, each.parameter.type == "string", each.parameter.type == "boolean",
            each.name in plain_values.quoted(properties),
            outer.name if outer else "", not each.parameter.optional,
        )  # fmt: skip


def _chosen(fields: Sequence[Field], rng: random.Random) -> list[Field]:
    """The required fields and half of the others, in order or shuffled."""
    objects = {each.together for each in fields if each.together}
    said = {name for name in objects if rng.random() < 0.5} | {each.together for each in fields if each.required}
    said -= {""}
    chosen = []
    for each in fields:
        is_half = rng.random() < 0.5
        if each.required or (each.together in said and each.needed) or (each.together in said | {""} and is_half):
            chosen.append(each)
    if rng.random() < 0.4:
        rng.shuffle(chosen)
    return chosen


def _lead(head: verbs.Head, rng: random.Random) -> str:
    """What is asked for, without values: "Reserve a table in a restaurant"."""
    said = [verb for verb in verbs.said_for(head.verb) if " me" not in verb or head.kind != "act"]
    verb, what = rng.choice([head.verb, head.verb, *said]), head.object
    if re.match(r"(?:whether|if|how|what|which|who|when|where)\b", what):
        verb = rng.choice(("tell me", "find out"))
    clause = re.sub(r"^(show|give) me$", r"\1 me", verb) + (f" {what}" if what else "")
    plain = rng.choice(("{}", "{}", "{}", "please {}", "I need to {}", "can you {}", "I want to {}"))
    if verb.endswith(" me"):
        plain = rng.choice(("{}", "please {}", "can you {}"))
    text = plain.format(clause)
    return text[:1].upper() + text[1:]


def _labels(chosen: Sequence[Field], rng: random.Random) -> dict[str, str]:
    uses_names = rng.random() < 0.5
    return {each.path: each.name if uses_names else each.label for each in chosen}


def _value(field: Field, quotes: bool, number: str = "") -> str:
    slot = f"{{{number}{field.path}}}"
    return f'"{slot}"' if field.is_long or (quotes and field.is_text) else slot


def _end(lead: str) -> str:
    return "?" if lead.startswith("Can ") else "."


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]


def _listed(lead: str, chosen: Sequence[Field], rng: random.Random) -> str:
    labels, quotes = _labels(chosen, rng), rng.random() < 0.3
    pairs = [(labels[each.path], _value(each, quotes)) for each in chosen]
    kind = rng.choice(("colon", "colon", "lines", "equals", "with", "sentences", "before"))
    if kind == "with" and any(each.is_text for each in chosen) and not quotes and len(chosen) > 1:
        kind = "equals"
    if kind == "equals":
        word = rng.choice(("with", "with", "using", "where"))
        return f"{lead} {word} {_and([f'{a} = {b}' for a, b in pairs])}{_end(lead)}"
    if kind == "with":
        return f"{lead} with {_and([f'{a} {b}' for a, b in pairs])}{_end(lead)}"
    if kind == "sentences":
        rest = " ".join(
            f"{_cap(a)}: {b}." if each.is_bool else f"The {a} {'are' if verbs.is_plural(a) else 'is'} {b}."
            for (a, b), each in zip(pairs, chosen, strict=True)
        )
        return f"{lead}{_end(lead)} {rest}"
    if kind == "lines":
        mark = rng.choice(("- ", "", "* "))
        return f"{lead}:\n" + "\n".join(f"{mark}{_cap(a) if not mark else a}: {b}" for a, b in pairs)
    parts = [f"{a}: {b}" for a, b in pairs]
    text = _cap(rng.choice(("; ", "; ", ", ") if not any(each.is_text for each in chosen) else ("; ",)).join(parts))
    if kind == "before":
        return f"{text}. {lead}{_end(lead)}"
    return f"{lead}{_end(lead)} {text}{rng.choice(('.', ''))}"


def _literal(lead: str, chosen: Sequence[Field], rng: random.Random) -> str:
    uses_names = rng.random() < 0.8
    text = _object(chosen, uses_names, rng.random() < 0.6)
    between = rng.choice((": ", " with ") if lead[:3] == "Can" else (": ", " with ", ". Arguments: ", ". Values: "))
    if rng.random() < 0.15:
        return f"{text}\n{lead}{_end(lead)}"
    return f"{lead}{between}{text}"


def _object(chosen: Sequence[Field], uses_names: bool, is_json: bool, number: str = "") -> str:
    """Values as JSON, or as the keywords of a call."""
    shown: list[str] = []
    for each in chosen:
        outer = each.together
        if outer and each is not next(other for other in chosen if other.together == outer):
            continue
        if outer:
            parts = [other for other in chosen if other.together == outer]
            value = "{" + ", ".join(f'"{_key(part)}": {_quoted_slot(part, number)}' for part in parts) + "}"
            key = outer
        else:
            key, value = _key(each, uses_names), _quoted_slot(each, number)
        shown.append(f'"{key}": {value}' if is_json else f"{key}={value}")
    return "{" + ", ".join(shown) + "}" if is_json else ", ".join(shown)


def _key(field: Field, uses_names: bool = True) -> str:
    return field.path.rpartition(".")[2] if uses_names else field.label.replace(" ", "_")


def _quoted_slot(field: Field, number: str) -> str:
    slot = f"{{{number}{field.path}}}"
    return f'"{slot}"' if field.is_string else slot


def _twice(lead: str, chosen: Sequence[Field], style: str, rng: random.Random) -> str:
    if style == "literal":
        is_json = rng.random() < 0.6
        one, two = (_object(chosen, True, is_json, number) for number in ("1.", "2."))
        return f"{lead} twice: {one} and {two}" if is_json else f"{lead} for both of these: {one}; {two}"
    labels, quotes = _labels(chosen, rng), rng.random() < 0.3

    def values(number: str, mark: str) -> list[str]:
        return [f"{labels[each.path]}{mark}{_value(each, quotes, number)}" for each in chosen]

    kind = rng.choice(("with", "lines", "then"))
    if kind == "with":
        return f"{lead} with {_and(values('1.', ' = '))}, and also with {_and(values('2.', ' = '))}{_end(lead)}"
    if kind == "lines":
        return f"{lead} for each of these:\n1. {'; '.join(values('1.', ': '))}\n2. {'; '.join(values('2.', ': '))}"
    return f"{lead}{_end(lead)} First {'; '.join(values('1.', ': '))}. Then {'; '.join(values('2.', ': '))}."


def _and(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]
