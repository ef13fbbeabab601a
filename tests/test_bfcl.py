"""BFCL: scores equal the official evaluator's row by row; failures have kinds; totals are the leaderboard's."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from official_bfcl import Evaluator, official_evaluator
from test_server import Scripted, served

from swift import cli
from swift.chat import Delta, Message, ToolCall, Usage
from swift.eval.task import Answer, Question, Settings, Task
from swift.eval.tasks.bfcl import official, task
from swift.eval.tasks.bfcl.judging import Row, judge
from swift.serve.server import create_app

ROWS_A_CATEGORY = 8
AST = tuple(name for name in (*task.NON_LIVE, *task.LIVE) if "relevance" not in name)


@cache
def bfcl() -> Task:
    return task.load(Settings())


@cache
def question(id: str) -> Question:
    return next(each for each in bfcl().questions if each.id == id)


def sampled(category: str) -> list[Question]:
    rows = [each for each in bfcl().questions if each.group == category]
    return random.Random(0).sample(rows, min(len(rows), ROWS_A_CATEGORY))


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluator]:
    with official_evaluator(tmp_path_factory.mktemp("bfcl")) as found:
        yield found


# Replies -------------------------------------------------------------------------------------------------------------

Gold = list[tuple[str, dict[str, Any]]]


def gold(of: Question) -> Gold:
    """Right calls: the first right value of each argument, as the text of a literal in Java and JavaScript."""
    as_text = of.group in ("simple_java", "simple_javascript")
    calls = []
    for answer in of.expected:
        ((name, arguments),) = answer.items()
        values = {key: chosen(right) for key, right in arguments.items() if any(value != "" for value in right)}
        values = {key: literal(value) if as_text else value for key, value in values.items()}
        calls.append((name.replace(".", "_"), values))
    return calls


def chosen(right: list[Any]) -> Any:
    return plain(next(value for value in right if value != ""))


def plain(value: Any) -> Any:
    """The keys of an object, and of the objects in a list, have lists of right values themselves; deeper ones none."""
    if isinstance(value, dict):
        given = {key: [each for each in right if each != ""] for key, right in value.items()}
        return {key: right[0] for key, right in given.items() if right}
    return [plain(each) for each in value] if isinstance(value, list) else value


def literal(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def reply(calls: Gold) -> Message:
    return Message("assistant", "", tuple(ToolCall(name, json.dumps(arguments)) for name, arguments in calls))


def renamed(calls: Gold) -> Gold:
    return [(f"{calls[0][0]}_not", calls[0][1]), *calls[1:]]


def lacking(calls: Gold) -> Gold:
    name, arguments = calls[0]
    return [(name, dict(list(arguments.items())[1:])), *calls[1:]]


def changed(value: Callable[[Any], Any]) -> Callable[[Gold], Gold]:
    def change(calls: Gold) -> Gold:
        name, arguments = calls[-1]
        return [*calls[:-1], (name, {**arguments, **{key: value(each) for key, each in list(arguments.items())[:1]}})]

    return change


def with_argument(calls: Gold) -> Gold:
    return [(calls[0][0], {**calls[0][1], "surplus": 1}), *calls[1:]]


MUTATIONS: dict[str, Callable[[Gold], Gold]] = {
    "right": lambda calls: calls,
    "other order": lambda calls: calls[::-1],
    "unknown tool": renamed,
    "missing argument": lacking,
    "wrong value": changed(lambda value: "no such value"),
    "number": changed(lambda value: -12345.5),
    "as text": changed(str),
    "in a list": changed(lambda value: [value]),
    "in an object": changed(lambda value: {"value": value}),
    "null": changed(lambda value: None),
    "other case": changed(lambda value: value.upper() if isinstance(value, str) else value),
    "an argument too many": with_argument,
    "twice": lambda calls: [*calls, calls[0]],
    "one call less": lambda calls: calls[1:],
}
BROKEN = ('{"a": ', "[]", "", "5", '{"a": NaN}')


@pytest.mark.parametrize("category", AST)
def test_scores_equal_the_official_evaluators_row_by_row(evaluator: Evaluator, category: str):
    judged: dict[bool, int] = {True: 0, False: 0}
    for each in sampled(category):
        calls = gold(each)
        replies = {name: reply(change(calls)) for name, change in MUTATIONS.items()}
        replies |= {text: Message("assistant", "", (ToolCall(calls[0][0], text),)) for text in BROKEN}
        replies["text"] = Message("assistant", "I cannot do that.")
        for name, message in replies.items():
            ours = bfcl().judge(each, Answer((message,)))
            assert ours.correct == evaluator.correct(category, each.id, message), (each.id, name, message)
            assert ours.scores == {"accuracy": float(ours.correct)} and bool(ours.failure) != ours.correct
            judged[ours.correct] += 1
    assert judged[True] >= len(sampled(category)) // 2 and judged[False] > len(sampled(category)) * 10


def test_the_right_answers_of_every_python_row_count_as_right():
    """Some rows of the package have answers that their own functions, and so the official checker, do not allow."""
    rows = [each for each in bfcl().questions if each.group in AST and "java" not in each.group]
    assert len(rows) == 2351
    assert {each.id for each in rows if not bfcl().judge(each, Answer((reply(gold(each)),))).correct} == {
        "parallel_multiple_12",
        "parallel_multiple_26",
        "live_simple_106-63-0",
        "live_simple_112-68-0",
        "live_multiple_507-149-4",
        "live_multiple_862-181-3",
        "live_multiple_964-207-0",
    }


@pytest.mark.parametrize("category", ["irrelevance", "live_irrelevance", "live_relevance"])
def test_relevance_equals_the_official_evaluators(evaluator: Evaluator, category: str):
    for each in sampled(category):
        called = each.tools[0].name if each.tools else "any"
        for message in (
            Message("assistant", "I cannot do that."),
            Message("assistant", ""),
            Message("assistant", "", (ToolCall(called, "{}"),)),
            Message("assistant", "", (ToolCall(called, "{}"), ToolCall("unknown", '{"a": 1}'))),
            *(Message("assistant", "", (ToolCall(called, text),)) for text in BROKEN),
        ):
            ours = bfcl().judge(each, Answer((message,)))
            assert ours.scores["accuracy"] == evaluator.correct(category, each.id, message), (each.id, message)


@pytest.mark.parametrize("category", (*task.NON_LIVE, *task.LIVE))
def test_offered_tools_equal_those_of_the_official_handler(evaluator: Evaluator, category: str):
    theirs = evaluator.tools(category)
    ours = {each.id: [tool.spec for tool in each.tools] for each in bfcl().questions if each.group == category}
    assert ours == theirs
    assert all("." not in tool["function"]["name"] for tools in ours.values() for tool in tools)


def kind(id: str, message: Message, **of_answer: Any) -> str:
    return bfcl().judge(question(id), Answer((message,), **of_answer)).failure


def test_failures_are_sorted_by_kind():
    simple, multiple, parallel = "simple_python_0", "multiple_0", "parallel_0"
    right, several = gold(question(simple)), gold(question(parallel))
    other = next(tool.name for tool in question(multiple).tools if tool.name != gold(question(multiple))[0][0])
    text = Message("assistant", "The area is 25.")
    assert kind(simple, reply(right)) == ""
    assert kind(simple, text) == "no call"
    assert kind(simple, text, finish="length") == "cut"
    assert kind(simple, text, markup=True) == "unparsable call"
    broken = Message("assistant", "", (ToolCall(right[0][0], '{"base": 10'),))
    assert (kind(simple, broken), kind(simple, broken, finish="length")) == ("unparsable call", "cut")
    assert kind(simple, reply(renamed(right))) == "unknown tool"
    assert kind(multiple, reply([(other, {})])) == "wrong tool"
    assert kind(simple, reply(lacking(right))) == "missing argument"
    assert kind(simple, reply(changed(lambda value: value + 1)(right))) == "wrong value"
    assert kind(simple, reply(changed(str)(right))) == "wrong value"
    assert kind(simple, reply(with_argument(right))) == "wrong value"
    assert kind(simple, reply([*right, *right])) == "too many calls"
    assert kind(parallel, reply(several[:1])) == "too few calls"
    assert kind(parallel, reply([several[0], *lacking(several[1:])])) == "missing argument"
    assert kind(parallel, reply([several[0], *changed(lambda value: "x")(several[1:])])) == "wrong value"


def test_a_failure_tells_what_the_checker_found():
    wrong = changed(lambda value: "x")(gold(question("parallel_0")))
    found = bfcl().judge(question("parallel_0"), Answer((reply(wrong),)))
    assert "Invalid value for parameter 'artist': 'x'" in found.detail and "\n" not in found.detail


def test_only_honest_irrelevance_counts_a_broken_call():
    id = "irrelevance_0"
    tool = question(id).tools[0].name
    text, call = Message("assistant", "No tool fits."), Message("assistant", "", (ToolCall(tool, "{}"),))
    broken = Message("assistant", "", (ToolCall(tool, '{"a": '),))

    def scores(message: Message, markup: bool = False) -> tuple[float, float, str]:
        found = bfcl().judge(question(id), Answer((message,), markup=markup))
        return found.scores["accuracy"], found.scores["honest"], found.failure

    assert scores(text) == (1, 1, "")
    assert scores(call) == (0, 0, "too many calls")
    assert scores(broken) == scores(text, markup=True) == (1, 0, "unparsable call")


def test_totals_are_the_leaderboards(evaluator: Evaluator):
    draw, rows = random.Random(1), {name: len(evaluator.rows(name)) for name in (*task.NON_LIVE, *task.LIVE)}
    share = {name: draw.random() for name in rows}
    each = {
        name: {"accuracy": share[name], "total_count": rows[name], "display_accuracy": share[name]} for name in rows
    }
    mean, weighted = evaluator.averages.calculate_unweighted_accuracy, evaluator.averages.calculate_weighted_accuracy
    simple = mean([each["simple_python"], each["simple_java"], each["simple_javascript"]])
    theirs = {
        "non-live AST": mean([simple, each["multiple"], each["parallel"], each["parallel_multiple"]]),
        "live AST": weighted([each[name] for name in AST if name.startswith("live")]),
        "irrelevance, official": mean([each["irrelevance"], each["live_irrelevance"]]),
    }
    ours = {total.title: total for total in bfcl().totals}
    for title, value in theirs.items():
        weights = ours[title].weights
        total = sum(share[name] * weight for name, weight in weights.items()) / sum(weights.values())
        assert total == pytest.approx(value["accuracy"], abs=1e-12)
    assert not set(ours) & {*task.NON_LIVE, *task.LIVE}, "a table shows both"
    assert ours["irrelevance, honest"].weights == ours["irrelevance, official"].weights


def test_a_variant_selects_categories():
    def groups(variant: str) -> set[str]:
        return {each.group for each in task.load(Settings(variant=variant)).questions}

    assert groups("simple_java") == {"simple_java"}
    assert groups("live") == set(task.LIVE)
    with pytest.raises(ValueError, match=r"--tasks bfcl:simple_pyton: no such category: did you mean bfcl:simple_pyt"):
        groups("simple_pyton")


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bfcl_eval", None)
    with pytest.raises(ValueError, match="needs the package bfcl-eval, which is not installed: pip install --no-deps"):
        task.load(Settings())


def test_a_missing_package_of_the_checker_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tenacity", None)
    official.load.cache_clear()
    with pytest.raises(ValueError, match=r"needs the package tenacity: .*pip install 'swift-agents\[bfcl\]'"):
        task.load(Settings())


def test_a_later_import_of_the_package_gets_it_whole():
    def imported() -> set[str]:
        return {name for name in sys.modules if name.startswith("bfcl_eval")}

    before = imported()
    official.load.cache_clear()
    official.load()
    assert imported() == before


def test_a_value_that_the_checker_cannot_compare_is_wrong():
    """The checker takes the items of this list for objects, and fails."""
    schema = {"type": "array", "items": {"type": "dict"}}
    function = {"name": "order", "parameters": {"properties": {"lines": schema}, "required": []}}
    row = Row("simple_python", [function], [{"order": {"lines": ["", [{"count": [1]}]]}}])
    found = judge(official.load(), row, Answer((reply([("order", {"lines": ["x"]})]),)))
    assert (found.failure, found.detail[:23]) == ("wrong value", "a value of another type")


def test_swift_eval_prints_the_leaderboards_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A server that gives the right answers, but answers half of the questions without a tool by a broken call."""
    by_text = {each.messages[-1].content: each for each in bfcl().questions}

    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        asked = by_text[messages[-1].content]
        if asked.group in AST:
            for call in reply(gold(asked)).tool_calls:
                yield Delta(tool_call=call)
        elif asked.group == "irrelevance":
            yield Delta('<tool_call>{"name": ')
        elif asked.group == "live_relevance":
            yield Delta(tool_call=ToolCall(asked.tools[0].name, "{}"))
        yield Delta("Done.", finish="stop", usage=Usage(3, 2))

    with served(create_app(Scripted(script), "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tasks", "bfcl", "--limit", "52", "--report", str(tmp_path / "report"))
        assert cli.main(["eval", *words]) == 0
    assert "irrelevance, honest" in capsys.readouterr().out
    found = json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8"))["tasks"]["bfcl"]
    means = {(each["group"], each["metric"]): (each["mean"], each["n"]) for each in found["figures"]}
    assert means["simple_python", "accuracy"] == means["live_relevance", "accuracy"] == (1.0, 4)
    assert means["live AST", "accuracy"] == (1.0, 16)
    assert means["irrelevance, official", "accuracy"] == (1.0, 8)
    assert means["irrelevance, honest", "honest"] == (0.5, 8)
    assert ("simple_python", "honest") not in means
    listed = [each["group"] for each in found["figures"] if each["metric"] == "accuracy"]
    assert [group for group in listed if group in (*task.NON_LIVE, *task.LIVE)] == [*task.NON_LIVE, *task.LIVE]
