"""The tool sets: their composition, their calls run on their own tools, and what `swift eval` reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import agent_sets
import pytest

from swift.chat import ToolCall
from swift.eval.call_matching import call_of
from swift.eval.task import Settings
from swift.eval.tasks import calls
from swift.tools.bound_tool import BoundTool
from swift.tools.call import call_all
from swift.tools.python.source import PythonFile


class ToolSet(NamedTuple):
    name: str
    questions: list[dict[str, Any]]
    tools: list[BoundTool]


@pytest.fixture(scope="module", params=agent_sets.names())
def tool_set(request: pytest.FixtureRequest) -> Iterator[ToolSet]:
    source = PythonFile(agent_sets.tools_file(request.param))
    yield ToolSet(request.param, agent_sets.questions(request.param), list(source.tools))
    source.close()


def expected(question: dict[str, Any]) -> list[ToolCall]:
    return [call_of(each) for each in question["expected"]]


def test_a_set_asks_for_one_call_24_times_for_several_4_times_and_for_none_12_times(tool_set: ToolSet) -> None:
    sizes = [len(question["expected"]) for question in tool_set.questions]
    assert (sizes.count(1), sum(size > 1 for size in sizes), sizes.count(0), len(sizes)) == (24, 4, 12, 40)


def test_two_to_four_questions_of_a_set_are_dialogues_that_the_user_continues(tool_set: ToolSet) -> None:
    dialogues = [each["messages"] for each in tool_set.questions if len(each["messages"]) > 1]
    assert 2 <= len(dialogues) <= 4
    assert {messages[-1]["role"] for messages in dialogues} == {"user"}


def test_ids_and_texts_of_questions_are_unique_over_all_sets() -> None:
    questions = {name: agent_sets.questions(name) for name in agent_sets.names()}
    ids = [each["id"] for name in questions for each in questions[name]]
    assert ids == [f"{name}-{number:02}" for name in questions for number in range(1, len(questions[name]) + 1)]
    texts = Counter(each["messages"][-1]["content"].casefold() for name in questions for each in questions[name])
    assert [text for text, count in texts.items() if count > 1] == []


def test_every_expected_call_has_the_arguments_that_its_tool_requires_and_no_others(tool_set: ToolSet) -> None:
    parameters = {bound.name: bound.tool.parameters for bound in tool_set.tools}
    for question in tool_set.questions:
        for wanted in question["expected"]:
            schema = parameters[wanted["name"]]
            given = set(wanted["arguments"])
            assert set(schema.get("required", ())) <= given <= set(schema.get("properties", {})), question["id"]


def test_every_expected_call_is_valid_and_runs(tool_set: ToolSet) -> None:
    for question in tool_set.questions:
        wanted = expected(question)
        for made, result in zip(wanted, call_all(tool_set.tools, wanted), strict=True):
            assert not result.failure, f"{question['id']}: {made}: {result.text}"


def test_earlier_calls_of_a_dialogue_name_tools_of_the_set_and_are_valid(tool_set: ToolSet) -> None:
    by_name = {bound.name: bound for bound in tool_set.tools}
    for question in tool_set.questions:
        for message in question["messages"]:
            for each in message.get("tool_calls", ()):
                called = each["function"]
                errors = list(by_name[called["name"]].validator.iter_errors(json.loads(called["arguments"])))
                assert errors == [], question["id"]


def test_every_tool_of_a_set_is_used_by_two_questions_at_least(tool_set: ToolSet) -> None:
    users = Counter(name for each in tool_set.questions for name in {call["name"] for call in each["expected"]})
    assert {bound.name: users[bound.name] for bound in tool_set.tools if users[bound.name] < 2} == {}


def test_a_set_has_6_to_12_tools_that_describe_themselves_and_their_parameters(tool_set: ToolSet) -> None:
    assert 6 <= len(tool_set.tools) <= 12
    for bound in tool_set.tools:
        assert bound.tool.function["description"], bound.name
        for name, schema in bound.tool.parameters.get("properties", {}).items():
            assert schema.get("description"), f"{bound.name}: {name}"


@pytest.mark.parametrize("name", agent_sets.open_names())
def test_the_questions_of_an_open_set_have_calls_that_its_tools_allow(name: str, tmp_path: Path) -> None:
    source = PythonFile(agent_sets.tools_file(name))
    tools = list(source.tools)
    wanted = [each for question in agent_sets.questions(name) for each in expected(question)]
    assert [result.text for result in call_all(tools, wanted) if result.failure] == []
    assert {each.name for each in wanted} == {bound.name for bound in tools}
    source.close()
    agent_sets.main(["--out", str(tmp_path), name])
    assert len(calls.load(Settings(dataset=(str(tmp_path / f"{name}.jsonl"),))).questions) == len(
        agent_sets.questions(name)
    )


def test_no_open_set_has_a_question_of_another() -> None:
    blind = {
        each["messages"][-1]["content"].casefold() for name in agent_sets.names() for each in agent_sets.questions(name)
    }
    assert [
        each["id"]
        for name in agent_sets.open_names()
        for each in agent_sets.questions(name)
        if each["messages"][-1]["content"].casefold() in blind
    ] == []


def test_swift_eval_reads_every_written_question(tmp_path: Path) -> None:
    agent_sets.main(["--out", str(tmp_path)])
    for name in agent_sets.names():
        task = calls.load(Settings(dataset=(str(tmp_path / f"{name}.jsonl"),)))
        groups = Counter(question.group for question in task.questions)
        assert groups == {calls.ONE: 24, calls.SEVERAL: 4, calls.NONE: 12}
        written = [question["expected"] for question in agent_sets.questions(name)]
        assert [question.expected for question in task.questions] == written
        assert all(question.tools for question in task.questions)


def test_an_unknown_set_is_one_line_with_the_nearest_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        agent_sets.main(["--out", str(tmp_path / "sets"), "hose"])
    assert stopped.value.code == 2
    assert "there is no set 'hose'; did you mean 'house'?" in capsys.readouterr().err
    assert not (tmp_path / "sets").exists()


def test_a_question_with_a_wrong_key_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "questions.jsonl").write_text('{"id": "mine-01", "text": "Hi", "expected": []}\n')
    monkeypatch.setattr(agent_sets, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"questions\.jsonl:1: a question has exactly"):
        agent_sets.questions("mine")
