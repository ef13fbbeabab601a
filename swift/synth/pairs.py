"""Two parameters that a description names together: "from one account to another", "the shifts of two employees".

Knows no values and no sentences.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from swift.synth.names import tokens
from swift.synth.slots import Slot

FILLED = 0.75
"""Share of the questions in which the values of ends take the place of such words; the others leave the words out."""
_ORDINALS = frozenset(("first", "second", "one", "two", "a", "b", "1", "2", "other", "another"))
_OLD, _NEW = frozenset(("old", "current", "existing", "present", "previous")), frozenset(("new",))
_ANOTHER = r"(?:another|a different|the other|a second|a new)"
_MOVED = re.compile(
    rf" from (?:one|an?) (?:[a-z]+ )?(?P<noun>[a-z]+) (?:in)?to {_ANOTHER}(?: one\b| (?:[a-z]+ )?(?P=noun)\b)?"
)
_ONE_INTO = re.compile(
    rf"(?:^|(?<= ))one (?P<noun>(?:[a-z]+ )?[a-z]+) (?P<to>into|to|onto) {_ANOTHER}(?: (?P=noun)| one\b)?"
)
_ELSEWHERE = re.compile(rf" (?:in)?to {_ANOTHER} (?:[a-z]+ )?[a-z]+$")
_MANY = r"(?:the )?(?:two|both|a pair of) (?:[a-z]+ )?(?:[a-z]+s|people|children)\b"
_OF_TWO = re.compile(rf" (between|of|for|from|in|with) {_MANY}")
_TWO = re.compile(rf"^{_MANY}")
_NUMBER = re.compile(r"^(?:the )?(?:two|both|a pair of) ")
_COUNTED = "[个名位张间家台条只座本份种款项]"
_MOVED_ZH = re.compile(
    rf"从(?:某?一|某){_COUNTED}?(?P<noun>[^从向到至往]{{1,6}}?)(?P<to>向|转到|转至|移到|移至|到|至|往)另(?:外)?一{_COUNTED}?(?:(?P=noun))?"
)
_BETWEEN_ZH = re.compile(rf"(?:两|二){_COUNTED}[^两之间的]{{1,6}}(?:之间|间)的?")
_TWO_ZH = re.compile(rf"(?:两|二){_COUNTED}(?P<noun>[^两之间的某]{{1,6}}?)(?=的|某|在|之|$)")


class Pair(NamedTuple):
    """Two required parameters. `kind`: "goes" from the first to the second, "changes" from the first to the second, is
    a "name" in two parts, or "alike"."""

    one: Slot
    two: Slot
    kind: str


def pair(slots: Sequence[Slot], spoken: str = "") -> Pair | None:
    """The parameters that say from where and to where, an old and a new one, a first and a last name, two that differ
    in their number only, or the only two of a kind where the object `spoken` names two; None if there are no such two.
    """
    single = [each for each in slots if each.required and len(each.paths) == 1 and each.kind != "bool"]
    ends = [[each for each in single if each.role == role] for role in ("from", "to")]
    if all(len(each) == 1 for each in ends):
        return Pair(ends[0][0], ends[1][0], "goes")
    named = [(each, frozenset(tokens(each.paths[0]))) for each in single]
    found = [
        Pair(one, two, kind)
        for at, (one, words) in enumerate(named)
        for two, others in named[at + 1 :]
        if (kind := _kind(words - others, others - words)) and (one.kind == two.kind or kind == "name")
    ]
    if not found and (_OF_TWO.search(spoken) or _TWO.match(spoken)):
        found = [Pair(one, two, "alike") for one, two in combinations(single, 2) if one.kind == two.kind]
    if len(found) != 1:
        return None
    return found[0]._replace(one=found[0].two, two=found[0].one) if found[0].kind == "changed" else found[0]


def _kind(one: frozenset[str], two: frozenset[str]) -> str:
    """What two names are to each other by the words that only one of them has."""
    if one <= _ORDINALS and two <= _ORDINALS:
        return "alike"
    if one == {"first"} and two == {"last"}:
        return "name"
    if one <= _OLD and two <= _NEW:
        return "changes"
    return "changed" if one <= _NEW and two <= _OLD else ""


def without(spoken: str, two: Pair | None) -> str:
    """An object without the words that stand for a pair: "stock" for "stock from one warehouse to another"."""
    if two is None:
        return spoken
    if two.kind == "goes":
        spoken = _ELSEWHERE.sub("", _ONE_INTO.sub(r"a \g<noun>", _MOVED.sub("", spoken)))
    return _OF_TWO.sub("", _NUMBER.sub("", spoken))


def said(spoken: str, two: Pair | None, slots: Sequence[Slot], rng: random.Random) -> tuple[str, list[Slot]]:
    """An object in which the values of a pair stand for such words, if both are among the slots, and the slots that are
    left."""
    are_said = two is not None and two.one in slots and two.two in slots
    if two is None or not are_said or (two.kind != "alike" and rng.random() >= FILLED):
        return without(spoken, two), list(slots)
    one, other = (f"{{{each.paths[0]}}}" for each in two[:2])
    filled = _filled(spoken, two.kind, one, other, rng)
    if filled == spoken:
        return without(spoken, two), list(slots)
    return filled, [each for each in slots if each not in two[:2]]


def said_zh(spoken: str, two: Pair | None, slots: Sequence[Slot], rng: random.Random) -> tuple[str, list[Slot]]:
    """`said` for Chinese, where the words stay if one of the values is missing."""
    are_said = two is not None and two.one in slots and two.two in slots
    if two is None or not are_said or (two.kind != "alike" and rng.random() >= FILLED):
        return spoken, list(slots)
    one, other = (f"{{{each.paths[0]}}}" for each in two[:2])
    if two.kind == "goes":
        filled = _MOVED_ZH.sub(rf"从{one}\g<to>{other}", spoken)
        filled = _BETWEEN_ZH.sub(f"从{one}到{other}的", filled)
    else:
        filled = _BETWEEN_ZH.sub(f"{one}和{other}之间的", spoken)
        filled = _TWO_ZH.sub(f"{one}和{other}", filled)
    if filled == spoken:
        return spoken, list(slots)
    return filled, [each for each in slots if each not in two[:2]]


def _filled(spoken: str, kind: str, one: str, other: str, rng: random.Random) -> str:
    if kind == "alike":
        return _OF_TWO.sub(rf" \1 {one} and {other}", _TWO.sub(f"{one} and {other}", spoken))
    if kind == "name":
        return rng.choice((f"{spoken} for {one} {other}", f"{spoken} {one} {other}", f"{spoken}, {one} {other}"))
    if kind == "changes":
        plain = [f"{one} to {other}", f"{spoken} {one} to {other}"] if len(spoken.split()) < 3 else []
        return rng.choice([*plain, f"{spoken} from {one} to {other}"])
    filled = _MOVED.sub(f" from {one} to {other}", spoken)
    if filled == spoken:
        filled = _ONE_INTO.sub(rng.choice((rf"{one} \g<to> {other}", rf"\g<noun> {one} \g<to> {other}")), spoken)
    if filled == spoken:
        filled = _OF_TWO.sub(rng.choice((" between {} and {}", " from {} to {}")).format(one, other), spoken)
    return filled
