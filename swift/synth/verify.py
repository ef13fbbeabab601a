"""Checks a conversation that was made: every call validates, and every value was said or follows from a result.

It reads the finished messages, not what made them: a value counts as said if its words are there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from itertools import pairwise
from typing import Any

from dateutil import parser as dates
from num2words import num2words

from swift.agent import schemas
from swift.chat import Conversation
from swift.synth.offers import Offer
from swift.synth.rounds import Call, Turn
from swift.synth.values import SPOKEN_TIMES, Said, in_words, scaled


def problems(conversation: Conversation, turns: Sequence[Turn], offers: Mapping[str, Offer]) -> Iterator[str]:
    """What is wrong with the calls and answers of a conversation. `offers`: by the names of the catalogue."""
    heard = ""
    for turn in turns:
        heard += " " + turn.question
        for step in turn.steps:
            for call in step:
                yield from _call_problems(call, offers[call.function.name], heard)
            yield from _order_problems(step, turn.question)
            heard += " " + " ".join(in_words(call.result) for call in step)
        if turn.steps:
            yield from _answer_problems(turn, heard)


def _call_problems(call: Call, offer: Offer, heard: str) -> Iterator[str]:
    made = offer.call(call.arguments)
    checker = schemas.checker(schemas.argument_schema(offer.tool))
    for error in checker.iter_errors(json.loads(made.arguments)):
        yield f"{made.name}: {error.message}"
    for path, said in call.said.items():
        if said.words and not _in(said.words, heard):
            yield f"{made.name}: nobody says {said.words!r} for {path}"
        if said.words and path not in call.passed and not follows(said, call.function.parameter(path).of):
            yield f"{made.name}: {path} is {said.value!r}, but {said.words!r} is said"
    if lost := [path for path in _paths(call.arguments, call.said) if path not in call.said]:
        yield f"{made.name}: {lost[0]} comes from nowhere"


def _order_problems(step: Sequence[Call], question: str) -> Iterator[str]:
    """Calls whose own words all stand before those of the call in front of them."""
    for before, after in pairwise(step):
        first, second = ({each.words for each in call.said.values()} - {""} for call in (before, after))
        own, next_own = sorted(first - second), sorted(second - first)
        starts = [place for words in own for place in _places(words, question)]
        others = [place for words in next_own for place in _places(words, question)]
        if starts and others and max(others) < min(starts):
            yield f"{after.function.name}: {next_own[0]!r} is said before {own[0]!r}, and called after it"


def _places(words: str, text: str) -> list[int]:
    """Where whole words stand."""
    return [found.start() for found in re.finditer(rf"(?<![A-Za-z0-9]){re.escape(words)}(?![A-Za-z0-9])", text)]


def follows(said: Said, of: Any) -> bool:
    """Whether a value is what its words mean: word for word, as a number, date, time or list, or by a stated pair."""
    words, value = said
    if isinstance(value, bool) or words == in_words(value):
        return True
    if isinstance(value, list):
        return all(_in(in_words(each), words) or _paired(each, of) or _is_number(each, words) for each in value)
    if isinstance(value, int | float):
        return _is_number(value, words) or _paired(value, of)
    if of in ("date", "time"):
        return _same_moment(words, value)
    return _paired(value, of)


def _is_number(value: Any, words: str) -> bool:
    if not isinstance(value, int | float):
        return False
    plain = words.replace(",", "")
    is_said = str(value) in plain or (isinstance(value, int) and num2words(value) in words)
    return is_said or any(each == value for each in scaled(words))


def _same_moment(words: str, value: str) -> bool:
    if words in SPOKEN_TIMES:
        return SPOKEN_TIMES[words] == value
    try:
        moment = dates.parse(words.removeprefix("the "))
        is_same = (
            moment.date() == date.fromisoformat(value) if "-" in value else moment.time() == time.fromisoformat(value)
        )
    except ValueError:
        return False
    return bool(is_same)


def _paired(value: Any, of: Any) -> bool:
    """Whether a value stands in a list of pairs: what is said, and the value."""
    return isinstance(of, list | tuple) and any(
        isinstance(each, list | tuple) and _matches(each[1], value) for each in of
    )


def _matches(pattern: Any, value: Any) -> bool:
    if not isinstance(pattern, str) or not isinstance(value, str):
        return bool(pattern == value)
    return len(pattern) == len(value) and all(p in ("#", "^", v) for p, v in zip(pattern, value, strict=True))


def _answer_problems(turn: Turn, heard: str) -> Iterator[str]:
    for word in turn.answer.split():
        number = word.strip(".,;:!?()%€$£")
        if number.replace(".", "", 1).isdigit() and number not in heard.replace(",", ""):
            yield f"the answer says {number}, which no result has"


def _paths(arguments: Mapping[str, Any], said: Mapping[str, Said]) -> Iterator[str]:
    for name, value in arguments.items():
        if isinstance(value, dict) and name not in said:
            yield from (f"{name}.{inner}" for inner in value)
        else:
            yield name


def _in(words: str, text: str) -> bool:
    return words.casefold() in text.casefold()
