"""Values of parameters: what a user says, and what the call then has to contain. Knows no tools."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from num2words import num2words

from swift.system import toml_file

COUNT = 60
"""Values that are made of a template, a range or a format."""
WORDED_NUMBERS = 0.1
"""Share of the whole numbers that people write in words which an English question says so."""
_RANGE = re.compile(r"(int|float) (-?[\d.]+)\.\.(-?[\d.]+)")


class Said(NamedTuple):
    """A value as a question says it, and as the call contains it."""

    words: str
    value: Any


def draw(of: Any, rng: random.Random, language: str = "en") -> Said:
    """Draws a value. `of`: a list to choose from, a range such as "int 1..9" or "float 0.5..2.0", the name of a shared
    list or generator (`LISTS`, `VERBATIM`, `GENERATORS`), or a pattern.

    In a pattern # is a digit from 1 to 9 and ^ a capital letter. An element of a list that is a list itself is a pair:
    what is said, and the value. Raises ValueError for a value that is none of these.
    """
    if isinstance(of, str) and (found := _RANGE.fullmatch(of)):
        return _number(found, rng, language)
    if isinstance(of, str) and of in GENERATORS:
        return GENERATORS[of](rng)
    if isinstance(of, str) and of in VERBATIM:
        text = _numbered(rng.choice(VERBATIM[of]), rng)
        return Said(text, text)
    if isinstance(of, str) and of in LISTS:
        of = LISTS[of]
    chosen = rng.choice(of) if isinstance(of, list | tuple) else of
    if isinstance(chosen, list | tuple):
        if len(chosen) != 2:
            raise ValueError(f"{chosen}: a pair is what is said and the value")
        said, value = (_patterned(each, rng) if isinstance(each, str) else each for each in _same_digits(chosen, rng))
        return Said(str(said), value)
    if isinstance(chosen, str):
        chosen = _patterned(chosen, rng)
    return Said(in_words(chosen), chosen)


def in_words(value: Any) -> str:
    """A value as a sentence contains it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {in_words(each)}" for name, each in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def known(of: Any) -> bool:
    """Whether a text is a range, or the name of a list or a generator."""
    return isinstance(of, str) and bool(_RANGE.fullmatch(of) or of in LISTS or of in VERBATIM or of in GENERATORS)


def limits(of: Any) -> tuple[float, float] | None:
    """The lowest and the highest number of a range such as "int 1..9"; None for anything else."""
    found = _RANGE.fullmatch(of) if isinstance(of, str) else None
    return (float(found[2]), float(found[3])) if found else None


# --- numbers that are said in another way than the call writes them --------------------------------------------------

FRACTION = re.compile(
    r"\b(?:as a (?:decimal )?fraction|as a decimal|fraction (?:from|between|of)|(?:from |between )?0(?:\.0)? "
    r"(?:to|and) 1(?:\.0)?(?![\d.]*\d))",
    re.IGNORECASE,
)
"""Descriptions of numbers that are shares of one: users say "5%" for 0.05."""


def amount(value: float, rng: random.Random) -> str:
    """An amount as people write it: "12,500", "40 thousand", "2.5 million", "40k". Exact: it means the value."""
    ways = [str(value), f"{value:,}"]
    for unit, words in ((10**9, (" billion",)), (10**6, (" million", " million")), (1000, (" thousand", "k"))):
        count = round(value / unit, 2)
        if abs(value) >= max(unit, 10_000) and len(f"{count:g}") <= 4 and round(count * unit) == value:
            ways += [f"{count:g}{word}" for word in words]
            break
    return rng.choice(ways)


def share(value: float, rng: random.Random) -> str:
    """A share of one in percent, or as it is: 0.05 -> "5%", "5 percent", "0.05"."""
    percent = f"{round(value * 100, 6):g}"
    return rng.choice((f"{percent}%", f"{percent}%", f"{percent} percent", str(value)))


_SCALES: Mapping[str, int] = {"k": 1000, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}
_SCALED = re.compile(r"(-?\d[\d,]*(?:\.\d+)?)\s?(k|thousand|million|billion|%|percent)(?!\w)", re.IGNORECASE)


def scaled(words: str) -> list[float]:
    """The numbers of a text that a word multiplies: "2.5 million" is 2500000. Percentages are shares of one."""
    return [
        round(float(number.replace(",", "")) * _SCALES[word], 6)
        if (word := unit.lower()) in _SCALES
        else round(float(number.replace(",", "")) / 100, 8)
        for number, unit in _SCALED.findall(words)
    ]


def is_worded(number: float) -> bool:
    """Whether people write a number in words: 2 to 20, and tens to 100."""
    return isinstance(number, int) and (2 <= number <= 20 or (number <= 100 and number > 0 and number % 10 == 0))


def _number(found: re.Match[str], rng: random.Random, language: str) -> Said:
    kind, low, high = found.groups()
    if kind == "int":
        value = rng.randint(int(low), int(high))
        if language == "en" and is_worded(value) and rng.random() < WORDED_NUMBERS:
            return Said(num2words(value), value)
        return Said(f"{value:,}" if value >= 10_000 and rng.random() < 0.3 else str(value), value)
    digits = max(len(part.partition(".")[2]) for part in (low, high))
    number = round(rng.uniform(float(low), float(high)), digits)
    return Said(str(number), number)


def _patterned(text: str, rng: random.Random) -> str:
    text = re.sub("#", lambda _: rng.choice("123456789"), text)
    return re.sub(r"\^", lambda _: rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ"), text)


def _same_digits(pair: Sequence[Any], rng: random.Random) -> list[Any]:
    """A pair whose patterns are filled with the same digits and letters, in order."""
    state = rng.getrandbits(32)
    return [_patterned(each, random.Random(state)) if isinstance(each, str) else each for each in pair]


def _date(rng: random.Random) -> Said:
    day = date(2024, 1, 1) + timedelta(days=rng.randrange(1400))
    month = day.strftime("%B")
    nth = num2words(day.day, to="ordinal_num")
    said = rng.choice(
        (day.isoformat(), day.isoformat(), f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}",
         f"the {nth} of {month} {day.year}")
    )  # fmt: skip
    return Said(said, day.isoformat())


def _time(rng: random.Random) -> Said:
    hour, minute = rng.randrange(24), rng.choice((0, 0, 15, 30, 45, rng.randrange(60)))
    value = f"{hour:02}:{minute:02}"
    twelve = f"{hour % 12 or 12}" + (f":{minute:02}" if minute else "") + (" am" if hour < 12 else " pm")
    return Said(rng.choice((value, value, twelve, twelve.replace(" ", ""), _SPOKEN.get(value, value))), value)


def _spoken_times() -> Iterator[tuple[str, str]]:
    """(a time as people say it with the part of the day, HH:MM): "half past seven in the evening", 19:30."""
    yield from (("midnight", "00:00"), ("noon", "12:00"))
    for hour in range(1, 23):
        part = "morning" if hour < 12 else "afternoon" if hour < 18 else "evening"
        if hour != 12:
            yield f"{num2words(hour % 12)} o'clock in the {part}", f"{hour:02}:00"
        yield f"quarter past {num2words(hour % 12 or 12)} in the {part}", f"{hour:02}:15"
        yield f"half past {num2words(hour % 12 or 12)} in the {part}", f"{hour:02}:30"
        yield f"quarter to {num2words(hour % 12 + 1)} in the {part}", f"{hour:02}:45"


def _month(rng: random.Random) -> Said:
    month = date(2025, rng.randint(1, 12), 1)
    return Said(month.strftime("%B"), month.strftime("%B"))


def _year(rng: random.Random) -> Said:
    year = rng.randint(1950, 2026)
    return Said(str(year), year)


def _bool(rng: random.Random) -> Said:
    return Said("yes", True) if rng.random() < 0.5 else Said("no", False)


def _free_text(rng: random.Random) -> Said:
    """Two or three clauses: 8 to 25 words."""
    count = rng.choice((2, 2, 3))
    clauses = rng.sample(VERBATIM["clause"], count)
    while len(" ".join(clauses).split()) > 24:
        clauses = rng.sample(VERBATIM["clause"], 2)
    if rng.random() < 0.5:
        text = ". ".join(each[:1].upper() + each[1:] for each in clauses) + "."
    else:
        text = f"{', '.join(clauses[:-1])}, and {clauses[-1]}"
        text = text[:1].upper() + text[1:] if rng.random() < 0.5 else text
    return Said(text, text)


def _numbered(text: str, rng: random.Random) -> str:
    return re.sub("<n>", lambda _: str(rng.randint(2, 99)), text)


SPOKEN_TIMES: Mapping[str, str] = dict(_spoken_times())
"""A time as people say it -> HH:MM."""
_SPOKEN = {value: words for words, value in SPOKEN_TIMES.items()}

GENERATORS: Mapping[str, Callable[[random.Random], Said]] = {
    "date": _date,
    "time": _time,
    "month": _month,
    "year": _year,
    "bool": _bool,
    "free_text": _free_text,
}
"""Values that are written in several ways. A date is YYYY-MM-DD and a time HH:MM in the call."""

_TABLE = toml_file.read(Path(__file__).with_name("lists.toml"))

VERBATIM: Mapping[str, Sequence[str]] = _TABLE.pop("verbatim")
"""Lists of texts without patterns, by name: formulas, code, clauses."""

LISTS: Mapping[str, Sequence[Any]] = _TABLE
"""Lists of values that several functions share, by name."""
