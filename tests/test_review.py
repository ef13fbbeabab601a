"""`swift data review` through its front door: what is typed, what is shown, and the rows that come out of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift import cli
from swift.data.linting import lint

Review = Callable[..., tuple[int, str, str]]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Arithmetic.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                "required": ["a", "b"],
            },
        },
    }
    for name in ("add", "divide")
]


@pytest.fixture
def review(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Review:
    """Runs `swift data review traces.jsonl` with `typed` piped in; returns its exit code and what it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(typed: str, *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = cli.main(["data", "review", "traces.jsonl", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def call(name: str, id: str, **given: object) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}


def trace(id: str, outcome: str, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    asked = [{"role": "user", "content": f"Question {id}"}]
    return {
        "messages": [*asked, *messages],
        "tools": TOOLS,
        "trace": {"id": id, "task": id, "outcome": outcome, "settings": {}, "calls": [], **more},
    }


def reply(content: str = "", *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **more}


def result(id: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "name": "divide", "content": content}


ANSWERED = trace("one", "answer", reply("", call("divide", "c1", a=6, b=4)), result("c1", "1.5"), reply("It is 1.5."))
WRONG = trace("two", "answer", reply("", call("divide", "c1", a=6, b=3)), result("c1", "2.0"), reply("It is 2.0."))
OPEN = trace("three", "max_turns", reply("", call("divide", "c1", a=1, b=2)), result("c1", "0.5"))
FAILED = trace("four", "error", error="the prompt is too long")


def given(tmp_path: Path, *rows: object) -> None:
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(tmp_path: Path, name: str = "traces.reviewed.jsonl") -> list[dict[str, Any]]:
    file = tmp_path / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def without_review(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "trace": {key: value for key, value in row["trace"].items() if key != "review"}}


def test_rows_are_kept_as_they_are_or_go_to_the_dropped(review: Review, tmp_path: Path) -> None:
    given(tmp_path, ANSWERED, WRONG)
    code, out, _ = review("k\nd\n")
    assert code == 0
    assert "1/2  one  answer" in out and '  2   assistant  -> divide({"a": 6, "b": 4})  (call 1)' in out
    assert (
        "1 kept, 1 dropped\nrows to train on: traces.reviewed.jsonl\ndropped rows: traces.reviewed.dropped.jsonl" in out
    )
    [kept], [dropped] = rows(tmp_path), rows(tmp_path, "traces.reviewed.dropped.jsonl")
    assert without_review(kept) == ANSWERED and without_review(dropped) == WRONG
    assert (kept["trace"]["review"]["decision"], dropped["trace"]["review"]["decision"]) == ("kept", "dropped")
    assert list(lint([tmp_path / "traces.reviewed.jsonl"])) == []


def test_a_corrected_call_is_the_last_message_that_is_trained(review: Review, tmp_path: Path) -> None:
    given(tmp_path, WRONG)
    _, out, _ = review('c 1\n\n{"a": 6, "b": 4}\n\nk\n')
    [row] = rows(tmp_path)
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert row["messages"][-1]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "divide", "arguments": '{"a": 6, "b": 4}'}}
    ]
    assert row["trace"]["review"]["decision"] == "corrected"
    assert "written as corrected: k goes on" in out and "1 corrected\n" in out
    assert list(lint([tmp_path / "traces.reviewed.jsonl"])) == []


def test_a_corrected_call_may_go_on_with_its_result_and_the_answer(review: Review, tmp_path: Path) -> None:
    both = reply("", call("divide", "c1", a=6, b=3), call("divide", "c2", a=1, b=4), weight=0)
    given(tmp_path, trace("x", "answer", both, result("c1", "2.0"), result("c2", "0.25"), reply("2.0 and 0.25")))
    review('c 1\nadd\n{"a": 6, "b": 3}\n9.0\n9.0\\nand 0.25\nk\n')
    [row] = rows(tmp_path)
    assert [call["function"]["name"] for call in row["messages"][1]["tool_calls"]] == ["add", "divide"]
    assert "weight" not in row["messages"][1]
    assert [message["content"] for message in row["messages"][2:]] == ["9.0", "0.25", "9.0\nand 0.25"]
    assert list(lint([tmp_path / "traces.reviewed.jsonl"])) == []


def test_the_right_answer_replaces_the_last_one_or_is_added_where_none_is(review: Review, tmp_path: Path) -> None:
    given(tmp_path, WRONG, OPEN, FAILED)
    review("a\nIt is two.\nk\na\nA half.\nk\na\nI do not know.\nk\n")
    two, three, four = rows(tmp_path)
    assert [message["content"] for message in two["messages"]] == ["Question two", "", "2.0", "It is two."]
    assert [message["content"] for message in three["messages"]] == ["Question three", "", "0.5", "A half."]
    assert [message["content"] for message in four["messages"]] == ["Question four", "I do not know."]
    assert list(lint([tmp_path / "traces.reviewed.jsonl"])) == []


def test_a_wrong_step_stays_and_has_weight_0(review: Review, tmp_path: Path) -> None:
    steps = (reply("", call("divide", "c1", a=1, b=0)), result("c1", "Error"), reply("", call("add", "c2", a=1, b=2)))
    given(tmp_path, trace("x", "answer", *steps, {**result("c2", "3"), "name": "add"}, reply("3")))
    _, out, _ = review("w 2\nw 3\nw 4 6\nw 6\nk\n")
    [row] = rows(tmp_path)
    assert [message.get("weight") for message in row["messages"]] == [None, 0, None, 0, None, None]
    assert "not done: step 3 is not a reply of the model: its replies are 2, 4, 6" in out
    assert "not written yet: every reply is marked wrong" in out
    assert list(lint([tmp_path / "traces.reviewed.jsonl"])) == []


def test_a_run_without_an_answer_is_kept_up_to_its_last_reply(review: Review, tmp_path: Path) -> None:
    given(tmp_path, OPEN, FAILED)
    _, out, _ = review("k\nk\nd\n")
    [row] = rows(tmp_path)
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert "2/2  four  error (the prompt is too long)" in out
    assert "not done: the row has no reply: add the right answer, or drop it" in out
    assert [finding.rule for finding in lint([tmp_path / "traces.reviewed.jsonl"])] == []


def test_undo_takes_back_a_change_and_then_goes_back_to_the_row_before(review: Review, tmp_path: Path) -> None:
    given(tmp_path, ANSWERED, WRONG, OPEN)
    review("k\nd\nu\nw 2\na\nFour.\nu\nk\nk\n")
    one, two, three = rows(tmp_path)
    assert not rows(tmp_path, "traces.reviewed.dropped.jsonl")
    assert [row["trace"]["review"]["decision"] for row in (one, two, three)] == ["kept", "corrected", "kept"]
    assert (two["messages"][1]["weight"], two["messages"][-1]["content"]) == (0, "It is 2.0.")


def test_the_end_of_the_input_loses_nothing_and_the_next_review_goes_on(review: Review, tmp_path: Path) -> None:
    given(tmp_path, ANSWERED, ANSWERED, WRONG, OPEN)
    review("k\ns\nw 2\n")  # the first is kept, the second skipped, the third marked
    assert [row["trace"]["id"] for row in rows(tmp_path)] == ["one", "two"]
    _, out, _ = review("d\nq\n")
    assert "2 of 4 rows are reviewed" in out and "2/4  one" in out and "4/4  three" in out
    assert "1 dropped; left: 1" in out
    (tmp_path / "traces.reviewed.jsonl").open("a").write('{"messages": [')
    _, out, err = review("k\n")
    assert "removed the last line, which was written only in part" in err and "3 of 4 rows are reviewed" in out
    assert [row["trace"]["id"] for row in rows(tmp_path)] == ["one", "two", "three"]
    assert "4 of 4 rows are reviewed" in review("")[1]


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("c 2\n", "there is no call 2: the row has 1"),
        ("c x\n", "which call? Write c and its number"),
        ("c\ndivid\n\n", "there is no tool 'divid': did you mean divide?"),
        ("c\n\n{\n", "the arguments are not JSON"),
        ("c\n\n[1]\n", "the arguments must be a JSON object"),
        ('c\n\n{"a": "x", "b": 1}\n', "misfit-arguments: message 2, divide"),
        ('c\n\n{"a": 1, "b": 1}\n1\n \n', "the answer is empty"),
        ("c\n\n", "the row is as it was"),
        ("w\n", "which step? Write w and its number"),
        ("w 9\n", "step 9 is not a reply of the model: its replies are 2, 4"),
        ("u\n", "there is nothing to undo"),
        ("x\n", "there is no command 'x': ? lists them"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    review: Review, tmp_path: Path, typed: str, complaint: str
) -> None:
    given(tmp_path, ANSWERED)
    code, out, _ = review(typed)
    assert code == 0 and "not done: " in out and complaint in out
    assert rows(tmp_path) == []


def test_failures_confidence_and_expected_answers_are_shown(review: Review, tmp_path: Path) -> None:
    calls = [{"name": "divide", "failure": "timeout", "seconds": 30.0, "cut": 0, "confidence": 0.42}]
    long = trace("x", "answer", *ANSWERED["messages"][1:3], reply("a" * 500), calls=calls, expected="1.5")
    given(tmp_path, long)
    _, out, _ = review("?\nf\n")
    assert "1/1  x  answer  expected: 1.5" in out
    assert "(call 1, 42% sure, timeout)" in out and "... (+100 characters)" in out and "a" * 500 in out
    assert "mark step N as wrong" in out


def test_what_a_tool_returned_does_not_act_on_the_terminal(review: Review, tmp_path: Path) -> None:
    given(tmp_path, trace("x", "answer", *ANSWERED["messages"][1:2], result("c1", "\x1b[2Jgone"), reply("1.5")))
    out = review("k\n")[1]
    assert "\\u001b[2Jgone" in out and "\x1b[2J" not in out


def test_other_rows_with_messages_can_be_reviewed_and_other_shapes_are_named(review: Review, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    given(tmp_path, {"query": "q", "response": "r"}, {"messages": turns})
    _, _, err = review("k\n")
    assert "traces.jsonl:1: cannot be reviewed: not a row with 'messages'" in err
    assert rows(tmp_path)[0]["messages"] == turns
    assert list(lint([tmp_path / "traces.reviewed.jsonl"])) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--output", "traces.jsonl"), "this is the file to review"),
        (("--output", "other.jsonl"), "row 1 is not a reviewed row"),
        (("more.jsonl",), "unexpected"),
    ],
)
def test_wrong_input_is_one_line(review: Review, tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    given(tmp_path, ANSWERED)
    (tmp_path / "other.jsonl").write_text(json.dumps(ANSWERED) + "\n")
    code, out, err = review("k\n", *words)
    assert (code, out) == (2, "") and err.count("\n") == 1 and complaint in err
