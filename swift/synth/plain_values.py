"""The values of a function of the catalogue as a direct question says them: in full, without idioms. Knows no question.

Values stay the catalogue's own, so that they are sensible; only the words for them change, or a list of a wider kind
(places, full names, free texts, amounts) takes the place of a shared list where name and description admit it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from swift.synth import kinds, slot_phrases, values
from swift.synth.catalogue import Function, Parameter
from swift.synth.kinds import Kind
from swift.synth.names import nouns_of, tokens
from swift.synth.properties import Property
from swift.synth.schema_values import enum_words

DRAWN = 40
"""Numbers of a parameter that are given other words."""
WIDER = 0.6
"""Share of the parameters that admit values of a wider kind and get them."""
_WEAK = frozenset(("every", "max", "min", "after", "before", "first", "last", "from", "to", "in", "for", "within"))
QUOTED = frozenset(("free_text", "sql", "python", "regex", "formula"))
"""Lists whose values stand in quotes, because nothing else shows where they end."""
_COUNTS = re.compile(r"\b(?:how many|number of|most|maximum|limit|at most|largest number)\b", re.I)
_AREAS = frozenset(("country", "state", "region", "nation", "province"))
_DATE, _TIME = re.compile(r"\d{4}-\d\d-\d\d"), re.compile(r"\d\d:\d\d")
_MAY_BE_NEGATIVE = re.compile(
    r"\b(?:negative|celsius|fahrenheit|offset|displacement|slope|intercept|below zero)\b", re.I
)
_WHOLE_TEXT = re.compile(
    r"\b(?:text|message|note|comment|body|description|summary|feedback|letter|post|review)\b", re.I
)
_ONE_WORD = re.compile(r"\b(?:word|words|phrase|contains?|title|name|label|short|language|code|template)\b", re.I)


def properties(function: Function, style: str, rng: random.Random) -> tuple[Property, ...]:
    """The parameters of a function with plain values and what the grammars need to know. `style`: "spoken"; "written",
    in which booleans and lists are said as values; "literal", in which all values are said as JSON writes them."""
    nouns = nouns_of(function.name)
    owner = nouns[-1] if nouns else function.name
    siblings = {word for name in function.parameters for word in tokens(name)}
    answered = {slot for text in (*function.say, *function.say_zh) for slot in re.findall(r"\{([\w.]+)\}", text)}

    def made(name: str, parameter: Parameter, path: str, owner: str) -> Property:
        if parameter.parameters is not None:
            inner = tuple(made(each, part, f"{name}.{each}", name) for each, part in parameter.parameters.items())
            kind = kinds.recognised(name, parameter.what, "object", owner)
            parts = {each.name: each.parameter for each in inner}
            return Property(name, parameter.what, replace(parameter, parameters=parts), kind, inner)
        kind = kinds.kind_of(name, parameter.schema, owner)._replace(unit=False)
        if kind.name == "limit" and not _COUNTS.search(parameter.what):
            kind = kinds.recognised("value", "", parameter.type, owner)
        return _property(name, parameter, kind, siblings, path in answered, style, rng)

    return tuple(made(name, each, name, owner) for name, each in function.parameters.items())


def _property(
    name: str, parameter: Parameter, kind: Kind, siblings: set[str], answered: bool, style: str, rng: random.Random
) -> Property:
    is_literal = style == "literal"
    if parameter.enum:
        of: Any = _choices(parameter, style)
    elif parameter.type == "boolean":
        words = [["true", True], ["false", False]] if is_literal else [["yes", True], ["no", False], *_TRUE]
        of = words if style != "spoken" else "bool"
    elif parameter.type == "array":
        return Property(name, parameter.what, _array(parameter, is_literal), kind)
    elif parameter.type in ("integer", "number"):
        named = kinds.label(name, parameter.what).split()
        is_plain = answered or is_literal or (style == "written" and named[-1].lower() in slot_phrases.unit_words())
        of, has_unit = _numbers(name, parameter, kind, is_plain, rng)
        kind = kind._replace(unit=has_unit)
    else:
        of = _strings(name, parameter, kind, siblings, is_literal, rng)
    return Property(name, parameter.what, replace(parameter, of=of), kind)


_TRUE = (["true", True], ["false", False])


def _choices(parameter: Parameter, style: str) -> Any:
    """A value of an enum as it is, and as its description explains it."""
    if style == "literal":
        return list(parameter.enum)
    return [[said, each] for each in parameter.enum for said in enum_words(each, parameter.what)]


def _values(of: Any) -> Any:
    """The values of a list without what the catalogue says for them."""
    if not isinstance(of, list | tuple):
        return of
    found = [each[1] if isinstance(each, list | tuple) else each for each in of]
    if any(isinstance(each, list | tuple | dict) for each in found):
        return of
    return list(dict.fromkeys(found))


def _array(parameter: Parameter, is_literal: bool) -> Parameter:
    of = _values(parameter.of)
    low, high = parameter.count
    if high == 3 and low == 1:  # the catalogue states no other number
        high = 6 if values.limits(of) else 4
        low = 2 if values.limits(of) else 1
    return replace(parameter, of=of, count=(low, high), literal=is_literal)


# --- numbers --------------------------------------------------------------------------------------------------------


def _numbers(name: str, parameter: Parameter, kind: Kind, plain: bool, rng: random.Random) -> tuple[Any, bool]:
    """(values, whether their words have a unit). `plain`: they are said in digits alone."""
    of, about = _values(parameter.of), parameter.what
    limits = values.limits(of)
    if limits and limits[0] >= 0 and _MAY_BE_NEGATIVE.search(about) and not re.search(r"\b0\b|non-negative", about):
        of = f"{of.split()[0]} {-limits[1] / 2:g}..{of.split('..')[1]}" if parameter.type == "number" else of
    drawn = _drawn(of, parameter.type, rng)
    if plain:
        return drawn, False
    if values.FRACTION.search(about) and all(0 <= each <= 1 for each in drawn):
        return [[values.share(each, rng), each] for each in drawn], False
    unit = kinds.unit_of(name, about)
    is_rate = (
        unit is not None
        and re.search(r"\bper\b|/", f"{' '.join(tokens(name))} {about}")
        and "percent" not in unit["words"]
    )
    is_weak = tokens(name)[0] in _WEAK  # "every_days" says nothing without its unit
    if unit is not None and not is_rate and kind.name != "coordinate" and (is_weak or rng.random() < 0.7):
        return [[_with_unit(each, unit, rng), each] for each in drawn], True
    if kind.name in ("price", "quantity", "number") and max(map(abs, drawn)) >= 1000:
        if limits and limits[1] >= 100_000 and kind.name == "price":
            drawn += [each * rng.choice((2, 5, 10)) for each in drawn]
        rounded = [_rounded(each) if rng.random() < 0.6 else each for each in drawn]
        kept = [each for each in rounded if limits is None or each >= limits[0]]
        return [[values.amount(each, rng), each] for each in kept or drawn], False
    return drawn, False


def _drawn(of: Any, type_: str, rng: random.Random) -> list[Any]:
    if isinstance(of, list):
        return list(of)
    drawn = [values.draw(of, rng, "zh").value for _ in range(DRAWN)]  # digits: in Chinese no number is in words
    if type_ == "number":  # a number may be a whole one
        return [int(each) if rng.random() < 0.3 and abs(each) >= 2 else each for each in drawn]
    return drawn


def _rounded(value: float) -> Any:
    """A number of which two digits are not 0."""
    if abs(value) < 1000:
        return value
    step = 10 ** (len(str(int(abs(value)))) - 2)
    return int(round(value / step) * step)


def _with_unit(value: Any, unit: Any, rng: random.Random) -> str:
    text = str(rng.choice(unit["says"]))
    said = text.replace("#", str(value))
    if value == 1 and said.endswith("s") and " " in said:
        said = said[:-1]
    return re.sub(r"^\$-", "-$", said)


# --- texts ----------------------------------------------------------------------------------------------------------


def _strings(
    name: str, parameter: Parameter, kind: Kind, siblings: set[str], is_literal: bool, rng: random.Random
) -> Any:
    of, about = parameter.of, parameter.what
    plain = _values(of)
    if isinstance(plain, list) and any(isinstance(each, list | tuple) for each in of):
        shown = [values.draw([each], rng).value for each in plain]
        if all(_DATE.fullmatch(each) for each in shown):
            of = plain = "date"
        elif all(_TIME.fullmatch(each) for each in shown):
            of = plain = "time"
    if plain in ("date", "time"):
        if is_literal:
            return [values.draw(plain, rng).value for _ in range(DRAWN)]
        return plain
    wider = _wider(name, about, plain, kind, siblings)
    return wider if wider and rng.random() < WIDER else plain


def _wider(name: str, about: str, of: Any, kind: Kind, siblings: set[str]) -> str:
    """A shared list of a wider kind that the parameter admits; empty for none."""
    words = tokens(name)
    if of == "city":
        coded = re.search(r"\b(?:code|letters?|short|airport|station)\b", about, re.I)
        return "" if coded or siblings & _AREAS else "place"
    if of == "person":
        return "full_name" if not {"first", "last", "surname"} & set(words) else ""
    if not isinstance(of, list) or not all(isinstance(each, str) for each in of):
        return ""
    is_long = sum(len(each.split()) for each in of) >= 3 * len(of)
    if re.search(r"\bSQL\b", about) or kind.name == "sql":
        return "sql" if any("SELECT" in each.upper() for each in of) else ""
    if re.search(r"regular expression|\bregex", about, re.I) and not re.search(r"\bgroup", about, re.I):
        return "regex"
    if "code" in words and re.search(r"python", about, re.I):
        return "python"
    if kind.name == "expression" and any("x" in each for each in of):
        chemical = re.search(r"chemi|molec|compound|two variables|x and y|\by\b", about, re.I)
        return "formula" if not chemical and not any("y" in each for each in of) else ""
    if kind.name == "message" and is_long and _WHOLE_TEXT.search(f"{name} {about}") and not _ONE_WORD.search(about):
        return "free_text"
    if kind.name == "product" and not any(re.search(r"\d|#|\^", each) for each in of):
        return "product"
    return ""


def quoted(made: Sequence[Property]) -> Iterator[str]:
    """The paths of parameters whose values need quotes."""
    for each in made:
        if each.inner:
            yield from (f"{each.name}.{path}" for path in quoted(each.inner))
        elif each.parameter.type == "string" and not each.parameter.enum and _needs_quotes(each.parameter.of):
            yield each.name


def _needs_quotes(of: Any) -> bool:
    if isinstance(of, str):
        return of in QUOTED
    texts = [each for each in of if isinstance(each, str)]
    long = sum(len(each.split()) for each in texts) >= 3 * len(texts)
    return bool(texts) and (long or any(each.endswith((".", "!", "?")) for each in texts))
