"""BFCL's dialogues of several turns: the loop, the services in a process of their own, and the official verdict."""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from official_bfcl import official_evaluator

from swift.chat import Message, ToolCall, Usage
from swift.eval.task import Answer, Judgement, Question, Settings, Subject, Task
from swift.eval.tasks.bfcl import multi_turn, task
from swift.infer.chat import Chat


@cache
def bfcl() -> Task:
    return task.load(Settings(variant="multi_turn_base"))


@cache
def question(number: int) -> Question:
    return next(each for each in bfcl().questions if each.id == f"multi_turn_base_{number}")


class Script:
    """A subject whose replies are a script; `asked` are the dialogues that it was given."""

    def __init__(self, replies: Sequence[Message] | Iterator[Message]) -> None:
        self._replies = iter(replies)
        self.asked: list[tuple[Message, ...]] = []

    @property
    def chat(self) -> Chat:
        raise AssertionError("not used")

    def reply(self, question: Question) -> Answer:
        self.asked.append(question.messages)
        return Answer((next(self._replies),), usage=Usage(10, 2))


def act(subject: Subject, number: int) -> tuple[Answer, Judgement]:
    answer = bfcl().answer(subject, question(number))
    return answer, bfcl().judge(question(number), answer)


def right(number: int) -> list[list[ToolCall]]:
    """The right calls of each turn, which the package has as Python text."""
    names = {tool.name: list(tool.parameters["properties"]) for tool in question(number).tools}

    def call(text: str) -> ToolCall:
        found = ast.parse(text, mode="eval").body
        assert isinstance(found, ast.Call) and isinstance(found.func, ast.Name)
        values = [ast.literal_eval(each) for each in found.args]
        arguments = dict(zip(names[found.func.id], values, strict=False))
        arguments |= {str(each.arg): ast.literal_eval(each.value) for each in found.keywords}
        return ToolCall(found.func.id, json.dumps(arguments), f"call_{len(text)}")

    return [[call(text) for text in turn] for turn in question(number).expected]


DONE = Message("assistant", "Done.")


def replies(turns: list[list[ToolCall]]) -> list[Message]:
    """All calls of a turn in one reply, then a text."""
    return [each for calls in turns for each in ((Message("assistant", "", tuple(calls)),) if calls else ()) + (DONE,)]


@pytest.mark.parametrize("number", [0, 1, 50, 75, 100, 130, 150, 199])
def test_the_right_calls_count_as_right(number: int):
    answer, judgement = act(Script(replies(right(number))), number)
    assert judgement == Judgement(True, {"accuracy": 1.0}), judgement.detail
    assert sum(message.role == "user" for message in answer.messages) == len(question(number).expected) - 1


def test_the_same_calls_one_a_reply_count_as_right():
    script = [reply for calls in right(0) for each in calls for reply in [Message("assistant", "", (each,))]]
    turns = [len(calls) for calls in right(0)]
    for end in (sum(turns[: count + 1]) + count for count in range(len(turns))):
        script.insert(end, DONE)
    answer, judgement = act(Script(script), 0)
    assert judgement.correct and answer.usage == Usage(10 * len(script), 2 * len(script))


def test_the_model_reads_the_results_of_its_calls():
    subject = Script(replies(right(1)))
    act(subject, 1)
    result = subject.asked[1][-1]
    assert (result.role, result.name) == ("tool", "ls") and "workspace" in result.content
    assert subject.asked[2][-1].role == "user" and subject.asked[2][-2] == DONE


def without(turn: int) -> Callable[[list[list[ToolCall]]], list[list[ToolCall]]]:
    return lambda turns: [*turns[:turn], [], *turns[turn + 1 :]]


def test_failures_are_sorted_by_kind():
    def kind(turns: list[list[ToolCall]], number: int = 0) -> str:
        return act(Script(replies(turns)), number)[1].failure

    assert kind(without(1)(right(0))) == "no call"
    assert kind([[ToolCall("mkdir", '{"dir_name": "other"}')], *right(0)[1:]]) == "wrong state"
    assert kind([*right(1)[:-1], [ToolCall("pwd", "{}")]], 1) == "missing result"
    assert kind([[ToolCall("mkdir", '{"dir_name": ')], *right(0)[1:]]) == "no call"


def test_a_turn_without_a_call_but_with_its_markup_has_an_unparsable_call():
    answer = bfcl().answer(Script(replies(without(1)(right(0)))), question(0))
    assert bfcl().judge(question(0), replace(answer, markup=True)).failure == "unparsable call"


def changed(turns: list[list[ToolCall]], draw: random.Random) -> list[list[ToolCall]]:
    """One call left out, doubled, moved to the front, with other arguments, or text instead of a turn's calls."""
    turn = draw.choice([number for number, calls in enumerate(turns) if calls])
    calls = list(turns[turn])
    place = draw.randrange(len(calls))
    each = calls.pop(place)
    kind = draw.choice(["less", "twice", "first", "broken", "empty", "text"])
    new = {
        "less": calls,
        "twice": [*calls[:place], each, each, *calls[place:]],
        "first": [each, *calls],
        "broken": [*calls[:place], replace(each, arguments=each.arguments[:-1]), *calls[place:]],
        "empty": [*calls[:place], replace(each, arguments="{}"), *calls[place:]],
        "text": [],
    }[kind]
    return [*turns[:turn], new, *turns[turn + 1 :]]


def test_verdicts_equal_the_official_evaluators(tmp_path: Path):
    judged: dict[bool, int] = {True: 0, False: 0}
    with official_evaluator(tmp_path) as evaluator:
        for number in range(0, 200, 4):
            turns = changed(right(number), random.Random(number))
            _, ours = act(Script(replies(turns)), number)
            said = [[Message("assistant", "", tuple(calls)), DONE] if calls else [DONE] for calls in turns]
            theirs = evaluator.dialogue_is_correct("multi_turn_base", question(number).id, said)
            assert ours.correct == theirs, (number, ours)
            judged[theirs] += 1
    assert min(judged.values()) >= 5, judged


def test_a_model_that_never_stops_calling_is_stopped():
    subject = Script(iter(lambda: Message("assistant", "", (ToolCall("pwd", "{}"),)), None))
    answer, judgement = act(subject, 0)
    assert judgement.failure == "too many steps" and len(subject.asked) == multi_turn.MAX_STEPS + 1
    assert not any(message.role == "user" for message in answer.messages)


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("print", '{"sep": ""}'),
        ToolCall("__import__('os').abort", "{}"),
        ToolCall("pwd", json.dumps({"a=1) or __import__('os').abort() or print(b": 1})),
    ],
)
def test_text_of_a_call_that_is_code_is_not_run(call: ToolCall):
    script = [Message("assistant", "", (call,)), *replies(right(0))]
    answer, judgement = act(Script(script), 0)
    assert answer.messages[1].content.startswith("Error during execution: no function")
    assert judgement.correct


def test_calls_that_take_too_long_fail(monkeypatch: pytest.MonkeyPatch):
    """The process of the services is ended, and the next question gets another."""
    endless = ToolCall("logarithm", '{"value": 3.0, "base": 10.0, "precision": 1000000000}')
    number = next(n for n in range(200) if any(tool.name == "logarithm" for tool in question(n).tools))
    monkeypatch.setattr(multi_turn, "SECONDS", 0.5)
    _, judgement = act(Script([Message("assistant", "", (endless,))]), number)
    assert not judgement.correct
    monkeypatch.undo()
    assert act(Script(replies(right(0))), 0)[1].correct


def test_tools_are_the_services_functions_with_valid_schemas():
    tools: list[dict[str, Any]] = [tool.function for tool in question(0).tools]
    assert {"mkdir", "post_tweet"} <= {tool["name"] for tool in tools}
    assert all(tool["parameters"]["type"] == "object" for tool in tools)
