"""What is wrong or odd in the calls of agent rows is told by `swift data lint`, and what is right is left alone."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift import cli
from swift.agent import tool_format
from swift.agent.reply import split_observations
from swift.chat import Conversation, Message, ToolCall
from swift.data import linting
from swift.data.call_keywords import QWEN, REACT, Keywords
from swift.data.demo_rows import agent_rows
from swift.data.linting import Report, checked
from swift.data.row_values import BadRow
from swift.data.row_writer import write_jsonl
from swift.data.rules import RULES
from swift.data.sources import resolve
from swift.data.validate_text_calls import OfferedTools, check_reply
from swift.eval.tasks.text_steps import steps
from swift.eval.tool_calls import cases_of

SYSTEM = """Answer the following questions as best you can. You have access to the following APIs:
1. fire_recognition: Call this tool to interact with the fire recognition API. This API is used to recognize whether \
there is fire in the image. Parameters: [{"name": "image", "description": "The input image to recognize fire", \
"required": "True"}]

2. fire_alert: Call this tool to interact with the fire alert API. This API will start an alert to warn the building's \
administraters. Parameters: []

Use the following format:

Thought: you should always think about what to do
Action: the action to take, should be one of the above tools[fire_recognition, fire_alert]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question
Begin!"""
REPLY = (
    "Thought: I look.\nAction: fire_recognition\nAction Input: {'image': '/tmp/1.jpg'}\n"
    "Observation: [{'coordinate': [101.1, 200.9], 'on_fire': True}]\nThought: I now know the final answer\n"
    "Final Answer: There is fire."
)
WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city"],
    },
}


def react(reply: str, system: str = SYSTEM) -> dict[str, object]:
    return {"system": system, "query": "Is there fire?", "response": reply}


def called(arguments: object, tool: object = WEATHER, **more: object) -> dict[str, Any]:
    call = {"name": "weather", "arguments": json.dumps(arguments)}
    turns = [
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": call}], **more},
        {"role": "tool", "content": ""},
        {"role": "assistant", "content": "Fine."},
    ]
    return {"messages": turns, "tools": tool if isinstance(tool, list) else [tool]}


def lint(tmp_path: Path, *rows: object) -> list[linting.Finding]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return list(linting.lint([file]))


def only(tmp_path: Path, row: object) -> tuple[str, str]:
    (found,) = lint(tmp_path, row)
    assert found.line == 1
    return ("warning " if found.warning else "error ") + found.rule, found.message


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("Action Input:", "Action Imput:"),
        ("Action Input:", "Action input:"),
        ("Action Input:", "Action_Input:"),
        ("Action Input:", "Action Input："),
        ("Action Input:", "Action Input"),
        ("Action Input:", "行动输入："),
        ("Observation:", "Observations:"),
        ("Observation:", "Obervation:"),
        ("Observation:", "Observation :"),
        ("Observation:", "Observation"),
        ("Observation:", "观察："),
        ("Action:", "Acton:"),
        ("Action:", "Action："),
        ("Action:", "**Action:**"),
        ("Action:", "**Action**:"),
        ("Action:", "ACTION:"),
        ("Action:", "Action 1:"),
        ("Final Answer:", "Final answer:"),
        ("Final Answer:", "Final Anwser:"),
        ("Final Answer:", "Final Answer"),
        ("Final Answer:", "最终答案："),
    ],
)
def test_a_misspelt_keyword_is_an_error_with_the_right_one(tmp_path: Path, right: str, wrong: str) -> None:
    rule, message = only(tmp_path, react(REPLY.replace(f"{right} ", f"{wrong} ")))
    assert rule == "error misspelt-keyword"
    assert repr(wrong) in message and message.endswith(f"write {right!r}")


def test_a_misspelt_keyword_is_found_where_only_the_replies_show_the_form(tmp_path: Path) -> None:
    for right, wrong in (("Action:", "Actoin:"), ("Action I", "Action-I"), ("Observation:", "Obsevation:")):
        assert only(tmp_path, react(REPLY.replace(right, wrong), ""))[0] == "error misspelt-keyword"
    row = called({"city": "Oslo"})
    row["messages"][-1]["content"] = "Thought: I know.\nFinal answer: Sun."
    assert only(tmp_path, row)[0] == "error misspelt-keyword"


@pytest.mark.parametrize("wrong", ["Thougt:", "Thoughts:", "thought:", "Thought：", "思考：", "Thought"])
def test_a_misspelt_thought_is_found_before_and_behind_a_call(tmp_path: Path, wrong: str) -> None:
    first, rest = REPLY.split("\n", 1)
    for reply in (first.replace("Thought:", wrong) + "\n" + rest, first + "\n" + rest.replace("Thought:", wrong)):
        rule, message = only(tmp_path, react(reply))
        assert (rule, message.endswith("write 'Thought:'")) == ("error misspelt-keyword", True)


QWEN_REPLY = '✿FUNCTION✿: weather\n✿ARGS✿: {"city": "Oslo"}\n✿RESULT✿: sun\n✿RETURN✿: It is sunny.'


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("✿ARGS✿:", "✿ARGS✿："),
        ("✿ARGS✿:", "✿参数✿:"),
        ("✿ARGS✿:", "✿ARG✿:"),
        ("✿RESULT✿:", "✿RESULTS✿:"),
        ("✿RESULT✿:", "✿RESULT✿"),
        ("✿RESULT✿:", "✿结果✿："),
        ("✿RETURN✿:", "✿Return✿:"),
        ("✿RETURN✿:", "✿返回✿："),
        ("✿FUNCTION✿:", "✿FUNCTON✿:"),
        ("✿FUNCTION✿:", "✿函数✿："),
    ],
)
def test_the_same_goes_for_qwens_flowers(tmp_path: Path, right: str, wrong: str) -> None:
    from swift.chat import Tool

    row = react(QWEN_REPLY.replace(right, wrong), tool_format("qwen_zh").system([Tool(WEATHER)], ""))
    rule, message = only(tmp_path, row)
    assert (rule, message.endswith(f"write {right!r}")) == ("error misspelt-keyword", True)
    assert lint(tmp_path, row | {"response": QWEN_REPLY}) == []


@pytest.mark.parametrize(
    "text",
    [
        "Actions: none.\nObservations: the sky is blue.\nFinal answer: 4",
        "Thought：夜深了。\n行动：出发！\n观察：天上有星。",
        "**Action:** Stop the car.\n**Observation:** It stopped.",
        "Action: the hero runs.\nObservation: he is fast.\nFinal Answer: he wins.",
        "✿ Roses ✿\n✿FUNCTIONS✿ of a flower: to be seen",
        "Thought: I look.\nAction: get_relations(Barack Obama)\nObservation: [people.person]",
    ],
)
def test_prose_that_is_no_agents_may_use_the_same_words(tmp_path: Path, text: str) -> None:
    assert lint(tmp_path, {"query": "Tell me.", "response": text}, {"text": text}) == []


@pytest.mark.parametrize(
    "reply",
    [
        REPLY + "\nActions:\n1. Leave the house.\nAction: call 119\nObservations show smoke.\nThoughts: none",
        REPLY.replace("I look.", "I look.\nActions are needed: several\nObservation is not enough."),
        REPLY.replace("[{", "\nAction needed: none\nTitle: x\nactions: [a]\nObservation: inner\n[{"),
        REPLY.replace("Thought: I look.\n", ""),
        REPLY.replace(" fire_recognition", "fire_recognition  ").replace("\nAction Input: ", "\n\n  Action Input:"),
        "Hello! How can I help?",
        "Thought: No tool is needed.\nFinal Answer: Hello!",
    ],
)
def test_what_the_form_leaves_free_is_left_alone(tmp_path: Path, reply: str) -> None:
    assert lint(tmp_path, react(reply)) == []


def test_an_action_has_to_be_on_offer_in_every_way_of_offering(tmp_path: Path) -> None:
    from swift.chat import Tool

    tools = [Tool(WEATHER | {"name": name}) for name in ("fire_recognition", "fire_alert")]
    systems = [tool_format(name).system(tools, "Be kind.") for name in ("react_en", "react_zh", "toolbench")]
    values = react(REPLY.replace("fire_recognition", "fire_recogniton"), "") | {"tools": [tool.spec for tool in tools]}
    for system in (SYSTEM, SYSTEM.replace("[fire_recognition, fire_alert]", ""), *systems):
        for wrong in ("fire_recogniton", "fire\\_recognition", "Use the fire_recognition API", "[fire_recognition]"):
            rule, message = only(tmp_path, react(REPLY.replace("Action: fire_recognition", f"Action: {wrong}"), system))
            assert (rule, message.endswith("did you mean 'fire_recognition'?")) == ("error unknown-tool", True)
    assert only(tmp_path, values)[0] == "error unknown-tool"


def test_an_unknown_name_in_a_structured_call_gets_the_nearest(tmp_path: Path) -> None:
    row = called({"city": "Oslo"}, WEATHER | {"name": "get_weather"})
    assert only(tmp_path, row) == ("error unknown-tool", "message 2 calls 'weather'; did you mean 'get_weather'?")


@pytest.mark.parametrize(
    "written", ["{'image': '/tmp/1.jpg'", '{"image": "a"} and so on', "```json\n{}\n```", "{a, b}"]
)
def test_an_object_that_cannot_be_read_is_an_error(tmp_path: Path, written: str) -> None:
    rule, message = only(tmp_path, react(REPLY.replace("{'image': '/tmp/1.jpg'}", written)))
    assert rule == "error bad-arguments" and "fire_recognition: the arguments" in message


@pytest.mark.parametrize("written", ["/tmp/1.jpg", '"/tmp/1.jpg"', "['/tmp/1.jpg']", "5"])
def test_an_input_in_plain_words_is_odd(tmp_path: Path, written: str) -> None:
    rule, message = only(tmp_path, react(REPLY.replace("{'image': '/tmp/1.jpg'}", written)))
    assert rule == "warning plain-input" and repr(written) in message


def test_what_a_prompt_says_of_a_tool_is_compared_with_the_call_and_never_drops_a_row(tmp_path: Path) -> None:
    rule, message = only(tmp_path, react(REPLY.replace("'image'", "'imgae'")))
    assert rule == "warning odd-arguments"
    assert message == "message 3, fire_recognition: 'image' is missing; is it 'imgae'?"


@pytest.mark.parametrize(
    ("reply", "rule"),
    [
        (REPLY.replace("Action Input: {'image': '/tmp/1.jpg'}\n", ""), "error action-without-input"),
        (REPLY.replace("\nAction Input", " Action Input"), "error action-without-input"),
        (REPLY.replace("Action: fire_recognition\n", ""), "error input-without-action"),
        (REPLY.replace("Action: fire_recognition", "Action:"), "error bad-call"),
        (REPLY.replace("\nAction Input", "\nI do it.\nAction Input"), "error bad-call"),
        ("Thought: It is clear.\nObservation: fire\nFinal Answer: Fire.", "error result-without-call"),
        (REPLY + " My Observation: it burns.", "error result-without-call"),
        (
            REPLY.replace("Observation: [{'coordinate': [101.1, 200.9], 'on_fire': True}]\n", ""),
            "error call-without-result",
        ),
        (REPLY.replace(" There is fire.", ""), "error empty-reply"),
        (REPLY.partition("Thought: I now")[0], "warning ends-in-result"),
        (REPLY.partition(" [{")[0], "warning open-call"),
        (REPLY.partition("Observation")[0], "warning open-call"),
        (REPLY.partition("Final")[0], "warning no-final-answer"),
    ],
)
def test_calls_results_and_answers_belong_together(tmp_path: Path, reply: str, rule: str) -> None:
    assert only(tmp_path, react(reply))[0] == rule


def test_what_is_not_trained_may_be_wrong(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "Fire?"},
        {"role": "assistant", "content": REPLY.replace("Observation:", "Observations:"), "loss": False},
        {"role": "user", "content": "Again."},
        {"role": "assistant", "content": REPLY, "loss": True},
    ]
    assert lint(tmp_path, {"messages": turns}, called({"days": "x"}, loss=False)) == []


def test_a_result_may_be_a_message_of_its_own(tmp_path: Path) -> None:
    begun = REPLY.partition(" [{")[0]
    for role, content in (("tool", "fire"), ("user", "Observation: fire")):
        turns = [("system", SYSTEM), ("user", "Fire?"), ("assistant", begun), (role, content)]
        turns.append(("assistant", "Thought: Yes.\nFinal Answer: Fire."))
        assert lint(tmp_path, {"messages": [{"role": role, "content": content} for role, content in turns]}) == []


def test_toolbench_may_end_with_finish(tmp_path: Path) -> None:
    row = {"query": "q", "response": 'Thought: t\nAction: Finish\nAction Input: {"final_answer": "a"}'}
    assert lint(tmp_path, row) == []


@pytest.mark.parametrize(
    ("arguments", "rule", "what"),
    [
        ({"city": 5}, "error misfit-arguments", "city: 5 is not of type 'string'"),
        ({"city": "Oslo", "days": "3"}, "error misfit-arguments", "days: \"3\" is not of type 'integer'"),
        ({"ctiy": "Oslo"}, "error misfit-arguments", "'city' is missing; is it 'ctiy'?"),
        ({"city": "Oslo", "unit": "Celsius"}, "error misfit-arguments", "did you mean 'celsius'?"),
        ({"city": "Oslo", "day": 3}, "warning odd-arguments", "unknown argument 'day'; did you mean 'days'?"),
        ({"city": "Oslo", "days": None}, "warning odd-arguments", "'days' is null; omit an optional argument"),
    ],
)
def test_arguments_have_to_fit_the_schema(tmp_path: Path, arguments: object, rule: str, what: str) -> None:
    found, message = only(tmp_path, called(arguments))
    assert found == rule and message.startswith("message 2, weather: ") and message.endswith(what)


def test_a_schema_that_closes_its_properties_forbids_others(tmp_path: Path) -> None:
    closed = WEATHER | {"parameters": {**WEATHER["parameters"], "additionalProperties": False}}
    rule, message = only(tmp_path, called({"city": "Oslo", "day": 3}, closed))
    assert rule == "error misfit-arguments" and message.endswith("did you mean 'days'?")


@pytest.mark.parametrize(
    ("tool", "rule", "what"),
    [
        ({"parameters": {"properties": {"city": {"type": "str"}}}}, "bad-schema", "did you mean 'string'?"),
        ({"parameters": {"properties": {"city": {"type": "integr"}}}}, "bad-schema", "did you mean 'integer'?"),
        ({"parameters": {"required": "city"}}, "bad-schema", "'city' is not of type 'array'"),
        ({"parameters": "city"}, "bad-schema", "a JSON schema or a list of objects with a name"),
    ],
)
def test_a_schema_that_is_none_is_odd(tmp_path: Path, tool: dict[str, object], rule: str, what: str) -> None:
    found, message = only(tmp_path, called({"city": "Oslo"}, {"name": "weather", **tool}))
    assert (found, message.endswith(what)) == (f"warning {rule}", True), message


def test_oddities_of_a_dialogue_keep_the_row(tmp_path: Path) -> None:
    turns = [{"role": "assistant", "content": "Hello!"}, {"role": "user", "content": " "}]
    found = lint(tmp_path, {"messages": [*turns, {"role": "assistant", "content": "Yes?"}]})
    assert [(each.rule, each.warning) for each in found] == [("empty-user", True), ("assistant-first", True)]
    assert only(tmp_path, called({"city": "Oslo"}, [WEATHER, WEATHER]))[0] == "warning tool-twice"


def thinking(content: str = "r", thought: str = "", **more: object) -> dict[str, Any]:
    reply = {"role": "assistant", "content": content, "reasoning_content": thought, **more}
    return {"messages": [{"role": "user", "content": "q"}, reply]}


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (thinking("", "hm"), "error empty-reply"),
        (thinking(" \n", "hm"), "error empty-reply"),
        (thinking("<think>\nhm\n</think>\n\nr", "hm"), "error two-thoughts"),
        (thinking("r", "<think>hm"), "error thought-tag"),
        (thinking("r", "hm\n</think>\n\nr"), "error thought-tag"),
        (thinking("<think>hm"), "warning open-thought"),
        (thinking("<think>hm</think>\n"), "warning thought-alone"),
        (thinking("r", 'I call.\n<tool_call>{"name": "f"}</tool_call>'), "warning call-in-thought"),
        (thinking("r", "I call.\nAction: f\nAction Input: {}"), "warning call-in-thought"),
        (thinking("r", "✿FUNCTION✿: f"), "warning call-in-thought"),
    ],
)
def test_a_thought_has_to_make_sense(tmp_path: Path, row: dict[str, Any], rule: str) -> None:
    found, message = only(tmp_path, row)
    assert found == rule and message.startswith("message 2 ")
    row["messages"][1]["loss"] = False
    assert [each.rule for each in lint(tmp_path, row)] == (["empty-reply"] if "empty" in rule else [])


def test_thoughts_that_make_sense_are_left_alone(tmp_path: Path) -> None:
    called = thinking("", "hm", tool_calls=[{"name": "f"}])
    called["messages"] += [{"role": "tool", "content": "1"}, {"role": "assistant", "content": "r", "thinking": "So."}]
    within = thinking("<think>\nhm\n</think>", tool_calls=[{"name": "f"}])
    rows = [
        thinking("r", "Action is needed. Thought: none.\nIs it <b>? [1]"),
        *(thinking("<think>\nhm\n</think>\n\nr"), thinking("hm</think>r"), thinking("Write <think> and </think>.")),
        *(called, within),
    ]
    assert lint(tmp_path, *rows) == []


def test_a_call_in_a_thought_is_not_looked_at_as_a_call(tmp_path: Path) -> None:
    row = thinking("Final Answer: r", "Action: nothing\nAction Input: {oops") | {"tools": [WEATHER]}
    assert [each.rule for each in lint(tmp_path, row)] == ["call-in-thought"]


def test_rows_that_think_otherwise_or_ask_otherwise_of_the_template_are_not_the_same(tmp_path: Path) -> None:
    row = thinking("r", "hm")
    others = [thinking("r", "oh"), thinking("r"), row | {"enable_thinking": True}, row | {"enable_thinking": False}]
    assert lint(tmp_path, row, *others) == []
    again = lint(tmp_path, row, thinking("r", reasoning="hm"))
    assert [each.rule for each in again] == ["duplicate-row"]


def test_a_dialogue_that_comes_again_is_named_with_its_first_place(tmp_path: Path) -> None:
    again, other = react(REPLY), react(REPLY.replace("There", "Here"))
    file, first = tmp_path / "rows.jsonl", lint(tmp_path, again, other, again)
    assert [(each.line, each.rule, each.message) for each in first] == [
        (3, "duplicate-row", f"the same dialogue is in {file}:1")
    ]
    (tmp_path / "b.jsonl").write_text(json.dumps(again))
    assert [Path(each.file).name for each in linting.lint([file, tmp_path / "b.jsonl", file])] == [
        "rows.jsonl", "b.jsonl", "rows.jsonl",
    ]  # fmt: skip


def test_training_applies_the_same_rules_and_tells_of_each_oddity_once(tmp_path: Path) -> None:
    plain, bad = react(REPLY.replace("{'image': '/tmp/1.jpg'}", "a.jpg")), react(REPLY.replace("Action I", "Actoin I"))
    lint(tmp_path, plain, bad, plain, react(REPLY))
    source, said, report = resolve(str(tmp_path / "rows.jsonl")), [], Report()
    kept = [row.line for row in checked(source, "warning", report, said.append)]
    assert (kept, len(said)) == ([1, 3, 4], 1) and ":2: misspelt-keyword: " in said[0]
    assert [line.partition(", first")[0] for line in report.warnings()] == [
        "warning: plain-input: 2 rows",
        "warning: duplicate-row: 1 row",
    ]
    assert f"first {tmp_path / 'rows.jsonl'}:1: message 3, fire_recognition: " in report.lines()[-2]
    assert json.loads(json.dumps(report.as_dict()))["warnings"]["plain-input"]["rows"] == 2
    report = Report()
    assert len(list(checked(source, "none", report, said.append))) == 4 and not report.warned
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: misspelt-keyword"):
        list(checked(source, "error", Report(), said.append))


def test_lint_fails_for_errors_alone_and_counts_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, bad = react(REPLY.replace("{'image': '/tmp/1.jpg'}", "a.jpg")), react(REPLY.replace("Action I", "Actoin I"))
    lint(tmp_path, plain)
    assert cli.main(["data", "lint", str(tmp_path / "rows.jsonl")]) == 0
    told = capsys.readouterr()
    assert "rows.jsonl:1: warning: plain-input: message 3, fire_recognition: " in told.out
    assert told.err == "warnings: 1 plain-input\nno bad rows\n"
    lint(tmp_path, plain, bad, plain)
    assert cli.main(["data", "lint", str(tmp_path / "rows.jsonl")]) == 1
    assert capsys.readouterr().err == "bad rows: 1 misspelt-keyword\nwarnings: 2 plain-input, 1 duplicate-row\n"


@pytest.mark.parametrize("style", ["ms_agent", "messages"])
def test_rows_that_the_project_makes_itself_have_nothing_odd(tmp_path: Path, style: str) -> None:
    write_jsonl(agent_rows(300, 7, style=style), tmp_path / "a.jsonl")
    assert list(linting.lint([tmp_path / "a.jsonl"])) == []


def test_the_files_that_come_with_the_project_have_nothing_odd() -> None:
    folder = Path(linting.__file__).parent
    found = linting.lint([folder / "general.jsonl", folder / "self_cognition.jsonl"])
    assert [str(finding) for finding in found if finding.rule != "unread-key"] == []


def test_every_rule_stands_in_the_docs_with_its_kind() -> None:
    raised: dict[str, set[str]] = {}
    for name in ("validate", "validate_text_calls", "validate_arguments", "linting"):
        text = (Path(linting.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
        for made, rule in re.findall(r'(BadRow|_bad|RowWarning)\("([a-z-]+)"', text):
            raised.setdefault(rule, set()).add("warning" if made == "RowWarning" else "error")
    assert {rule.name: {rule.kind} for rule in RULES} == raised


LINES = {
    "react_en": ["Thought: t", "Action: look", "Action Input: {}", "Observation: 1", "Final Answer: ok", "more", ""],
    "qwen_en": ["t", "✿FUNCTION✿: look", "✿ARGS✿: {}", "✿RESULT✿: 1", "✿RETURN✿: ok", "more"],
}


@pytest.mark.parametrize(("name", "keywords"), [("react_en", REACT), ("qwen_en", QWEN)])
@given(data=st.data())
def test_a_reply_without_an_error_is_cut_as_training_cuts_it(name: str, keywords: object, data: st.DataObject) -> None:
    text = "\n".join(data.draw(st.lists(st.sampled_from(LINES[name]), min_size=1, max_size=9)))
    try:
        ended = check_reply(text, keywords, OfferedTools(frozenset({"look"}), "", {}), "message 1", [])
    except BadRow:
        return
    parts = split_observations(text, agent=True)
    assert (ended.state == "result" and bool(ended.tail)) == parts[-1][1]
    # Each call is one of the form's, read from the part of the reply that the model wrote.
    calls = [call for part, outside in parts if not outside for call in tool_format(name).parse(part)[1]]
    written = sum(part.count(keywords.input) for part, outside in parts if not outside)
    open_call = ended.state == "input" and name == "qwen_en"  # read once its result begins
    assert len(calls) + open_call == written
    assert all(call.name == "look" for call in calls)


@pytest.mark.parametrize(("name", "keywords"), [("react_en", REACT), ("qwen_en", QWEN)])
def test_a_result_keyword_in_an_argument_is_no_result(name: str, keywords: Keywords) -> None:
    call_format = tool_format(name)
    call = call_format.call("", [ToolCall("look", json.dumps({"text": f"{keywords.result} rain"}))])
    text = f"{call} 1\n{keywords.answer} ok"
    assert check_reply(text, keywords, OfferedTools(frozenset({"look"}), "", {}), "message 1", []).state == "answer"
    assert [step.text for step in steps(text, call_format)] == [call, f"{keywords.answer} ok"]
    row = Conversation((Message("user", "x"), Message("assistant", text)))
    assert [case.expected for case in cases_of(row, name)] == list(call_format.parse(call)[1]) != []
