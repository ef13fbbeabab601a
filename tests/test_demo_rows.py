"""The catalogue of tools, and the conversations that are made of it."""

from __future__ import annotations

import ast
import json
import random
import re
from pathlib import Path

import pytest
from tiny import tiny_tokenizer

from swift.chat import Conversation, Message, Tool, ToolCall
from swift.data import demo_rows, demo_tools, scenario
from swift.data.general import general_rows
from swift.data.row_writer import write_jsonl
from swift.data.rows import conversation
from swift.template import Renderer
from swift.template import template as chat_template

CALL = re.compile(r"Action: (.*)\nAction Input: (.*)\nObservation:\s?(.*)\nThought: ")
CHINESE = re.compile("[\u4e00-\u9fff]")


def questions_and_replies(row: Conversation) -> list[tuple[str, str]]:
    texts = [message.content for message in row.messages[1:]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def offered(row: Conversation) -> dict[str, list[str]]:
    """Tool name -> its parameters, read back from the system text."""
    lines = re.findall(r"^\d+\. (\w+): .* Parameters: (\[.*\])$", row.messages[0].content, re.MULTILINE)
    return {name: [each["name"] for each in json.loads(parameters)] for name, parameters in lines}


def test_the_catalogue_is_broad_and_a_quarter_of_its_domains_is_held_out() -> None:
    domains = {entry.domain: entry.held_out for entry in demo_tools.catalogue()}
    assert len(demo_tools.catalogue()) >= 110
    assert len(domains) >= 35
    assert 0.18 <= sum(domains.values()) / len(domains) <= 0.3


def test_every_tool_has_a_name_of_its_own() -> None:
    names = [entry.name for entry in demo_tools.catalogue()]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("entry", demo_tools.catalogue(), ids=lambda entry: entry.name)
def test_a_tool_can_be_asked_for_with_every_required_parameter(entry: demo_tools.CatalogueTool) -> None:
    assert len(entry.ask) >= 3
    required = {name for name, param in entry.params.items() if not param.optional}
    for template in (*entry.ask, *entry.zh):
        assert required <= set(demo_tools.slots(template)) <= set(entry.params)
    for name, param in entry.params.items():
        assert name not in entry.result, "an answer could not tell the argument from the result"
        drawn = {type(demo_tools.fill(value, random.Random(1))) for value in param.values}
        assert len(drawn) == 1 or drawn == {int, float}, "one type of value a parameter"
        assert len(param.values) >= 4 or any("#" in str(value) for value in param.values)
    assert all(CHINESE.search(template) for template in entry.zh)


@pytest.mark.parametrize("entry", demo_tools.catalogue(), ids=lambda entry: entry.name)
def test_thoughts_and_answers_use_only_what_the_call_knows(entry: demo_tools.CatalogueTool) -> None:
    always = {name for name, param in entry.params.items() if not param.optional}
    assert set(demo_tools.slots(entry.think)) <= always
    says = [entry.say] if isinstance(entry.say, str) else [text for pair in entry.say.values() for text in pair]
    for say in says:
        assert set(demo_tools.slots(say)) <= always | set(entry.result)
    if not isinstance(entry.say, str):
        assert all(set(entry.result[flag]) == {True, False} for flag in entry.say)
    if entry.then:
        mates = {other.name for other in demo_tools.catalogue() if other.domain == entry.domain}
        assert entry.then["call"] in mates


def test_the_scenario_is_no_part_of_the_catalogue() -> None:
    words = re.compile(r"\bfire|police|arson|flame|smoke|thief", re.IGNORECASE)
    for entry in demo_tools.catalogue():
        assert not words.search(" ".join((entry.name.replace("_", " "), entry.description, *entry.ask)))


@pytest.mark.parametrize("held_out", [False, True])
def test_a_row_offers_and_calls_only_tools_of_its_own_half(held_out: bool) -> None:
    half = {entry.name for entry in demo_tools.catalogue() if entry.held_out == held_out}
    for row in demo_rows.agent_rows(60, seed=3, held_out=held_out):
        assert set(offered(row)) <= half
        for _, reply in questions_and_replies(row):
            assert {name for name, _, _ in CALL.findall(reply)} <= set(offered(row))


def test_arguments_are_json_and_stand_in_the_question_word_for_word() -> None:
    calls = 0
    for row in demo_rows.agent_rows(200, seed=4):
        for question, reply in questions_and_replies(row):
            for name, text, _ in CALL.findall(reply):
                arguments = json.loads(text)
                assert set(arguments) <= set(offered(row)[name])
                for value in arguments.values():
                    assert (", ".join(map(str, value)) if isinstance(value, list) else str(value)) in question
                calls += 1
    assert calls > 300


def test_observations_come_as_json_and_as_python() -> None:
    styles = set()
    for row in demo_rows.agent_rows(60, seed=5):
        for _, reply in questions_and_replies(row):
            for _, _, observation in CALL.findall(reply):
                assert isinstance(ast.literal_eval(_python(observation)), (dict, list))
                styles.add("python" if "'" in observation else "json")
    assert styles == {"python", "json"}


def _python(text: str) -> str:
    return re.sub(r"\btrue\b", "True", re.sub(r"\bfalse\b", "False", text))


def test_every_reply_ends_with_a_final_answer_and_some_need_no_tool_and_some_two() -> None:
    counts = []
    for row in demo_rows.agent_rows(200, seed=6):
        for _, reply in questions_and_replies(row):
            lines = reply.splitlines()
            assert sum(line.startswith("Final Answer: ") for line in lines) == 1
            assert all(line.startswith("Thought: ") for line in lines[:1])
            counts.append(len(CALL.findall(reply)))
    assert set(counts) == {0, 1, 2}
    assert counts.count(1) > 0.7 * len(counts)


def test_the_second_call_waits_for_the_outcome_of_the_first() -> None:
    wishes = {entry.name: entry for entry in demo_tools.catalogue() if entry.then}
    seen = set()
    for row in demo_rows.agent_rows(300, seed=7):
        for question, reply in questions_and_replies(row):
            calls = CALL.findall(reply)
            entry = wishes.get(calls[0][0]) if calls else None
            if entry and entry.then["ask"] in question:
                outcome = "true" in calls[0][2].lower()
                assert [name for name, _, _ in calls[1:]] == [entry.then["call"]] * outcome
                assert ("Final Answer: Yes" in reply) == outcome
                seen.add(outcome)
    assert seen == {True, False}


def test_the_share_of_chinese_questions_is_the_one_asked_for() -> None:
    def share(chinese: float) -> float:
        rows = demo_rows.agent_rows(200, seed=8, chinese=chinese)
        asked = [question for row in rows for question, _ in questions_and_replies(row)]
        return sum(bool(CHINESE.search(question)) for question in asked) / len(asked)

    assert share(0) < 0.04, "general questions alone may be Chinese"
    assert 0.1 < share(0.2) < 0.25


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    assert demo_rows.agent_rows(5, seed=1) == demo_rows.agent_rows(5, seed=1)
    assert demo_rows.agent_rows(5, seed=1) != demo_rows.agent_rows(5, seed=2)


def test_rows_use_every_tool_about_equally_often() -> None:
    rows = demo_rows.agent_rows(100, seed=9, rounds=(2, 2))
    called = [name for row in rows for _, reply in questions_and_replies(row) for name, _, _ in CALL.findall(reply)]
    assert len(set(called)) >= 0.75 * sum(not entry.held_out for entry in demo_tools.catalogue())
    assert max(called.count(name) for name in called) <= 10


def test_both_styles_say_the_same() -> None:
    as_text = demo_rows.agent_rows(20, seed=10)
    as_values = demo_rows.agent_rows(20, seed=10, style="messages")
    for text, values in zip(as_text, as_values, strict=True):
        assert list(offered(text)) == [tool.name for tool in values.tools]
        calls = [call for message in values.messages for call in message.tool_calls]
        written = [found for _, reply in questions_and_replies(text) for found in CALL.findall(reply)]
        assert [(call.name, call.arguments) for call in calls] == [(name, given) for name, given, _ in written]
        results = [message.content for message in values.messages if message.role == "tool"]
        assert results == [observation for _, _, observation in written]


def test_a_spec_names_types_and_required_parameters() -> None:
    spec = {entry.name: entry.spec["function"] for entry in demo_tools.catalogue()}
    parameters = spec["search_products"]["parameters"]
    assert parameters["properties"]["max_price"]["type"] == "integer"
    assert parameters["required"] == ["keyword"]
    assert spec["draw_chart"]["parameters"]["properties"]["numbers"]["type"] == "array"
    assert spec["cut_board"]["parameters"]["properties"]["unit"]["enum"] == ["cm", "mm", "inch", "feet"]
    assert spec["flip_coin"]["parameters"]["properties"] == {}


def test_evaluation_cases_end_with_a_question_and_expect_a_held_out_tool() -> None:
    held_out = {entry.name for entry in demo_tools.catalogue() if entry.held_out}
    cases = demo_rows.evaluation_cases(60, seed=11)
    assert len(cases) == 60
    assert len({call.name for _, call in cases}) == len(held_out)
    for row, call in cases:
        assert [message.role for message in row.messages] == ["system", "user"]
        assert call.name in held_out & set(offered(row))
        assert isinstance(json.loads(call.arguments), dict)


def test_the_scenario_is_written_as_the_rows_are() -> None:
    (row,) = demo_rows.agent_rows(1, seed=12)
    ours, scenarios = row.messages[0].content, scenario.SYSTEM
    assert ours.splitlines()[0] == scenarios.splitlines()[0]
    tail = "Use the following format:"
    names = re.compile(r"tools\[.*?\]")
    assert names.sub("", ours[ours.index(tail) :]) == names.sub("", scenarios[scenarios.index(tail) :])
    first = scenarios.splitlines()[1]
    assert first.startswith("1. fire_recognition: Call this tool to interact with the fire recognition API. ")
    assert json.loads(scenario.CALL.arguments)["image"] in scenario.QUESTION


@pytest.mark.parametrize("style", ["ms_agent", "messages"])
def test_rows_are_written_as_users_have_them_and_read_back_the_same(tmp_path: Path, style: demo_rows.Style) -> None:
    rows = demo_rows.agent_rows(7, seed=13, style=style)
    assert write_jsonl(rows, tmp_path / "rows.jsonl") == 7
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    for row, line in zip(rows, lines, strict=True):
        read = conversation(json.loads(line))
        assert [tool.spec for tool in read.tools] == [tool.spec for tool in row.tools]
        assert [(each.role, each.content, calls(each)) for each in read.messages] == [
            (each.role, each.content, calls(each)) for each in row.messages
        ]


def test_thoughts_and_variables_are_written_too_and_read_back(tmp_path: Path) -> None:
    said = Message("user", "q"), Message("assistant", "r", reasoning="hm")
    called = Message("assistant", "", (ToolCall("f", "{}"),), reasoning="I look.")
    rows = [
        Conversation(said, template_kwargs={"enable_thinking": True}),
        Conversation((said[0], called, Message("tool", "1"), said[1]), (Tool({"name": "f"}),)),
    ]
    write_jsonl(rows, tmp_path / "rows.jsonl")
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [conversation(json.loads(line)) for line in lines] == rows
    assert json.loads(lines[0])["chat_template_kwargs"] == {"enable_thinking": True}


def calls(message: Message) -> list[tuple[str, object]]:
    return [(call.name, json.loads(call.arguments)) for call in message.tool_calls]


def test_general_rows_are_distinct_short_and_partly_held_out() -> None:
    train, test = general_rows(), general_rows("test")
    assert len(test) == 60
    assert len(train) + len(test) >= 420
    queries = [row["query"].lower() for row in (*train, *test)]
    assert len(set(queries)) == len(queries)
    assert all(row["response"].strip() and len(row["response"].split()) <= 80 for row in (*train, *test))
    assert 0.1 < sum(bool(CHINESE.search(query)) for query in queries) / len(queries) < 0.25


def test_some_histories_are_as_clients_send_them_back() -> None:
    rows = demo_rows.agent_rows(40, seed=3, style="messages", rounds=(2, 2))
    sent_back = [row for row in rows if any(message.weight == 0 for message in row.messages)]
    assert len(sent_back) == 10
    for row in sent_back:
        *before, last = (message for message in row.messages if message.role == "assistant")
        assert last.weight is None and last.content.startswith("Thought: ")
        assert all(message.weight == 0 for message in before)
        assert not any(word in message.content for message in before for word in ("Thought", "Final Answer"))
        assert all(message.content or message.tool_calls for message in before)
    renderer = Renderer(tiny_tokenizer(), chat_template("chatml"))
    row = next(row for row in sent_back if any(message.content and message.weight == 0 for message in row.messages))
    shown = renderer.show(row)
    earlier = next(message for message in row.messages if message.content and message.weight == 0)
    assert f"Final Answer: {earlier.content}<|im_end|>" in shown.text
    assert "".join(text for text, weight in shown.pieces if weight).startswith("Thought: ")
