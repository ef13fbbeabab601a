"""Functions as they are offered: renamed, described in fewer words, in another order. Knows no question.

Masked names follow Hammer (arXiv 2410.04587): where names say nothing, a model has to read the descriptions.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from swift.chat import Tool, ToolCall
from swift.synth import dialects
from swift.synth.catalogue import Function, Parameter
from swift.synth.values import FRACTION

_SYLLABLES = (
    "ka", "lo", "mi", "ra", "tu", "ve", "no", "si", "pa", "du", "fe", "go", "ha", "ji", "be", "wa", "zo", "qui", "lem",
    "tor", "vin", "sel", "dra",
)  # fmt: skip


@dataclass(frozen=True)
class Offer:
    """A function as one conversation offers it. `names`: its parameters' names here, by those of the catalogue."""

    function: Function
    name: str
    names: Mapping[str, str]
    tool: Tool

    def call(self, arguments: Mapping[str, Any]) -> ToolCall:
        """The call with these arguments of the catalogue's function."""
        given = {self.names[name]: value for name, value in arguments.items()}
        return ToolCall(self.name, json.dumps(given, ensure_ascii=False))


@dataclass(frozen=True)
class Masking:
    """Shares of conversations: whose function names, or parameter names, say nothing; whose names are restyled; whose
    descriptions are shortened, or missing for parameters. `dialects`: schemas as different programs write them."""

    names: float = 0.12
    parameters: float = 0.08
    styles: float = 0.25
    short: float = 0.2
    bare: float = 0.12
    dialects: bool = True


class Offers:
    """How one conversation offers functions: the same way for all of them."""

    def __init__(self, masking: Masking, rng: random.Random) -> None:
        self._rng = rng
        draw = rng.random
        self._masks, self._masks_parameters = draw() < masking.names, draw() < masking.parameters
        self._style = rng.choice(STYLES) if draw() < masking.styles else _same
        # What names no longer tell, descriptions have to.
        self._short = draw() < masking.short
        self._bare = draw() < masking.bare and not self._masks_parameters
        self._shuffles = draw() < 0.3
        self._dialect = dialects.draw(rng) if masking.dialects else dict
        self._taken: set[str] = set()

    def offer(self, function: Function) -> Offer:
        """The function in this conversation; one of the user's as it is, because it will be offered like that."""
        if function.given is not None:
            self._taken.add(function.name)
            return Offer(
                function, function.name, {each: each for each in function.parameters}, Tool(dict(function.given))
            )
        name = self._distinct(self._masked() if self._masks else self._style(function.name, function.domain))
        masks = self._masks_parameters
        names = {each: self._masked_parameter(at) if masks else each for at, each in enumerate(function.parameters, 1)}
        parameters = dict(function.parameters)
        order = list(parameters)
        if self._shuffles:
            self._rng.shuffle(order)
        described = replace(function, parameters={each: parameters[each] for each in order})
        spec = described.spec["function"]
        schema = spec["parameters"]
        properties = {names[each]: self._shown(schema["properties"][each], parameters[each]) for each in order}
        shown = {
            "name": name,
            "description": _first_sentence(function.description) if self._short else function.description,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": [names[each] for each in schema["required"]],
            },
        }
        return Offer(function, name, names, Tool({"type": "function", "function": self._dialect(shown)}))

    def _shown(self, schema: dict[str, Any], parameter: Parameter) -> dict[str, Any]:
        if self._bare and not _has_rule(parameter):
            return {key: value for key, value in schema.items() if key != "description"}
        return schema

    def _masked(self) -> str:
        made = "".join(self._rng.choice(_SYLLABLES) for _ in range(self._rng.randint(2, 3)))
        return self._rng.choice((made, f"func_{self._rng.randint(1, 99)}", f"{made}_{self._rng.randint(1, 9)}"))

    def _masked_parameter(self, number: int) -> str:
        return self._rng.choice((f"arg{number}", f"p_{number}", "".join(self._rng.sample(_SYLLABLES, 2)) + str(number)))

    def _distinct(self, name: str) -> str:
        made, number = name, 2
        while made in self._taken:
            made, number = f"{name}_{number}", number + 1
        self._taken.add(made)
        return made


def _has_rule(parameter: Parameter) -> bool:
    """Whether the description says how words become the value: it must not be left out."""
    pairs = isinstance(parameter.of, list | tuple) and any(isinstance(each, list | tuple) for each in parameter.of)
    return pairs or parameter.of in ("date", "time") or bool(FRACTION.search(parameter.what))


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?]) ", text)[0].rstrip(".")


def _same(name: str, domain: str) -> str:
    return name


def _camel(name: str, domain: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _snake(name: str, domain: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _prefixed(name: str, domain: str) -> str:
    return f"{domain}_{name}" if not name.startswith(domain) else name


def _pascal(name: str, domain: str) -> str:
    made = _camel(name, domain)
    return made[:1].upper() + made[1:]


def _api(name: str, domain: str) -> str:
    return f"{_snake(name, domain)}_api"


STYLES = (_camel, _snake, _prefixed, _pascal, _api)
