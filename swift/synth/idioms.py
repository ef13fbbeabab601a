"""Sentences that ask for a function in words that its description does not have. idioms.toml has them. Knows no values.

People name a situation, a wish or only a value: "Room 7 is free again" sets a status. A sentence is of a verb, or of
what the function is about; its slots are filled with required parameters by their kinds.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from swift.synth.names import singular
from swift.synth.slots import Slot
from swift.synth.verbs import ARTICLE, Head
from swift.system import toml_file

_CLASS = re.compile(r"<(\w+)>")
_ROLES = frozenset(("from", "to", "max", "min", "start", "end"))
"""Roles that a value has only with its preposition."""
_PARTICLES = frozenset(("in", "out", "off", "on", "up", "down", "over", "back"))
_PROPERTIES = frozenset(
    (
        "size",
        "unit",
        "priority",
        "mode",
        "level",
        "speed",
        "format",
        "colour",
        "color",
        "status",
        "state",
        "method",
        "kind",
    )
)
"""Nouns of enums that nobody can order or look for: "Send me small" asks for no thing."""
_LEVELS = frozenset(("number", "share", "price", "rating", "quantity", "duration", "colour", "status", "mode", "size"))
_IDS = frozenset(("id", "title", "choice"))


class Idiom(NamedTuple):
    """A frame of a sentence whose classes are filled. `said`: the required parameters that it says, `left`: those
    that it does not."""

    frame: str
    said: Sequence[Slot]
    left: Sequence[Slot]

    def without_said(self, spoken: str) -> str:
        """An object without what stands for the said parameters: "book 7" for "book 7 to a reader"."""
        for noun in (noun for each in self.said for noun in each.nouns):
            spoken = re.sub(rf"^{ARTICLE}(?:[a-z]+ )?{re.escape(noun)} (?:to|for|with|in|on) ", "", spoken)
            spoken = re.sub(rf" (?:to|for|with|from|by|in|of) {ARTICLE}(?:[a-z]+ )?{re.escape(noun)}\b", "", spoken)
        return spoken


@cache
def _table() -> Mapping[str, Any]:
    return toml_file.read(Path(__file__).with_name("idioms.toml"))


def sentences(head: Head, taken: Collection[str] = ()) -> list[str]:
    """The sentences of a function with this verb and object. `taken`: verbs of other functions with the same object;
    a group with one of them is not clear."""
    found: list[str] = []
    first, _, rest = head.verb.partition(" ")
    first = "" if rest in _PARTICLES else first  # to check out is not to check
    for group in _table()["verb"]:
        if (head.verb in group["verbs"] or first in group["verbs"]) and not set(taken) & set(group["verbs"]) - {
            head.verb
        }:
            found += group["say"]
    nouns = {singular(word) for word in re.findall("[a-z]+", head.object.lower())}
    for group in _table()["about"]:
        if head.kind in group["kinds"] and nouns & set(group["nouns"]) and not nouns & set(group.get("unless", ())):
            found += 2 * group["say"]  # closer to the function than what a verb alone has
    return found


def filled(sentence: str, required: Sequence[Slot], rng: random.Random) -> Idiom | None:
    """The sentence with the slots of required parameters for its classes; None if there is not just one for each."""
    left, said, frame = list(required), [], sentence
    for name in dict.fromkeys(_CLASS.findall(sentence)):
        fitting = [each for each in left if _fits(each, name)]
        if name == "level" and any(each.role == "to" for each in required):
            return None  # 12 pieces are moved to a place, not set to 12
        if name == "who" and len(fitting) > 1:  # the patient of a doctor, the one who gets a message
            fitting = [next((each for each in fitting if each.role == "to"), fitting[0])]
        if len(fitting) != 1:
            return None
        left.remove(fitting[0])
        said.append(fitting[0])
        frame = _with_value(frame, name, fitting[0])
    frame = frame.replace("{that} ", rng.choice(("that ", "")))
    return Idiom(frame, said, left) if left or "{S}" in sentence or not required else None


def _fits(slot: Slot, name: str) -> bool:
    if len(slot.paths) != 1 or slot.kind == "bool" or slot.is_array or slot.role in _ROLES - {"to"}:
        return False
    is_choice = slot.merge == "enum" and slot.kind != "room"
    if name == "choice":
        return is_choice
    if name == "level":
        return (is_choice and slot.label.lower() != "direction") or slot.kind in _LEVELS
    if name == "thing":
        return (is_choice and slot.label.split()[-1].lower() not in _PROPERTIES) or any(
            _fits(slot, each) for each in _IDS - {"choice"}
        )
    if name == "place":
        return slot.kind in ("city", "country", "address", "title", "text") and not is_choice
    if name == "text" and slot.kind == "text":
        return slot.label in ("text", "message", "content", "body")
    return slot.kind in _table()["classes"][name] and not is_choice and (not slot.role or name in ("who", "when"))


def _with_value(frame: str, name: str, slot: Slot) -> str:
    """The frame with the value for a class: "4 gloves", or "4 boxes of gloves" for a parameter `boxes`."""
    value = f"{{{slot.paths[0]}}}"
    if name == "count" and re.fullmatch(r"[a-z]+s", slot.label) and slot.label not in ("items", "units", "pieces"):
        frame = re.sub(r"<count>( more)?(?= [<{])", rf"{value}\1 {slot.label} of", frame)
        value = f"{value} {slot.label}"
    return frame.replace(f"<{name}>", value)
