"""The tasks `calls` and `react`, the comparison of calls, intervals, and the runner with scripted chats."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from swift.agent import tool_format
from swift.chat import Delta, Message, Tool, ToolCall, Usage
from swift.engine.sampling import SamplingParams
from swift.eval import registry, runner, statistics
from swift.eval.call_matching import compare, same
from swift.eval.records import Store, Variant
from swift.eval.task import Answer, Judgement, Metric, NoQuestions, Question, Settings, Task, fingerprint
from swift.eval.tasks import calls, react
from swift.guided.guide import Guide

OFFERED = {"look", "listen"}
LOOK = ToolCall("look", '{"path": "/a.jpg", "times": 2}')
LISTEN = ToolCall("listen", '{"place": "Oslo"}')


def said(*made: ToolCall, text: str = "", **more: Any) -> Answer:
    return Answer((Message("assistant", text, made),), **more)


@pytest.mark.parametrize(
    ("expected", "answer", "failure"),
    [
        ([LOOK], said(ToolCall("look", '{"times": 2, "path": "/a.jpg"}')), ""),
        ([LOOK], said(ToolCall("look", "{'path': '/a.jpg', 'times': 2.0}")), ""),
        ([], said(text="Hello."), ""),
        ([LOOK], said(text="I looked."), "no call"),
        ([LOOK], said(text="look(", markup=True), "unparsable call"),
        ([], said(text="look(", markup=True), "unparsable call"),
        ([LOOK], said(ToolCall("look", "/a.jpg")), "unparsable call"),
        ([LOOK], said(text="Well", finish="length"), "cut"),
        ([LOOK], said(ToolCall("stare", LOOK.arguments)), "unknown tool"),
        ([LOOK], said(LISTEN), "wrong tool"),
        ([LOOK], said(ToolCall("look", '{"path": "/a.jpg"}')), "missing argument"),
        ([LOOK], said(ToolCall("look", '{"path": "/b.jpg", "times": 2}')), "wrong value"),
        ([LOOK], said(ToolCall("look", '{"path": "/a.jpg", "times": "2"}')), "wrong value"),
        ([LOOK], said(ToolCall("look", '{"path": "/a.jpg", "times": 2, "more": 1}')), "wrong value"),
        ([LOOK], said(LOOK, LISTEN), "too many calls"),
        ([LOOK], said(LOOK, LOOK), "too many calls"),
        ([], said(LOOK), "too many calls"),
        ([LOOK, LISTEN], said(LOOK), "too few calls"),
        ([LOOK, LISTEN], said(LISTEN, LOOK), ""),
    ],
)
def test_the_first_thing_that_is_wrong_names_the_failure(expected: list, answer: Answer, failure: str) -> None:
    assert compare(expected, answer, OFFERED).failure == failure


def test_parallel_calls_of_one_tool_are_paired_by_their_arguments() -> None:
    one, two = (ToolCall("look", json.dumps({"path": path, "times": 1})) for path in ("/a", "/b"))
    assert compare([one, two], said(two, one)).failure == ""
    wrong = compare([one, two], said(two, ToolCall("look", '{"path": "/a", "times": 3}')))
    assert (wrong.failure, wrong.arguments_f1) == ("wrong value", 3 / 4)
    assert "times is 3, not 1" in wrong.detail


def test_f1_counts_names_and_equal_arguments_of_all_calls() -> None:
    found = compare([LOOK, LISTEN], said(LOOK), OFFERED)
    assert found.names_f1 == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert found.arguments_f1 == pytest.approx(4 / 5)  # 2 of 2 made, 2 of 3 right ones
    assert compare([], said(), OFFERED)[:2] == (1.0, None)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        ({"a": [1, {}]}, {"a": [1, {}]}, True),
        ([1, 2], [2, 1], False),
        ("1", 1, False),
    ],
)
def test_values_are_equal_as_json(left: object, right: object, equal: bool) -> None:
    assert same(left, right) is equal


# --- rows -> questions ---

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
DIALOGUE: list[dict[str, Any]] = [
    {"role": "user", "content": "look"},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {}}]},
    {"role": "tool", "content": "a cat"},
    {"role": "assistant", "content": "A cat."},
]
REACT_REPLY = (
    'Thought: t\nAction: look\nAction Input: {"path": "/a.jpg", "times": 2}\nObservation: a cat\n'
    "Thought: I now know the final answer\nFinal Answer: The cat sat."
)
REACT = {
    "conversations": [
        {"from": "system", "value": "Use:\nThought:\nAction: one of [look]\nAction Input: its input\nObservation:"},
        {"from": "user", "value": "What is there?"},
        {"from": "assistant", "value": REACT_REPLY},
    ]
}


def rows(tmp_path: Path, *each: dict[str, Any]) -> Settings:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in each), encoding="utf-8")
    return Settings((str(file),), say=lambda line: None)


def test_each_reply_of_a_row_with_tools_is_a_question_with_calls_or_without(tmp_path: Path) -> None:
    task = calls.load(rows(tmp_path, {"messages": DIALOGUE, "tools": [TOOL]}, {"query": "hi", "response": "ho"}))
    assert [(len(each.messages), each.expected, each.group) for each in task.questions] == [
        (1, [{"name": "look", "arguments": {}}], "one call"),
        (3, [], "no call"),
    ]
    assert "1 rows without tools" in " ".join(task.notes)


@pytest.mark.parametrize(
    ("expected", "right"),
    [
        ([{"name": "look", "arguments": {}}], [{"name": "look", "arguments": {}}]),
        ('[{"name": "look", "arguments": {}}]', [{"name": "look", "arguments": {}}]),
        ([{"type": "function", "function": {"name": "look", "arguments": "{}"}}], [{"name": "look", "arguments": {}}]),
        ([], []),
        (None, []),
    ],
)
def test_a_row_with_expected_calls_is_one_question_after_its_last_message(
    tmp_path: Path, expected: object, right: object
) -> None:
    messages = [*DIALOGUE, {"role": "user", "content": "again"}]
    task = calls.load(rows(tmp_path, {"messages": messages, "tools": [TOOL], "expected": expected}))
    [question] = task.questions
    assert (question.expected, question.messages[-1].content) == (right, "again")


def test_replies_of_weight_0_are_no_questions_and_repeated_ones_are_asked_once(tmp_path: Path) -> None:
    masked = [{**item, "weight": 0} if item.get("tool_calls") else item for item in DIALOGUE]
    row = {"messages": masked, "tools": [TOOL]}
    task = calls.load(rows(tmp_path, row, {**row, "id": 2}))
    assert [question.group for question in task.questions] == ["no call"]
    assert "1 questions that occur twice" in " ".join(task.notes)


def test_calls_in_text_are_read_and_asked_step_by_step(tmp_path: Path) -> None:
    task = calls.load(rows(tmp_path, REACT))
    first, last = task.questions
    assert (first.expected, last.expected) == ([{"name": "look", "arguments": {"path": "/a.jpg", "times": 2}}], [])
    assert last.messages[-1] == Message("assistant", REACT_REPLY[: REACT_REPLY.index("Thought: I now")])
    right = REACT_REPLY[: REACT_REPLY.index(" a cat")]
    assert task.judge(first, said(text=right)).correct
    assert task.judge(first, said(text="The cat sat.")).failure == "no call"
    assert task.judge(last, said(text="Final Answer: The cat.")).correct


def test_rows_that_hold_nothing_to_ask_are_refused(tmp_path: Path) -> None:
    plain = rows(tmp_path, {"query": "hi", "response": "ho"})
    for load in (calls.load, react.load):
        with pytest.raises(NoQuestions, match=r"rows\.jsonl: no row has"):
            load(plain)
    with pytest.raises(ValueError, match="no row is good"):
        calls.load(rows(tmp_path, {"nothing": 1}))
    with pytest.raises(ValueError, match="no row is good"):
        calls.load(rows(tmp_path, {"expected": []}))


def test_without_a_data_set_dialogues_with_held_out_tools_are_generated_the_same_each_time() -> None:
    for load in (calls.load, react.load):
        first, again = load(Settings()), load(Settings())
        assert first.questions == again.questions
        assert len(first.questions) > 100
        assert "generated" in first.notes[0]


# --- react ---


def judged(tmp_path: Path, text: str, number: int = 0, **more: Any) -> Judgement:
    task = react.load(rows(tmp_path, REACT))
    return task.judge(task.questions[number], said(text=text, **more))


ACTION = 'Action: look\nAction Input: {"path": "/a.jpg", "times": 2}\nObservation:'


@pytest.mark.parametrize(
    ("text", "scores", "failure"),
    [
        (ACTION, (1, 1, 1, 1), ""),
        (ACTION.replace("/a", "/b"), (0, 1, 0.75, 1), "wrong value"),  # a full and a half match of 2 arguments
        (ACTION.replace(', "times": 2', ""), (0, 1, 2 / 3, 1), "missing argument"),
        (ACTION.replace("look", "listen"), (0, 0, 1, 1), "wrong tool"),
        (ACTION.removesuffix("\nObservation:"), (0, 1, 1, 0), "does not stop"),
        (f"Final Answer: x\n{ACTION}", (0, 1, 1, 0), "does not stop"),
        ("Final Answer: a cat", (0, 0, 0, 0), "no call"),
    ],
)
def test_an_action_is_judged_by_name_arguments_and_where_it_stops(
    tmp_path: Path, text: str, scores: tuple[float, ...], failure: str
) -> None:
    found = judged(tmp_path, text)
    names = ("step", "action_em", "argument_f1", "stop")
    assert tuple(found.scores[name] for name in names) == pytest.approx(scores)
    assert found.failure == failure


@pytest.mark.parametrize(
    ("text", "rouge", "failure"),
    [
        ("Thought: done\nFinal Answer: The cat sat.", 1, ""),
        ("Final Answer: the cat", 0.8, ""),
        ("The cat sat.", 1, "no final answer"),
        (ACTION, 0, "too many calls"),
        ("Observation:", 0, "no final answer"),
    ],
)
def test_a_final_answer_is_judged_by_rouge_and_by_coming_without_an_action(
    tmp_path: Path, text: str, rouge: float, failure: str
) -> None:
    found = judged(tmp_path, text, number=1)
    assert (found.scores["rouge_l"], found.failure) == (pytest.approx(rouge), failure)


@pytest.mark.parametrize(
    ("text", "score"),
    [("police kill the gunman", 0.75), ("the gunman kill police", 0.5), ("the gunman police killed", 0.5)],
)
def test_rouge_l_is_that_of_the_paper(text: str, score: float) -> None:
    assert react.rouge_l(text, "police killed the gunman") == score  # Lin 2004, section 3.1


def test_rouge_l_counts_chinese_by_characters() -> None:
    assert react.tokens("图片Z9中有火点") == ["图", "片", "z9", "中", "有", "火", "点"]
    assert react.rouge_l("有火", "没有火") == pytest.approx(0.8)


# --- statistics ---


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (9, 10, 0.5958, 0.9821)],
)
def test_a_share_has_wilsons_interval(right: int, n: int, low: float, high: float) -> None:
    found = statistics.interval([1.0] * right + [0.0] * (n - right))
    assert (found.mean, found.n) == (right / n, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_mean_of_other_scores_has_the_bootstraps_interval_close_to_the_normal_one() -> None:
    values = [index / 99 for index in range(100)]
    found = statistics.interval(values)
    half = 1.96 * 0.2930 / 10  # the standard deviation of the values is 0.2930
    assert found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == (pytest.approx(0.5 - half, abs=0.006), pytest.approx(0.5 + half, abs=0.006))
    assert statistics.interval(values) == found


def test_a_weighted_mean_of_one_group_is_that_group_and_of_two_equal_ones_is_narrower() -> None:
    one = statistics.wilson(30, 100)
    assert statistics.weighted([(3.0, one)])[:3] == pytest.approx(one[:3])
    both = statistics.weighted([(1.0, one), (1.0, one)])
    assert both.n == 200
    assert both.high - both.low == pytest.approx((one.high - one.low) / 2**0.5)


def test_a_paired_difference_has_an_interval_of_some_width_even_where_no_question_differs() -> None:
    found = statistics.difference([0.0] * 60)
    assert (found.mean, found.low, found.high) == (0, pytest.approx(-0.0316, abs=1e-4), pytest.approx(0.0316, abs=1e-4))
    found = statistics.difference([1.0] * 10)
    assert found.mean == 1
    assert found.low < found.high == 1
    some = statistics.difference([1.0] * 10 + [0.0] * 30)
    assert some.mean == 0.25
    assert (some.low, some.high) == (pytest.approx(0.12, abs=0.03), pytest.approx(0.39, abs=0.03))


# --- the runner ---


def script(*replies: object):
    """A chat that gives one reply after another, or raises it."""
    left = list(replies)

    def chat(messages, tools=(), params=None, template_kwargs=None) -> Iterator[Delta]:
        chat.asked.append((messages, tools, params))
        reply = left.pop(0)
        if isinstance(reply, Exception):
            raise reply
        yield Delta(str(reply))
        yield Delta(finish="stop", usage=Usage(3, 1))

    chat.asked = []
    return chat


def echo_task(*questions: Question) -> Task:
    def judge(question: Question, answer: Answer) -> Judgement:
        right = answer.message.content == question.expected
        return Judgement(right, {"right": float(right), "length": 3.0}, "" if right else "wrong answer")

    return Task("echo", questions, judge, (Metric("right", "right"), Metric("length", "length", share=False)))


def question(id: str, expected: str = "yes", group: str = "", tools: tuple[Tool, ...] = ()) -> Question:
    return Question(id, (Message("user", id),), tools, expected, group)


def run(chat, task: Task, *variants: Variant, **model: Any) -> list:
    wanted = runner.jobs([(task, task.questions)], variants or (Variant(),))
    return list(runner.run(runner.Model(chat, SamplingParams(temperature=0.7), **model), wanted, workers=1))


def test_answers_are_greedy_unless_a_seed_samples_them() -> None:
    chat = script("yes", "yes", "no")
    records = run(chat, echo_task(question("a")), Variant(), Variant(seed=1), Variant(seed=2))
    assert [params.temperature for _, _, params in chat.asked] == [0.0, 0.7, 0.7]
    assert [params.seed for _, _, params in chat.asked] == [None, 1, 2]
    assert [record.correct for record in records] == [True, True, False]


def test_a_question_that_the_model_cannot_take_counts_as_wrong_and_a_lost_server_ends_the_run() -> None:
    [record] = run(script(ValueError("the prompt\nis too long")), echo_task(question("a", expected="")))
    assert (record.correct, record.failure, record.error) == (False, "error", "the prompt is too long")
    assert record.scores == {"right": 0.0}  # a score that is no share has no value
    with pytest.raises(OSError, match="gone"):
        run(script(OSError("gone")), echo_task(question("a")))


def test_guided_answers_have_the_grammar_of_their_tools_and_questions_without_tools_are_asked_once() -> None:
    made = []
    tool = Tool({"name": "look"})
    chat = script("yes", "yes", "yes", "yes", "yes")
    task = echo_task(question("a", tools=(tool,)), question("b", tools=(tool,)), question("c"))
    variants = Variant(), Variant(guided=True)
    guide = cast(Guide, object())

    def make(tools):
        made.append(tools)
        return guide

    records = run(chat, task, *variants, guide=make)
    assert Counter((record.id, record.guided) for record in records) == {
        ("a", False): 1, ("a", True): 1, ("b", False): 1, ("b", True): 1, ("c", False): 1,
    }  # fmt: skip
    assert made == [(tool,)]  # one grammar for both questions
    assert sum(params.guide is guide for _, _, params in chat.asked) == 2


def test_a_smaller_limit_selects_a_part_of_a_larger_one_with_equal_groups() -> None:
    questions = [question(f"{group}{number}", group=group) for group in "ab" for number in range(10)]
    four, ten = (runner.select(questions, limit) for limit in (4, 10))
    assert {each.id for each in four} < {each.id for each in ten}
    assert Counter(each.group for each in ten) == {"a": 5, "b": 5}
    assert runner.select(questions, None) == questions
    with pytest.raises(ValueError, match="two questions have the id a0"):
        runner.select([questions[0], questions[0]], None)


def test_a_store_keeps_complete_lines_and_refuses_answers_to_other_questions(tmp_path: Path) -> None:
    task = echo_task(question("a"), question("b"))
    store = Store(tmp_path)
    for record in run(script("yes", "no"), task):
        store.add(record)
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"task": "ec')
    again = Store(tmp_path)
    assert again.records == store.records
    wanted = runner.jobs([(task, task.questions)], (Variant(),))
    assert runner.pending(wanted, again) == []
    other = echo_task(question("a", expected="other"))
    with pytest.raises(ValueError, match="answers to another question a"):
        runner.pending(runner.jobs([(other, other.questions)], (Variant(),)), again)
    (tmp_path / "answers.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"answers\.jsonl:1: not a record"):
        Store(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "markup"),
    [
        ("hermes", 'Sure <tool_call>{"name": ', True),
        ("hermes", "Sure.", False),
        ("react_en", "Observation:", True),
        ("react_en", "I observe.", False),
        ("llama4", "see [1] there", False),
        (None, "<tool_call>{", True),
        (None, "see [1] and Action: go", False),
    ],
)
def test_markup_of_a_call_that_does_not_parse_is_found(name: str | None, text: str, markup: bool) -> None:
    syntax = tool_format(name).syntax if name else None
    assert runner.has_markup(Message("assistant", text), syntax) is markup


def test_an_unknown_task_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="--tasks cals: no such task: did you mean calls"):
        registry.check("cals")
    for name in ("calls:x", "react:x"):
        with pytest.raises(ValueError, match="has no variants"):
            registry.load(name, Settings())


def test_answers_of_an_earlier_version_belong_to_the_same_questions() -> None:
    asked = (Message("user", "hi"), Message("assistant", "", (ToolCall("f", "{}"),)))
    assert fingerprint(Question("a", asked)) == "ecd35fe34554c758"
