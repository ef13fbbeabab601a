"""A template of a question -> a request: its words and the arguments that they name. Knows no conversation."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from swift.synth.catalogue import OPTIONAL, SLOT, Function
from swift.synth.values import Said

Arguments = dict[str, Any]


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
) -> tuple[str, tuple[Request, Request]]:
    """Fills a template of two calls: `{1.city}` and `{2.city}` differ, `{date}` is the same in both."""
    said: dict[str, dict[str, Said]] = {"1": {}, "2": {}}

    def value(path: str, literal: str | None) -> Said:
        number, _, rest = path.partition(".")
        if literal is not None:
            name = rest if number in said else path
            fixed = Said("", _literal(function, name, literal))
            for each in [said[number]] if number in said else said.values():
                each[name] = fixed
            return fixed
        if number not in said:
            shared = said["1"].get(path) or _draw(function, path, rng, language)
            said["1"][path] = said["2"][path] = shared
            return shared
        drawn = said[number].get(rest) or _draw(function, rest, rng, language)
        other = said["2" if number == "1" else "1"].get(rest)
        for _ in range(8):
            if other is None or other.value != drawn.value:
                break
            drawn = _draw(function, rest, rng, language)
        said[number][rest] = drawn
        return drawn

    text = SLOT.sub(lambda found: value(found[1], found[2]).words, with_parts(template, rng, 0.5))
    made = [Request(text, arguments(function, each), each) for each in said.values()]
    return text, (made[0], made[1])


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
        return f"{text if text[-1:] in '.?!。?' else text + '.'} {rng.choice(endings)}"
    if kind < 0.24:
        return text[:1].lower() + text[1:] if text[1:2].islower() else text
    if kind < 0.34:
        return text.rstrip(".?!")
    return text
