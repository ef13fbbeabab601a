"""Kinds of rounds: what a user asks for, the calls that are right, their results and the answer. Writes no format."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from swift.synth import phrasing, schema_values
from swift.synth.catalogue import SLOT, Chain, Function, slots
from swift.synth.phrasing import Request
from swift.synth.values import Said, draw, in_words

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


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
    """A message of the user, the replies with calls that follow it, and the last reply."""

    question: str
    steps: tuple[tuple[Call, ...], ...]
    answer: str


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

    @property
    def phrases(self) -> Mapping[str, Any]:
        return phrases()[self.language]


@cache
def phrases() -> Mapping[str, Mapping[str, Any]]:
    """The sentences of phrases.toml, by language."""
    return tomllib.loads(Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8"))


def one_call(stage: Stage) -> Iterator[Turn]:
    """One request, one call."""
    made = _ask(stage, stage.lead)
    call = _call(stage, stage.lead, made)
    yield Turn(_surface(stage, made.text), ((call,),), _say(stage, call))


def parallel_same(stage: Stage) -> Iterator[Turn]:
    """One request for two or three calls of one function."""
    rng = stage.rng
    if stage.language == "en" and stage.lead.pair and rng.random() < 0.7:
        text, pair = phrasing.requests(stage.lead, rng.choice(stage.lead.pair), rng)
        calls = [_call(stage, stage.lead, each) for each in pair]
    else:
        made = [_ask(stage, stage.lead) for _ in range(rng.choice((2, 2, 3)))]
        text, calls = _joined(stage, [each.text for each in made]), [_call(stage, stage.lead, each) for each in made]
    if any(calls[0].arguments == each.arguments for each in calls[1:]):
        return
    yield Turn(_surface(stage, text), (tuple(calls),), _said_together(stage, calls))


def parallel_several(stage: Stage) -> Iterator[Turn]:
    """One request for calls of two or three functions."""
    others = [each for each in stage.offered if each.name != stage.lead.name]
    if not others:
        return
    count = min(len(others), stage.rng.choice((1, 1, 1, 2)))
    functions = [stage.lead, *stage.rng.sample(others, count)]
    if stage.rng.random() < 0.15:
        functions.append(stage.rng.choice(functions))
    made = [_ask(stage, each) for each in functions]
    calls = [_call(stage, function, each) for function, each in zip(functions, made, strict=True)]
    if len({(call.function.name, str(call.arguments)) for call in calls}) < len(calls):
        return
    yield Turn(
        _surface(stage, _joined(stage, [each.text for each in made])), (tuple(calls),), _said_together(stage, calls)
    )


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
    yield Turn(_surface(stage, vague.text), (), back)
    value = lead.parameter(path).draw(rng, stage.language)
    said = {**vague.said, path: value}
    if not lead.required() <= said.keys():  # the request lacks further values: the dialogue ends with the question
        return
    call = _call(stage, lead, Request(vague.text, phrasing.arguments(lead, said), said))
    yield Turn(rng.choice(stage.phrases["value_alone"]).format(words=value.words), ((call,),), _say(stage, call))


def no_tool_fits(stage: Stage) -> Iterator[Turn]:
    """A request for which no offered function is made: the reply says so in words."""
    if not stage.outside:
        return
    made = _ask(stage, stage.rng.choice(stage.outside))
    first = stage.rng.choice(stage.phrases["decline"])
    names = ", ".join(f"{{{each.name}}}" for each in stage.offered)
    limits = stage.phrases["limits"] if len(stage.offered) <= 4 else ["{first}"]
    yield Turn(_surface(stage, made.text), (), stage.rng.choice(limits).format(first=first, names=names))


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
    label = name.replace("_", " ")
    if earlier.function.given is not None:
        label = schema_values.label(name, earlier.function.parameters[name].what)
    text = stage.rng.choice(stage.phrases["again"]).format(label=label, words=value.words)
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
    templates = function.zh if (stage.language == "zh" and function.zh) or not function.ask else function.ask
    language = "zh" if templates is function.zh else "en"
    return phrasing.request(function, stage.rng.choice(templates), stage.rng, language)


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


def _joined(stage: Stage, texts: Sequence[str]) -> str:
    """Several requests as one message."""
    ended = [text if text[-1:] in ".?!。?" else text + ("。" if stage.language == "zh" else ".") for text in texts]
    if len(ended) > 3:
        return " ".join(ended)
    template = stage.rng.choice(stage.phrases["joins" if len(ended) == 2 else "joins3"])
    if stage.language == "en" and "And {b}" in template and stage.rng.random() < 0.5:
        ended[0] = ended[0].rstrip(".?!")
        template = "{a} and {b}"
        if ended[1][1:2].islower():
            ended[1] = ended[1][:1].lower() + ended[1][1:]
    return str(template.format(**dict(zip("abc", ended, strict=False))))


def _surface(stage: Stage, text: str) -> str:
    return phrasing.surface(text, stage.rng, stage.phrases["openings"], stage.phrases["endings"])
