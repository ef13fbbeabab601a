"""A template of a question -> a request: its words and the arguments that they name. Knows no conversation."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from swift.synth.catalogue import OPTIONAL, SLOT, Function
from swift.synth.kinds import role_of
from swift.synth.values import Said

Arguments = dict[str, Any]
_PAIRED = re.compile(r"\{1\.(?P<name>[\w.]+)\} and (?P<before>(?:in|for|of|from|to|at|on|with) )?\{2\.(?P=name)\}")
_MARKS = ".?!\u3002\uff1f\uff01"
"""Last marks of sentences, Chinese ones too."""
_TWO = re.compile(r"\b(?:both|two|either|between|which one)\b", re.IGNORECASE)


class Request(NamedTuple):
    """What a user says, and the arguments of the call. `said`: path of each argument -> its words and its value."""

    text: str
    arguments: Arguments
    said: Mapping[str, Said]


def request(
    function: Function,
    template: str,
    rng: random.Random,
    language: str = "en",
    optional: float = 0.5,
    given: Mapping[str, Said] | None = None,
) -> Request:
    """Fills a template. `optional`: share of the parts in brackets that are said. `given`: values that are fixed."""
    said: dict[str, Said] = {}
    text = fill(function, with_parts(template, rng, optional), rng, said, language, given or {})
    return Request(" ".join(text.split(" ")).strip(), arguments(function, said), said)


def requests(
    function: Function, template: str, rng: random.Random, language: str = "en"
) -> tuple[str, tuple[Request, ...]]:
    """Fills a template of two or more calls: `{1.city}` and `{2.city}` differ, `{date}` is the same in all. A template
    of two that lists values may become one of up to four. The calls are in the order in which the text names them."""
    text = _longer_list(with_parts(template, rng, 0.5), rng)
    numbers = [slot[1].partition(".")[0] for slot in SLOT.finditer(text)]
    order = list(dict.fromkeys(number for number in numbers if number.isdigit()))
    said: dict[str, dict[str, Said]] = {number: {} for number in order}

    def words(found: re.Match[str]) -> str:
        number, dot, rest = found[1].partition(".")
        numbered = bool(dot) and number.isdigit()
        name = rest if numbered else found[1]
        mine = [said[number]] if numbered else list(said.values())
        if found[2] is not None:
            value = Said("", _literal(function, name, found[2]))
        else:
            taken = [each[name] for each in said.values() if name in each]
            value = mine[0].get(name) or _distinct(function, name, taken, rng, language)
        for each in mine:
            each[name] = value
        return value.words

    filled = SLOT.sub(words, text)
    return filled, tuple(Request(filled, arguments(function, each), each) for each in said.values())


def _distinct(function: Function, path: str, taken: Sequence[Said], rng: random.Random, language: str) -> Said:
    """A value that no other call has, where there are enough values."""
    for _ in range(8):
        drawn = _draw(function, path, rng, language)
        if all(drawn.value != each.value for each in taken):
            break
    return drawn


def _longer_list(template: str, rng: random.Random) -> str:
    """`{1.x} and {2.x}` may become a list of three or four."""
    found = _PAIRED.search(template)
    numbered = [slot[1] for slot in SLOT.finditer(template) if slot[1][:1].isdigit()]
    if found is None or len(numbered) > 2 or _TWO.search(template) or rng.random() < 0.5:
        return template
    name, before = found["name"], found["before"] or ""
    items = [f"{{1.{name}}}", *(f"{before}{{{number}.{name}}}" for number in range(2, rng.choice((3, 3, 4)) + 1))]
    return f"{template[: found.start()]}{', '.join(items[:-1])} and {items[-1]}{template[found.end() :]}"


def fill(
    function: Function,
    text: str,
    rng: random.Random,
    said: dict[str, Said],
    language: str,
    given: Mapping[str, Said],
    prefix: str = "",
) -> str:
    """The text with values in its slots, which `said` receives. `prefix`: of slots that belong to this function."""
    named = (found for found in SLOT.finditer(text) if found[2] is None and found[1].startswith(prefix))
    drawn = list(dict.fromkeys(found[1][len(prefix) :] for found in named))
    _draw_all(function, [each for each in drawn if each not in said and each not in given], said, rng, language)
    pieces, end = [], 0
    for found in SLOT.finditer(text):
        path = found[1]
        if not path.startswith(prefix):
            continue
        name = path[len(prefix) :]
        pieces.append(text[end : found.start()])
        end = found.end()
        if found[2] is not None:
            said[name] = Said("", _literal(function, name, found[2]))
            continue
        if name not in said:
            said[name] = given.get(name) or _draw(function, name, rng, language)
        pieces.append(said[name].words)
    return "".join([*pieces, text[end:]])


def _draw_all(
    function: Function, paths: Sequence[str], said: dict[str, Said], rng: random.Random, language: str
) -> None:
    """Draws values that may stand together: two cities differ, and what ends does not end before it starts."""
    for at, path in enumerate(paths):
        others = [other for other in paths[:at] if function.parameter(other).of == function.parameter(path).of]
        said[path] = _distinct(function, path, [said[other] for other in others], rng, language)
    for start, end, numbers in _in_order(paths):
        for _ in range(TRIES):
            if not _ends_early(said[start].value, said[end].value, numbers):
                break
            said[start], said[end] = (_draw(function, each, rng, language) for each in (start, end))


TRIES = 12
_STAMP = re.compile(r"(?:\d{4}-\d\d-\d\d)?[T ]?(?:\d\d:\d\d)?(?::\d\d)?Z?")
_BOUNDS = (("start", "end"), ("min", "max"), ("after", "end"), ("from", "to"))
"""Roles of two values of which the first is not the larger one; of from and to only dates and times."""


def _in_order(paths: Sequence[str]) -> list[tuple[str, str, bool]]:
    """The parameters among `paths` that begin and end the same, and whether that is so for numbers too: from floor 5
    to floor 2 is a way."""
    roles = {path: role_of(path.rpartition(".")[2]) for path in paths}
    return [
        (one, two, first != "from")
        for one, first in roles.items()
        for two, second in roles.items()
        if (first, second) in _BOUNDS and one.rpartition(".")[0] == two.rpartition(".")[0]
    ]


def _ends_early(start: Any, end: Any, numbers: bool) -> bool:
    if isinstance(start, str) and isinstance(end, str):
        return bool(start and _STAMP.fullmatch(start) and _STAMP.fullmatch(end)) and start > end
    are_numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (start, end))
    return bool(numbers and are_numbers and start > end)


def arguments(function: Function, said: Mapping[str, Said]) -> Arguments:
    """The arguments in the order of the parameters."""
    found: Arguments = {}
    for name, parameter in function.parameters.items():
        if parameter.parameters is None:
            if name in said:
                found[name] = said[name].value
        else:
            inner = {part: said[f"{name}.{part}"].value for part in parameter.parameters if f"{name}.{part}" in said}
            if inner:
                found[name] = inner
    return found


def with_parts(template: str, rng: random.Random, share: float) -> str:
    """A template with or without each of its optional parts. Nothing is said twice."""
    fixed = {found[1] for found in SLOT.finditer(OPTIONAL.sub("", template))}

    def part(found: Any) -> str:
        names = {slot[1] for slot in SLOT.finditer(found[1])}
        if names & fixed or rng.random() >= share:
            return ""
        fixed.update(names)
        return str(found[1])

    return OPTIONAL.sub(part, template)


def _draw(function: Function, path: str, rng: random.Random, language: str) -> Said:
    return function.parameter(path).draw(rng, language)


def _literal(function: Function, path: str, text: str) -> Any:
    if function.parameter(path).type == "string":
        return text
    return json.loads(text)


def surface(text: str, rng: random.Random, openings: Sequence[str], endings: Sequence[str]) -> str:
    """A question as people type it: sometimes after a sentence, with thanks, in lower case or without its last mark."""
    kind = rng.random()
    if kind < 0.10:
        return f"{rng.choice(openings)} {text}"
    if kind < 0.16:
        return f"{text if text[-1:] in _MARKS else text + '.'} {rng.choice(endings)}"
    if kind < 0.24:
        return text[:1].lower() + text[1:] if text[1:2].islower() else text
    if kind < 0.34:
        return text.rstrip(_MARKS)
    return text
