"""The catalogue of invented functions: one file a domain in `catalogue/`, checked as it is read. Makes no conversation.

`catalogue/README.md` documents the fields.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from swift.synth import values
from swift.synth.values import Said
from swift.system import toml_file

FOLDER = Path(__file__).parent / "catalogue"
SLOT = re.compile(r"\{([\w.]+)(?:=([^{}]*))?\}")
OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
BRACKETED = 0.5
"""Share of lists of numbers that an English question says in brackets."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: its description, its JSON type, and the values that questions use."""

    what: str
    type: str
    of: Any
    optional: bool = False
    enum: tuple[Any, ...] = ()
    default: Any = None
    count: tuple[int, int] = (1, 3)
    parameters: Mapping[str, Parameter] | None = None
    literal: bool = False
    """A list is said as JSON writes it"""

    @property
    def schema(self) -> dict[str, Any]:
        """The parameter in JSON schema."""
        if self.parameters is not None:
            return {"type": "object", "description": self.what, **_object(self.parameters)}
        found: dict[str, Any] = {"type": self.type, "description": self.what}
        if self.type == "array":
            found["items"] = _schema_of(_drawn(self.of))
        if self.enum:
            found["enum"] = list(self.enum)
        if self.default is not None:
            found["default"] = self.default
        return found

    def draw(self, rng: random.Random, language: str = "en") -> Said:
        """A value, as it is said and as the call contains it."""
        if self.type == "array":
            drawn = self._elements(rng, language)
            if language == "en" and _are_plain(drawn) and rng.random() < BRACKETED:
                listed = [each.value for each in drawn]
                return Said(json.dumps(listed), listed)
            if isinstance(drawn[0].value, str):  # nobody lists a word twice
                drawn = list(dict.fromkeys(drawn))
            if self.literal:
                value = [each.value for each in drawn]
                return Said(json.dumps(value, ensure_ascii=False), value)
            return Said(_joined([each.words for each in drawn], language), [each.value for each in drawn])
        said = values.draw(self.of, rng, language)
        converts = self.of not in ("date", "time") or "YYYY" in self.what or "HH:MM" in self.what
        return said if converts else Said(said.words, said.words)

    def _elements(self, rng: random.Random, language: str) -> list[Said]:
        """Elements of an array: no object twice, and numbers in digits ("8, nine and -4" is hard to read)."""
        drawn = [values.draw(self.of, rng, language) for _ in range(rng.randint(*self.count))]
        if values.known(self.of) and isinstance(drawn[0].value, int | float):
            return [Said(values.in_words(each.value), each.value) for each in drawn]
        if isinstance(drawn[0].value, dict):
            return list({each.words: each for each in drawn}.values())
        return drawn


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the catalogue, and how people ask for it."""

    domain: str
    name: str
    description: str
    parameters: Mapping[str, Parameter]
    ask: tuple[str, ...]
    zh: tuple[str, ...]
    pair: tuple[str, ...]
    missing: Mapping[str, tuple[str, str]]
    result: Mapping[str, Any]
    say: tuple[str, ...]
    say_zh: tuple[str, ...]
    given: Mapping[str, Any] | None = None
    """The description of a tool of the user, in OpenAI's format: it is offered as it is"""

    @property
    def spec(self) -> dict[str, Any]:
        """The function in OpenAI's format."""
        if self.given is not None:
            return dict(self.given)
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": {"type": "object", **_object(self.parameters)},
        }
        return {"type": "function", "function": function}

    def parameter(self, path: str) -> Parameter:
        """The parameter of a slot such as "address.street". Raises KeyError."""
        name, _, rest = path.partition(".")
        found = self.parameters[name]
        if not rest:
            return found
        if found.parameters is None:
            raise KeyError(path)
        return found.parameters[rest]

    def required(self) -> set[str]:
        """The slots that every question needs."""
        return {
            path
            for name, each in self.parameters.items()
            if not each.optional
            for path in (
                [f"{name}.{inner}" for inner, part in each.parameters.items() if not part.optional]
                if each.parameters is not None
                else [name]
            )
        }


@dataclass(frozen=True, slots=True)
class Chain:
    """Two functions of which the second needs a result of the first. `passes`: its argument -> key of that result."""

    first: str
    then: str
    passes: Mapping[str, str]
    ask: tuple[str, ...]
    say: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    name: str
    held_out: bool
    functions: Mapping[str, Function]
    chains: tuple[Chain, ...]


@cache
def domains() -> tuple[Domain, ...]:
    """Every domain of the catalogue."""
    return tuple(read(path) for path in sorted(FOLDER.glob("*.toml")))


def read(path: Path) -> Domain:
    """A domain from its file. Raises ValueError with the place and what is wrong."""
    fields = toml_file.read(path)
    held_out, chains = fields.pop("held_out", False), fields.pop("chain", [])
    functions = {}
    for name, about in fields.items():
        place = f"{path}: {name}"
        try:
            functions[name] = _function(path.stem, name, dict(about))
            found = list(problems(functions[name]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{place}: {type(error).__name__}: {error}") from None
        if found:
            raise ValueError(f"{place}: {found[0]}")
    made = tuple(_chain(each) for each in chains)
    for each in made:
        _check_chain(path, each, functions)
    return Domain(path.stem, held_out, functions, made)


def _function(domain: str, name: str, about: dict[str, Any]) -> Function:
    made = Function(
        domain,
        name,
        about.pop("description"),
        {each: _parameter(dict(given)) for each, given in about.pop("params", {}).items()},
        tuple(about.pop("ask")),
        tuple(about.pop("zh", ())),
        tuple(about.pop("pair", ())),
        {path: (given[0], given[1]) for path, given in _flat(about.pop("missing", {}))},
        about.pop("result"),
        _texts(about.pop("say")),
        _texts(about.pop("say_zh", ())),
    )
    if about:
        raise KeyError(f"unknown field {next(iter(about))}")
    return made


def _parameter(given: dict[str, Any]) -> Parameter:
    inner = given.pop("params", None)
    if inner is not None:
        parameters = {name: _parameter(dict(each)) for name, each in inner.items()}
        made = Parameter(given.pop("what"), "object", None, given.pop("optional", False), parameters=parameters)
    else:
        made = _simple_parameter(given)
    if given:
        raise KeyError(f"unknown field {next(iter(given))} of a parameter")
    return made


def _simple_parameter(given: dict[str, Any]) -> Parameter:
    enum = tuple(given.pop("enum", ()))
    words = given.pop("words", {})
    of = given.pop("of", None)
    if of is None:
        of = [[said, each] for each in enum for said in words.get(str(each), [values.in_words(each)])] or "bool"
    low, _, high = given.pop("count", "1..3").partition("..")
    return Parameter(
        given.pop("what"),
        given.pop("type", None) or _json_type(of),
        of,
        given.pop("optional", False),
        enum,
        given.pop("default", None),
        (int(low), int(high)),
    )


def _chain(given: dict[str, Any]) -> Chain:
    return Chain(given["first"], given["then"], given["passes"], tuple(given["ask"]), _texts(given["say"]))


def problems(function: Function) -> Iterator[str]:
    """What is wrong with a function: slots without parameters, questions without a required one, unknown values."""
    for text in (*function.ask, *function.zh):
        yield from _slot_problems(function, text)
        if lost := function.required() - set(slots(OPTIONAL.sub("", text))):
            yield f"{text!r} lacks {sorted(lost)} outside of [...]"
    for path, (text, _) in function.missing.items():
        yield from _slot_problems(function, text)
        if path in slots(text) or path not in function.required():
            yield f"missing.{path}: {text!r} says it, or it is not required"
    for text in function.pair:
        said: dict[str, set[str]] = {number: set() for number in "12"}
        for slot in slots(text):
            number, _, path = slot.partition(".")
            for each in said if number not in said else number:
                said[each].add(path if number in said else slot)
        for number, paths in said.items():
            if unknown := [path for path in paths if not _knows(function, path)]:
                yield f"pair {text!r}: no parameter {unknown[0]}"
            if lost := function.required() - paths:
                yield f"pair {text!r}: call {number} lacks {sorted(lost)}"
    for text in (*function.say, *function.say_zh):
        for slot in slots(text):
            if slot not in function.result and slot not in function.required():
                yield f"say {text!r}: {slot} is neither a result nor a required parameter"
    if function.zh and not function.say_zh:
        yield "zh needs say_zh"
    if len(function.ask) < 3 and (function.ask or len(function.zh) < 3):
        yield "fewer than 3 questions"


def _slot_problems(function: Function, text: str) -> Iterator[str]:
    if text.count("[") != len(OPTIONAL.findall(text)) or text.count("]") != text.count("["):
        yield f"{text!r}: brackets are nested or not closed"
    for slot in slots(text):
        if not _knows(function, slot):
            yield f"{text!r}: no parameter {slot}"
    bare = SLOT.sub("", text)
    if "{" in bare or "}" in bare:
        yield f"{text!r}: a brace that is no slot"


def _check_chain(path: Path, chain: Chain, functions: Mapping[str, Function]) -> None:
    for name in (chain.first, chain.then):
        if name not in functions:
            raise ValueError(f"{path}: chain: no function {name}")
    first, then = functions[chain.first], functions[chain.then]
    for argument, key in chain.passes.items():
        if not _knows(then, argument) or key not in first.result:
            raise ValueError(f"{path}: chain {chain.first} -> {chain.then}: cannot pass {key} as {argument}")
    for text in chain.ask:
        said = set(slots(text))
        needed = {f"1.{each}" for each in first.required()}
        needed |= {f"2.{each}" for each in then.required() - set(chain.passes)}
        if lost := needed - said:
            raise ValueError(f"{path}: chain {text!r} lacks {sorted(lost)}")
        if unknown := [each for each in said if not _knows(first if each[0] == "1" else then, each[2:])]:
            raise ValueError(f"{path}: chain {text!r}: no parameter {unknown[0]}")
    for text in chain.say:
        for slot in slots(text):
            function = {"1": first, "2": then}.get(slot[0])
            if function is None or (slot[2:] not in function.result and slot not in slots(chain.ask[0])):
                raise ValueError(f"{path}: chain says {slot}, which is neither a result nor in the question")


def slots(text: str) -> list[str]:
    """The paths of the {slots} of a text."""
    return [found[1] for found in SLOT.finditer(text)]


def _knows(function: Function, path: str) -> bool:
    try:
        function.parameter(path)
    except KeyError:
        return False
    return True


def _flat(given: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Sequence[str]]]:
    for name, each in given.items():
        if isinstance(each, dict):
            yield from _flat(each, f"{before}{name}.")
        else:
            yield f"{before}{name}", each


def _object(parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    required = [name for name, each in parameters.items() if not each.optional]
    return {"properties": {name: each.schema for name, each in parameters.items()}, "required": required}


def _joined(words: Sequence[str], language: str) -> str:
    if language == "zh":
        return "、".join(words)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _texts(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _json_type(of: Any) -> str:
    drawn = {type(each) for each in _drawn(of)}
    if drawn == {int, float}:
        return "number"
    if len(drawn) != 1:
        raise TypeError(f"values of several types: {of}")
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return names[drawn.pop()]


def _are_plain(drawn: Sequence[Said]) -> bool:
    """Whether elements are numbers, or lists of numbers, that are said as JSON writes them."""
    return all(not isinstance(each.value, str) and each.words == json.dumps(each.value) for each in drawn)


def _drawn(of: Any) -> list[Any]:
    """Each value of a list, or a few of a range, a pattern or a shared name."""
    choices = [[each] for each in of] if isinstance(of, list | tuple) else [of]
    return [values.draw(each, random.Random(seed)).value for each in choices for seed in range(6)]


def _schema_of(found: Sequence[Any]) -> dict[str, Any]:
    """The JSON schema of values of one type. Raises TypeError where the types differ."""
    if found and all(isinstance(each, dict) for each in found):
        names = dict.fromkeys(name for each in found for name in each)
        properties = {name: _schema_of([each[name] for each in found if name in each]) for name in names}
        required = [name for name in names if all(name in each for each in found)]
        return {"type": "object", "properties": properties, "required": required}
    if found and all(isinstance(each, list) for each in found):
        return {"type": "array", "items": _schema_of([inner for each in found for inner in each])}
    return {"type": _json_type(found)}
