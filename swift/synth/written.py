"""Questions that a writer, such as a language model, makes for drawn calls: what is asked for, and whether a text says
it. Knows no model and no prompt.

A text is right if every argument stands in it, word for word or by a rule that `verify` knows, and nothing else does:
no further number, name, quotation or choice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, time
from itertools import pairwise
from typing import Any, NamedTuple

from num2words import num2words

from swift.synth import verify
from swift.synth.catalogue import Function, Parameter
from swift.synth.names import CHINESE, GENERIC, tokens
from swift.synth.own_examples import ways_of_saying
from swift.synth.rounds import Call, Turn
from swift.synth.schema_values import enum_words
from swift.synth.values import Said, in_words

MOST_CHARACTERS = 400
"""Characters of a question beside its values."""
_NEGATION = re.compile(
    r"\b(?:no|not|non|without|never|skip|off|disable|leave out|except|exclude|\w+n['’]t)\b|不|别|无|没"
)
_QUOTED = re.compile(r"\"([^\"\n]{2,})\"|“([^”\n]{2,})”|(?<!\w)'([^'\n]{2,})'(?!\w)|`([^`\n]+)`")
_PREFACE = re.compile(
    r"(?:(?:sure|certainly|of course|here(?:'s| is| are)|(?:the )?(?:user|assistant|calls?|message|question|thought)\b)"
    r"[^\n]{0,60}:|as an ai\b|i(?:'m| am) (?:here|ready|happy) to (?:help|assist))",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?")
_NAME = re.compile(r"(?<=[a-z0-9,;:] )[A-Z][\w'’-]+")
_FIRST_WORDS = frozenset((
    "i", "i'm", "i'd", "i've", "i'll", "ok", "hi", "hello", "hey", "please", "thanks", "also", "could", "can",
    "would", "what", "what's", "which", "how", "who", "where", "when", "is", "are", "do", "does", "will", "let",
    "show", "tell", "give", "find", "get", "check", "book", "my", "the", "a", "an", "and", "then", "this", "it",
    "we", "we're", "you", "need",
))  # fmt: skip
"""Words that people write with a capital after a comma or colon, which name nothing."""
_WORDED = {num2words(number): number for number in range(2, 21)}
_MARKS = re.compile(r"\b(?:Thought|Action|Action Input|Observation|Final Answer)\s*:", re.IGNORECASE)


class Wanted(NamedTuple):
    """What one message of a user has to say.

    `calls`: the calls that it asks for. `needed`: the paths of each call that the message itself says; the others were
    said before, or follow from a result. `lacking`: required paths that it must not say. `before`: the question and the
    answer before it if it continues them. `template`: the question of the grammar, in whose language it is.
    """

    calls: tuple[Call, ...]
    needed: tuple[Collection[str], ...]
    lacking: tuple[str, ...]
    before: tuple[str, str] | None
    template: str

    @property
    def is_chinese(self) -> bool:
        return bool(CHINESE.search(self.template))


def wanted(turns: Sequence[Turn], at: int) -> Wanted | None:
    """What the message of a turn has to say; None for one that asks for no call."""
    turn = turns[at]
    calls = tuple(_different(turn.asked or [call for step in turn.steps for call in step]))
    if not calls:
        return None
    worded = [
        {path for path, said in call.said.items() if said.words and path not in call.passed and _has(said.words, turn)}
        for call in calls
    ]
    said_before = [
        path
        for call, here in zip(calls, worded, strict=True)
        for path, said in call.said.items()
        if said.words and path not in call.passed and path not in here
    ]
    needed: list[Collection[str]] = list(worded)
    before = None
    if said_before and at:
        before = turns[at - 1].question, turns[at - 1].answer
    else:
        needed = [set(call.said) - call.passed for call in calls]
    lacking = sorted(calls[0].function.required() - set(calls[0].said)) if turn.asked else []
    return Wanted(calls, tuple(needed), tuple(lacking), before, turn.question)


def _different(calls: Iterable[Call]) -> Iterator[Call]:
    seen = []
    for call in calls:
        if (key := (call.function.name, call.arguments)) not in seen:
            seen.append(key)
            yield call


def _has(words: str, turn: Turn) -> bool:
    return _place(words, turn.question) is not None


# --- a reply of the writer --------------------------------------------------------------------------------------------


def cleaned(text: str) -> str:
    """A reply without the reasoning of a thinking model, quotes around all of it, and double spaces."""
    text = text.rpartition("</think>")[2].strip()
    for mark in ('"', "“", "'"):
        if text[:1] == mark and text[-1:] == {"“": "”"}.get(mark, mark) and mark not in text[1:-1]:
            text = text[1:-1].strip()
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def problem(text: str, asked: Wanted) -> str:
    """Why a cleaned text is not the question that is wanted, in words that a writer can act on; empty if it is."""
    if not text:
        return "it is empty"
    values = [said.words or in_words(said.value) for call in asked.calls for said in call.said.values()]
    if len(text) > MOST_CHARACTERS + sum(map(len, values)):
        return "it is too long"
    if _PREFACE.match(text) or _MARKS.search(text):
        return "it has to be the message alone, without an introduction"
    if asked.is_chinese != bool(CHINESE.search(text)):
        return f"it has to be in {'Chinese' if asked.is_chinese else 'English'}"
    for call in asked.calls:
        name = call.function.name
        if re.search(r"_|[a-z][A-Z]", name) and name in text:
            return f"it names the function {name}: say in words what is wanted"
        for path in call.function.parameters:
            if "_" in path and path in text and not any(path in value for value in values):
                return f"it names the parameter {path}: say in words what is wanted"
    spans: list[tuple[int, int]] = []
    for call, needed in zip(asked.calls, asked.needed, strict=True):
        for path in sorted(needed):
            found = located(call, path, text)
            if found is None:
                return _unsaid(call, path)
            if found.words:
                place = _place(found.words, text) or 0
                spans.append((place, place + len(found.words)))
    if not asked.before and not spans:
        for call in asked.calls:
            if not _is_about(text, call.function, asked.template):
                return f"it does not say what is wanted: {call.function.description or asked.template}"
    return _strange(_without(text, spans), asked, values) or _disordered(text, asked)


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    for start, end in spans:
        text = f"{text[:start]}{'_' * (end - start)}{text[end:]}"
    return text


def _is_about(text: str, function: Function, template: str) -> bool:
    """Whether a text shares a word with what is known of a function. Without a value, nothing else can be checked."""
    parameters = " ".join(_what(function, path) for path in function.parameters)
    about = f"{' '.join(tokens(function.name))} {function.description} {parameters} {template}".lower()
    if CHINESE.search(text):
        letters = CHINESE.findall(template + function.description)
        return any(a + b in text for a, b in pairwise(letters))
    stems = {word[:5] for word in re.findall(r"[a-z]{3,}", about) if word not in _FIRST_WORDS and word not in _IDLE}
    return any(word[:5] in stems for word in re.findall(r"[a-z]{3,}", text.lower()))


def _unsaid(call: Call, path: str) -> str:
    said = call.said[path]
    if said.words:
        return f"it does not say {said.words!r} ({path.replace('_', ' ')})"
    return f"it does not say that {path.replace('_', ' ')} is {in_words(said.value)}"


def _strange(text: str, asked: Wanted, values: Sequence[str]) -> str:
    """What a text says that no argument has."""
    functions = [call.function for call in asked.calls]
    about = " ".join(
        [*values, *(in_words(said.value) for call in asked.calls for said in call.said.values()), asked.template]
        + [f"{' '.join(tokens(each.name))} {each.description}" for each in functions]
        + [f"{' '.join(tokens(path))} {_what(each, path)}" for each in functions for path in each.parameters]
    )
    low = about.casefold()
    for number in _NUMBER.findall(text):
        if _place(number.rstrip(","), about.replace(",", "")) is None and _place(number.rstrip(","), about) is None:
            known = [num2words(int(number))] if number.isdigit() and len(number) < 4 else []
            if not any(_place(each, about) is not None for each in known) and not re.fullmatch(r"[1-4]", number):
                return f"it says {number}, which is none of the values"
    for word in re.findall(r"[a-z]+(?:-[a-z]+)?", text.casefold()):
        number = str(_WORDED.get(word, ""))
        if number not in ("", str(len(asked.calls))) and _place(word, about) is None and _place(number, about) is None:
            return f"it says {word}, which is none of the values"
    for name in _NAME.findall(text):
        bare = name.casefold().removesuffix("'s").removesuffix("’s")
        if bare not in low and name.casefold().split("'")[0].split("’")[0] not in _FIRST_WORDS:
            return f"it says {name}, which is none of the values"
    for groups in _QUOTED.findall(text):
        if (quoted := "".join(groups).strip(" .,!?")).casefold() not in low:
            return f"it quotes {quoted!r}, which is none of the values"
    for call in asked.calls:
        others = {path for path, each in call.function.parameters.items() if each.enum and path not in call.said}
        for path in sorted(others):
            for choice in call.function.parameters[path].enum:
                words = in_words(choice).replace("_", " ")
                if (
                    len(words) > 3
                    and _place(words, text) is not None
                    and _place(words, about_values(values, asked)) is None
                ):
                    return f"it says {words!r} for {path.replace('_', ' ')}, which the call does not set"
    return ""


def about_values(values: Sequence[str], asked: Wanted) -> str:
    """The texts whose words a question may repeat although they are a choice of another parameter."""
    return " ".join([*values, asked.template, *(call.function.description for call in asked.calls)])


def _disordered(text: str, asked: Wanted) -> str:
    """Whether several calls of one function are said in another order than theirs, so that values may be mixed up."""
    by_name: dict[str, list[Call]] = {}
    for call in asked.calls:
        by_name.setdefault(call.function.name, []).append(call)
    for calls in by_name.values():
        for path in set.intersection(*(set(call.said) for call in calls)) if len(calls) > 1 else ():
            found = [located(call, path, text) for call in calls]
            if len({str(call.said[path].value) for call in calls}) < len(calls):
                continue
            places = [_place(each.words, text) for each in found if each and each.words]
            known = [at for at in places if at is not None]
            if known != sorted(known):
                return f"the values of {path.replace('_', ' ')} are in another order than the calls"
    return ""


def thought_problem(text: str, call_names: Sequence[str], known: str) -> str:
    """Why a cleaned text is no thought before calls; empty if it is. `known`: all that user and results have said."""
    if not text or "\n" in text:
        return "it has to be one line"
    if len(text.split()) > 60 or len(text) > MOST_CHARACTERS + len(known):
        return "it is too long"
    if _PREFACE.match(text) or _MARKS.search(text) or re.search(r"[{}<>]", text):
        return "it has to be the thought alone"
    allowed = f"{known} {' '.join(call_names)}"
    for number in _NUMBER.findall(text):
        if _place(number.rstrip(","), allowed.replace(",", "")) is None and _place(number.rstrip(","), allowed) is None:
            return f"it says {number}, which nobody said"
    return ""


# --- where a value stands ---------------------------------------------------------------------------------------------


def located(call: Call, path: str, text: str) -> Said | None:
    """The words with which a text says an argument, and its value; None if it does not say it.

    A value that the grammar says without words, such as a switch, has to be named by the words of its parameter, or by
    those of its choice; it is returned without words.
    """
    said, parameter = call.said[path], call.function.parameter(path)
    if not said.words:
        is_there = _says_switch(path, parameter, said.value, text)
        return said if is_there else None
    for words in _candidates(said, parameter):
        place = _place(words, text)
        if place is not None:
            found = Said(text[place : place + len(words)], said.value)
            if (
                words == said.words
                or verify.follows(found, parameter.of)
                or verify.follows(Said(words, said.value), parameter.of)
            ):
                return found
    if isinstance(said.value, list) and said.value:
        return _listed(said, parameter, text)
    return None


def _candidates(said: Said, parameter: Parameter) -> Iterator[str]:
    yield said.words
    value = said.value
    if isinstance(value, str) and parameter.of == "date":
        yield from _dates(value)
    elif isinstance(value, str) and parameter.of == "time":
        yield from _times(value)
    else:
        yield from ways_of_saying(value)
    if isinstance(parameter.of, list | tuple):
        for each in parameter.of:
            if isinstance(each, list | tuple) and each[1] == value:
                yield str(each[0])


def _listed(said: Said, parameter: Parameter, text: str) -> Said | None:
    """A list of which each element stands somewhere in the text: the words from the first to the last."""
    spans = []
    for element in said.value:
        for words in _candidates(Said(in_words(element), element), replace(parameter, type="string")):
            if (place := _place(words, text)) is not None:
                spans.append((place, place + len(words)))
                break
        else:
            return None
    found = Said(text[min(spans)[0] : max(end for _, end in spans)], said.value)
    return found if verify.follows(found, parameter.of) else None


def _says_switch(path: str, parameter: Parameter, value: Any, text: str) -> bool:
    if isinstance(value, bool):
        names = [each for each in tokens(path.rpartition(".")[2]) if each not in GENERIC and each not in _IDLE]
        about = [each for each in re.findall(r"[a-z]{4,}", parameter.what.lower()) if each not in _IDLE]
        stems = [each[:5] for each in names or about]
        low = text.casefold()
        is_named = any(re.search(rf"\b{re.escape(stem)}", low) for stem in stems if stem)
        if CHINESE.search(text):
            about_zh = CHINESE.findall(parameter.what)
            is_named = is_named or any(a + b in text for a, b in pairwise(about_zh))
        return is_named and bool(_NEGATION.search(low)) != value
    words = [in_words(value), *(enum_words(value, parameter.what) if parameter.enum else ())]
    if isinstance(parameter.of, list | tuple):
        words += [str(each[0]) for each in parameter.of if isinstance(each, list | tuple) and each[1] == value]
    return any(_place(each, text) is not None for each in words if each)


_IDLE = frozenset((
    "is", "has", "with", "use", "include", "includes", "included", "whether", "only", "should", "must", "can",
    "will", "true", "false", "the", "that", "this", "they", "also", "shall", "want", "wants", "wanted",
    "enable", "enabled", "show", "return", "returned",
))  # fmt: skip


def _dates(value: str) -> Iterator[str]:
    try:
        day = date.fromisoformat(value)
    except ValueError:
        return
    number = num2words(day.day, to="ordinal_num")
    for month in (f"{day:%B}", f"{day:%b}"):
        yield from (f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}", f"{month} {day.day} {day.year}")
        yield from (f"{month} {number}, {day.year}", f"{number} of {month} {day.year}", f"{number} {month} {day.year}")
    yield value


def _times(value: str) -> Iterator[str]:
    try:
        clock = time.fromisoformat(value)
    except ValueError:
        return
    half, hour = "am" if clock.hour < 12 else "pm", clock.hour % 12 or 12
    yield value
    yield from (f"{hour}:{clock:%M} {half}", f"{hour}:{clock:%M}{half}")
    if clock.minute == 0:
        yield from (f"{hour} {half}", f"{hour}{half}")


def _place(words: str, text: str) -> int | None:
    """Where words stand in a text, not within longer words or numbers."""
    before = r"(?<![A-Za-z0-9])" if words[:1].isascii() and words[:1].isalnum() else ""
    after = r"(?![A-Za-z0-9]|[.,]\d)" if words[-1:].isascii() and words[-1:].isalnum() else ""
    found = re.search(f"{before}{re.escape(words)}{after}", text, re.IGNORECASE) if words else None
    return found.start() if found else None


def _what(function: Function, path: str) -> str:
    return function.parameters[path].what


# --- a conversation with other questions ------------------------------------------------------------------------------


def with_questions(turns: Sequence[Turn], questions: Mapping[int, str]) -> list[Turn]:
    """The turns with other questions, by the number of the turn. The words of their calls are those of the questions,
    so that `verify.problems` reads what is said now."""
    made, heard = [], ""
    for at, turn in enumerate(turns):
        question = questions.get(at, turn.question)
        heard += f" {question}"
        steps = tuple(tuple(_said_in(call, question, heard) for call in step) for step in turn.steps)
        made.append(replace(turn, question=question, steps=steps))
    return made


def _said_in(call: Call, question: str, heard: str) -> Call:
    said = {
        path: each
        if path in call.passed or not each.words
        else located(call, path, question) or located(call, path, heard) or each
        for path, each in call.said.items()
    }
    return replace(call, said=said)
