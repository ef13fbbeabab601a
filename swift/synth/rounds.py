"""Kinds of rounds: what a user asks for, the calls that are right, their results and the answer. Writes no format."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from swift.synth import beyond, phrasing, several
from swift.synth.catalogue import SLOT, Chain, Function, slots
from swift.synth.kinds import label
from swift.synth.phrasing import Request
from swift.synth.values import Said, draw, in_words
from swift.system import toml_file


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is right. `said`: path of each argument -> its words and value, for the check. `passed`: the paths of
    the arguments that come from an earlier result."""

    function: Function
    arguments: Mapping[str, Any]
    result: Any
    said: Mapping[str, Said] = field(default_factory=dict)
    passed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of the user, the replies with calls that follow it, and the last reply. `asked`: the call that a
    message asks for which no call follows, because a value or the function is missing."""

    question: str
    steps: tuple[tuple[Call, ...], ...]
    answer: str
    asked: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Stage:
    """What a round is made from: the functions that are offered, the one it is about, others that are not offered."""

    rng: random.Random
    language: str
    lead: Function
    offered: Sequence[Function]
    outside: Sequence[Function]
    chain: Chain | None
    plain: Sequence[Mapping[str, str]]
    before: Turn | None
    direct: bool = False
    """Whether `lead`, or the functions that are not offered, have direct questions"""

    @property
    def phrases(self) -> Mapping[str, Any]:
        return phrases()[self.language]


ANYTHING = Function("beyond", "", "", {}, (), (), (), {}, {}, (), ())
"""What a request asks for that only its own words describe."""


@cache
def phrases() -> Mapping[str, Mapping[str, Any]]:
    """The sentences of phrases.toml, by language."""
    return toml_file.read(Path(__file__).with_name("phrases.toml"))


def one_call(stage: Stage) -> Iterator[Turn]:
    """One request, one call."""
    made = _ask(stage, stage.lead)
    call = _call(stage, stage.lead, made)
    yield Turn(_surface(stage, made.text), ((call,),), _say(stage, call))


def parallel_same(stage: Stage) -> Iterator[Turn]:
    """One request for two to four calls of one function."""
    text, calls = _asked_often(stage, stage.lead, stage.rng.choices((2, 3, 4), (5, 3, 2))[0])
    if _all_differ(calls):
        yield Turn(_surface(stage, text), (tuple(calls),), _said_together(stage, calls))


SEVERAL = (
    ("ab", 9),
    ("abc", 6),
    ("aab", 2),
    ("abb", 2),
    ("aba", 2),
    ("abca", 1),
    ("aabb", 1),
    ("abac", 1),
    ("aaab", 1),
)
"""Calls of different functions, a letter each, in the order of the request -> weight."""
MOST_CALLS = 4


def parallel_several(stage: Stage) -> Iterator[Turn]:
    """One request for two to four calls of two or three functions."""
    rng = stage.rng
    functions = [stage.lead, *(each for each in stage.offered if each.name != stage.lead.name)]
    patterns = [(letters, weight) for letters, weight in SEVERAL if len(set(letters)) <= len(functions)]
    if not patterns:
        return
    chosen = rng.choices([letters for letters, _ in patterns], [weight for _, weight in patterns])[0]
    named = dict(zip("abc", [stage.lead, *rng.sample(functions[1:], len(set(chosen)) - 1)], strict=False))
    texts: list[str] = []
    fixed: list[bool] = []
    calls: list[Call] = []
    for letter, group in groupby(chosen):
        function, count = named[letter], len(list(group))
        text, made = _asked_often(stage, function, count) if count > 1 else ("", [])
        if made and "\n" not in text and rng.random() < 0.7:
            asked = [(text, made)]
        else:
            asked = [
                (each.text, [_call(stage, function, each)]) for each in (_ask(stage, function) for _ in range(count))
            ]
        for text, made in asked:
            texts.append(text)
            fixed.append(_begins_with_value(text, made[0].said))
            calls += made
    if _all_differ(calls) and len(calls) <= MOST_CALLS:
        text = several.joined(texts, fixed, rng, stage.phrases, stage.language)
        yield Turn(_surface(stage, text), (tuple(calls),), _said_together(stage, calls))


def sequential(stage: Stage) -> Iterator[Turn]:
    """Two calls, of which the second needs a result of the first."""
    chain = stage.chain
    if chain is None or stage.language != "en":
        return
    by_name = {each.name: each for each in stage.offered}
    first, then = by_name.get(chain.first), by_name.get(chain.then)
    if first is None or then is None:
        return
    rng = stage.rng
    said: dict[str, dict[str, Said]] = {"1.": {}, "2.": {}}
    text = phrasing.with_parts(rng.choice(chain.ask), rng, 0.5)
    for prefix, function in (("1.", first), ("2.", then)):
        text = phrasing.fill(function, text, rng, said[prefix], "en", {}, prefix)
    one = _call(stage, first, Request(text, phrasing.arguments(first, said["1."]), said["1."]))
    passed = {argument: one.result[key] for argument, key in chain.passes.items()}
    known = {**said["2."], **{path: Said(in_words(value), value) for path, value in passed.items()}}
    two = _call(stage, then, Request(text, phrasing.arguments(then, known), known), frozenset(passed))
    words = {f"1.{name}": each.words for name, each in said["1."].items()}
    words |= {f"2.{name}": each.words for name, each in said["2."].items()}
    words |= {f"1.{key}": in_words(value) for key, value in one.result.items()}
    words |= {f"2.{key}": in_words(value) for key, value in two.result.items()}
    answers = [each for each in chain.say if set(slots(each)) <= words.keys()]
    if answers:
        yield Turn(_surface(stage, text), ((one,), (two,)), _filled(rng.choice(answers), words))


def missing_argument(stage: Stage) -> Iterator[Turn]:
    """A request that lacks a required value: the reply asks for it, the user names it, the call follows."""
    lead, rng = stage.lead, stage.rng
    if not lead.missing or (stage.language == "zh") != (not lead.ask):
        return
    path = rng.choice(sorted(lead.missing))
    text, back = lead.missing[path]
    vague = phrasing.request(lead, text, rng, stage.language)
    yield Turn(_surface(stage, vague.text), (), back, (Call(lead, vague.arguments, {}, vague.said),))
    value = lead.parameter(path).draw(rng, stage.language)
    said = {**vague.said, path: value}
    if not lead.required() <= said.keys():  # the request lacks further values: the dialogue ends with the question
        return
    call = _call(stage, lead, Request(vague.text, phrasing.arguments(lead, said), said))
    yield Turn(rng.choice(stage.phrases["value_alone"]).format(words=value.words), ((call,),), _say(stage, call))


def no_tool_fits(stage: Stage) -> Iterator[Turn]:
    """A request for which no offered function is made: the reply says so in words."""
    rng, text, asked = stage.rng, None, Call(ANYTHING, {}, {})
    if stage.language == "en" and rng.random() < 0.35:
        text = beyond.request(stage.offered, stage.lead, rng, phrases()["beyond"])
    if text is None and stage.outside:
        function = rng.choice(stage.outside)
        made = _ask(stage, function)
        text, asked = made.text, Call(function, made.arguments, {}, made.said)
    if text is None:
        return
    first = rng.choice(stage.phrases["decline"])
    names = ", ".join(f"{{{each.name}}}" for each in stage.offered)
    limits = stage.phrases["limits"] if len(stage.offered) <= 4 else ["{first}"]
    yield Turn(_surface(stage, text), (), rng.choice(limits).format(first=first, names=names), (asked,))


def plain_question(stage: Stage) -> Iterator[Turn]:
    """A question that needs no function."""
    if stage.plain:
        row = stage.rng.choice(stage.plain)
        yield Turn(row["query"], (), row["response"])


def small_talk(stage: Stage) -> Iterator[Turn]:
    """A greeting, thanks, or a question about the functions themselves."""
    question, answer = stage.rng.choice(stage.phrases["talk"])
    names = ", ".join(f"{{{each.name}}}" for each in stage.offered)
    yield Turn(question, (), answer.format(names=names))


def failed_call(stage: Stage) -> Iterator[Turn]:
    """A call whose result is an error: it is tried once more, or the reply reports it."""
    made, rng = _ask(stage, stage.lead), stage.rng
    error = rng.choice(stage.phrases["errors"])
    call = _call(stage, stage.lead, made)
    failed = Call(call.function, call.arguments, rng.choice(({"error": error}, f"Error: {error}")), call.said)
    text = _surface(stage, made.text)
    if rng.random() < 0.4:
        yield Turn(text, ((failed,), (call,)), _say(stage, call))
    else:
        yield Turn(text, ((failed,),), rng.choice(stage.phrases["failed"]).format(error=error))


def follow_up(stage: Stage) -> Iterator[Turn]:
    """A question that changes one value of the request before it."""
    if stage.before is None or len(stage.before.steps) != 1 or len(stage.before.steps[0]) != 1:
        return
    earlier = stage.before.steps[0][0]
    names = [path for path, said in earlier.said.items() if said.words and "." not in path]
    if not names or not isinstance(earlier.result, dict) or "error" in earlier.result:
        return
    name = stage.rng.choice(names)
    value = earlier.function.parameters[name].draw(stage.rng, stage.language)
    if value.value == earlier.said[name].value:
        return
    said = {**earlier.said, name: value}
    called = name.replace("_", " ")
    if earlier.function.given is not None:
        called = label(name, earlier.function.parameters[name].what)
    text = stage.rng.choice(stage.phrases["again"]).format(label=called, words=value.words)
    call = _call(stage, earlier.function, Request(text, phrasing.arguments(earlier.function, said), said))
    yield Turn(text, ((call,),), _say(stage, call))


KINDS: Mapping[str, Callable[[Stage], Iterator[Turn]]] = {
    "one": one_call,
    "parallel_same": parallel_same,
    "parallel_several": parallel_several,
    "sequential": sequential,
    "missing": missing_argument,
    "no_tool": no_tool_fits,
    "plain": plain_question,
    "talk": small_talk,
    "error": failed_call,
    "follow_up": follow_up,
}
"""Name of a share -> the rounds of that kind. A kind that the stage does not allow makes no turn."""


def _ask(stage: Stage, function: Function) -> Request:
    """A request for one call. People leave most optional values out: a third of the requests have none. A direct one
    says half of them."""
    templates, language = _templates(stage, function)
    share = 0.5 if stage.direct else stage.rng.choice((0.0, 0.4, 0.6))
    return phrasing.request(function, stage.rng.choice(templates), stage.rng, language, share)


def _templates(stage: Stage, function: Function) -> tuple[Sequence[str], str]:
    is_zh = (stage.language == "zh" and bool(function.zh)) or not function.ask
    return (function.zh, "zh") if is_zh else (function.ask, "en")


def _asked_often(stage: Stage, function: Function, count: int) -> tuple[str, list[Call]]:
    """One text for calls of one function, which are in its order: a list of values, or `count` requests."""
    rng = stage.rng
    _, language = _templates(stage, function)
    if language == "en" and function.pair and rng.random() < (0.6 if stage.direct else 0.25):
        text, pair = phrasing.requests(function, rng.choice(function.pair), rng)
        return text, [_call(stage, function, each) for each in pair]
    if not stage.direct and rng.random() < 0.75:
        for _ in range(3):
            if found := several.question(function, count, rng, phrases()[language], language):
                return found[0], [_call(stage, function, each) for each in found[1]]
    made = [_ask(stage, function) for _ in range(count)]
    fixed = [_begins_with_value(each.text, each.said) for each in made]
    text = several.joined([each.text for each in made], fixed, rng, phrases()[language], language)
    return text, [_call(stage, function, each) for each in made]


def _begins_with_value(text: str, said: Mapping[str, Said]) -> bool:
    return any(each.words and text.startswith(each.words) for each in said.values())


def _all_differ(calls: Sequence[Call]) -> bool:
    """Whether no two calls of a function ask for the same thing: all have other required values, or, where none are
    required, other arguments, of which each has one."""
    keys = set()
    for call in calls:
        required = sorted(call.function.required() & call.said.keys())
        if not required and not call.arguments and sum(each.function.name == call.function.name for each in calls) > 1:
            return False
        keys.add((call.function.name, str([call.said[path].value for path in required] or call.arguments)))
    return len(keys) == len(calls)


def _call(stage: Stage, function: Function, made: Request, passed: frozenset[str] = frozenset()) -> Call:
    result = {key: draw(of, stage.rng).value for key, of in function.result.items()}
    return Call(function, made.arguments, result, made.said, passed)


def _say(stage: Stage, call: Call) -> str:
    templates = call.function.say_zh if stage.language == "zh" and call.function.say_zh else call.function.say
    words = {path: said.words for path, said in call.said.items() if said.words}
    words |= {key: in_words(value) for key, value in call.result.items()}
    fitting = [each for each in templates if set(slots(each)) <= words.keys()]
    return _filled(stage.rng.choice(fitting), words) if fitting else in_words(call.result)


def _said_together(stage: Stage, calls: Sequence[Call]) -> str:
    between = "" if stage.language == "zh" else " "
    return between.join(_say(stage, each) for each in calls)


def _filled(template: str, words: Mapping[str, str]) -> str:
    return SLOT.sub(lambda found: words[found[1]], template)


def _surface(stage: Stage, text: str) -> str:
    return phrasing.surface(text, stage.rng, stage.phrases["openings"], stage.phrases["endings"])
