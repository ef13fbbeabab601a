"""`swift agent run` through its front door: a scripted model behind a server on the loopback, real tools and files."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_server import Scripted, served

from swift import cli
from swift.assembly import agent_setup
from swift.chat import Delta, Message, ToolCall, Usage
from swift.data.linting import lint
from swift.serve.server import create_app

CALCULATOR = '''
def divide(a: float, b: float) -> float:
    """Divide two numbers."""
    return a / b
'''
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `swift agent run` in an empty folder with tools.py; returns its exit code and what it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "tools.py").write_text(CALCULATOR)

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main(["agent", "run", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def said(text: str) -> list[Delta]:
    return [Delta(text, finish="stop", usage=Usage(10, 3))]


def called(*calls: tuple[str, dict[str, Any]]) -> list[Delta]:
    made = [Delta(tool_call=ToolCall(name, json.dumps(given), f"c{n}")) for n, (name, given) in enumerate(calls)]
    return [*made, Delta(finish="tool_calls", usage=Usage(10, 5))]


def divider(messages: Sequence[Message]) -> Iterator[Delta]:
    """Divides the two numbers of the task, and answers with the result."""
    if messages[-1].role == "tool":
        return iter(said(f"It is {messages[-1].content}."))
    a, b = messages[-1].content.split("/")
    return iter(called(("divide", {"a": float(a), "b": float(b)})))


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def tasks(file: Path, *given: object) -> Path:
    file.write_text("".join(json.dumps(each) + "\n" for each in given))
    return file


def test_one_task_shows_its_calls_and_prints_the_answer_alone_on_standard_output(swift: Run, tmp_path: Path) -> None:
    with served(create_app(Scripted(divider), "tiny")) as url:
        code, out, err = swift("--endpoint", f"{url}/v1", "--tools", "tools.py", "--task", "6/4")
    assert (code, out) == (0, "It is 1.5.\n")
    assert 'assistant  -> divide({"a": 6.0, "b": 4.0})' in err
    assert "divide  1.5" in err
    assert "1 of 1 tasks: 1 answer\n1 call\n8 tokens in " in err
    [trace] = rows(next((tmp_path / "output" / "agent").glob("*.jsonl")))
    assert [message["role"] for message in trace["messages"]] == ["user", "assistant", "tool", "assistant"]


def test_traces_are_rows_that_lint_and_training_read_as_they_are(swift: Run, tmp_path: Path) -> None:
    given = tasks(
        tmp_path / "tasks.jsonl",
        "6/4",
        {"task": "1/0", "id": "zero", "expected": "an error"},
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "8/2"}]},
    )
    with served(create_app(Scripted(divider), "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "tools.py", "--system", "Divide.", "--seed", 7)
        code, out, err = swift(*words, "--tasks", given, "--output", "traces.jsonl")
    assert (code, out) == (0, "")
    assert "3 of 3 tasks: 3 answer\n3 calls, 1 failed (1 raised)\n" in err
    assert list(lint([tmp_path / "traces.jsonl"])) == []
    made = {row["messages"][1]["content"]: row for row in rows(tmp_path / "traces.jsonl")}
    assert {task: row["messages"][0]["content"] for task, row in made.items()} == {
        "6/4": "Divide.",
        "1/0": "Divide.",
        "8/2": "Be kind.",
    }
    trace = made["1/0"]["trace"]
    assert (trace["id"], trace["expected"], trace["outcome"], trace["replies"]) == ("zero", "an error", "answer", 2)
    assert trace["usage"] == {"prompt_tokens": 20, "completion_tokens": 8}
    [call] = trace["calls"]
    assert (call["name"], call["failure"], call["cut"]) == ("divide", "raised", 0)
    settings = trace["settings"]
    assert (settings["model"], settings["backend"]) == ("tiny", f"{url}/v1")
    assert settings["tools"]["tools"] == ["tools.py"]
    assert settings["sampling"] == {"seed": 7, "stop": []}  # the rest is the server's
    assert made["1/0"]["messages"][2] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": made["1/0"]["messages"][3]["tool_call_id"],
                "type": "function",
                "function": {"name": "divide", "arguments": '{"a": 1.0, "b": 0.0}'},
            }
        ],
    }
    assert [tool["function"]["name"] for tool in made["1/0"]["tools"]] == ["divide"]


def test_the_tools_of_a_row_have_the_order_in_which_the_model_read_them(swift: Run, tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text('def ping() -> str:\n    """Answer."""\n    return "pong"\n')
    replies = iter([called(("ping", {})), said("ok")])
    with served(create_app(Scripted(lambda messages: iter(next(replies))), "tiny")) as url:
        swift("--endpoint", f"{url}/v1", "--tools", "tools.py", "more.py", "--task", "x", "--output", "t.jsonl")
    [row] = rows(tmp_path / "t.jsonl")
    assert [tool["function"]["name"] for tool in row["tools"]] == ["divide", "ping"]


def test_a_run_again_does_what_is_left_and_repairs_a_line_that_was_cut_off(swift: Run, tmp_path: Path) -> None:
    chat, traces = Scripted(divider), tmp_path / "traces.jsonl"
    few, more = tasks(tmp_path / "few.jsonl", "1/2", "1/4"), tasks(tmp_path / "more.jsonl", "1/2", "1/8", "1/4")
    with served(create_app(chat, "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "tools.py", "--output", traces, "--parallel", 1)
        swift(*words, "--tasks", few)
        traces.write_bytes(traces.read_bytes()[:-30])  # the second row was written in part
        _, _, err = swift(*words, "--tasks", more)
        asked = [request[0][0].content for request in chat.asked[4::2]]
        _, _, again = swift(*words, "--tasks", more)
    assert "removed the last line, which was written only in part" in err and "1 of 3 tasks are done" in err
    assert asked == ["1/8", "1/4"]
    assert "3 of 3 tasks are done" in again
    assert [row["messages"][0]["content"] for row in rows(traces)] == ["1/2", "1/8", "1/4"]


def test_the_error_of_one_task_is_its_outcome_and_the_task_runs_again_next_time(swift: Run, tmp_path: Path) -> None:
    broken = [True]

    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        if broken[0] and "/3" in messages[0].content:
            raise ValueError("the prompt is too long")
        return divider(messages)

    given = tasks(tmp_path / "tasks.jsonl", "1/2", "6/3", "1/4")
    with served(create_app(Scripted(script), "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "tools.py", "--tasks", given, "--output", "t.jsonl")
        code, _, err = swift(*words)
        outcomes = {row["messages"][0]["content"]: row["trace"]["outcome"] for row in rows(tmp_path / "t.jsonl")}
        broken[0] = False
        code_again, _, err_again = swift(*words)
    assert code == 1 and outcomes == {"1/2": "answer", "6/3": "error", "1/4": "answer"}
    assert ": error (" in err and "the prompt is too long), 0 calls" in err
    assert code_again == 0 and "runs that ended with an error and run again: 1\n" in err_again
    assert {row["trace"]["outcome"] for row in rows(tmp_path / "t.jsonl")} == {"answer"}
    assert len(rows(tmp_path / "t.jsonl")) == 3


def test_runs_without_an_answer_are_complete_rows_that_are_not_trained(swift: Run, tmp_path: Path) -> None:
    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        if messages[0].content == "cut":
            return iter([Delta("It is", finish="length", usage=Usage(1, 2))])
        if messages[0].content == "silent":
            return iter(said(""))
        return iter(called(("divide", {"a": 1, "b": len(messages)})))

    given = tasks(tmp_path / "tasks.jsonl", "cut", "silent", "on and on")
    with served(create_app(Scripted(script), "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "tools.py", "--tasks", given, "--output", "t.jsonl")
        code, _, _ = swift(*words, "--max_turns", 2)
    made = {row["messages"][0]["content"]: row for row in rows(tmp_path / "t.jsonl")}
    assert code == 0
    assert {name: row["trace"]["outcome"] for name, row in made.items()} == {
        "cut": "length",
        "silent": "empty",
        "on and on": "max_turns",
    }
    assert [message["role"] for message in made["on and on"]["messages"][1:]] == ["assistant", "tool"] * 2
    found = list(lint([tmp_path / "t.jsonl"]))
    assert [(each.rule, each.warning) for each in found] == [("unanswered-run", True)] * 3


def test_a_reply_whose_call_could_not_run_as_written_is_not_trained(swift: Run, tmp_path: Path) -> None:
    replies = iter([called(("divided", {"a": 1})), called(("divide", {"a": 1})), *map(list, divided())])

    with served(create_app(Scripted(lambda messages: iter(next(replies))), "tiny")) as url:
        code, _, _ = swift("--endpoint", f"{url}/v1", "--tools", "tools.py", "--task", "x", "--output", "t.jsonl")
    [row] = rows(tmp_path / "t.jsonl")
    assert code == 0 and list(lint([tmp_path / "t.jsonl"])) == []
    assert [call["failure"] for call in row["trace"]["calls"]] == ["unknown tool", "bad arguments", ""]
    assert [message.get("weight") for message in row["messages"] if message["role"] == "assistant"] == [
        0,
        0,
        None,
        None,
    ]


def divided() -> list[list[Delta]]:
    return [called(("divide", {"a": 1, "b": 2})), said("0.5")]


def test_runs_go_side_by_side_and_each_keeps_its_own_dialogue(swift: Run, tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=30)

    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        together.wait()  # passes only if three runs wait for their replies at the same time
        return divider(messages)

    given = tasks(tmp_path / "tasks.jsonl", "1/2", "1/4", "1/8")
    with served(create_app(Scripted(script), "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "tools.py", "--tasks", given, "--output", "t.jsonl")
        assert swift(*words, "--parallel", 3)[0] == 0
    answers = {row["messages"][0]["content"]: row["messages"][-1]["content"] for row in rows(tmp_path / "t.jsonl")}
    assert answers == {"1/2": "It is 0.5.", "1/4": "It is 0.25.", "1/8": "It is 0.125."}


def test_a_doubtful_call_that_the_model_did_not_make_is_counted_and_kept(swift: Run, tmp_path: Path) -> None:
    doubtful = ToolCall("divide", '{"a": 1, "b": 2}', "c1", 0.03)
    chat = Scripted(lambda _: iter([Delta("Which two?", finish="stop", usage=Usage(10, 3), declined=(doubtful,))]))
    given = tasks(tmp_path / "tasks.jsonl", "Divide!")
    with served(create_app(chat, "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "tools.py", "--tasks", given, "--output", "t.jsonl")
        _, _, err = swift(*words)
    [row] = rows(tmp_path / "t.jsonl")
    assert row["trace"]["declined_calls"] == [{"name": "divide", "confidence": 0.03}]
    assert "answer, 0 calls (1 doubtful not made), " in err
    assert [each["role"] for each in row["messages"]] == ["user", "assistant"] and not row["trace"]["calls"]


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_keeps_the_runs_that_are_finished(swift: Run, tmp_path: Path, presses: int) -> None:
    interrupted, over = threading.Event(), threading.Event()

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # also wakes a read that waits

    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        if messages[0].content == "1/4" and not interrupted.is_set():
            interrupted.set()
            interrupt()
            if presses == 2:  # while the first waits for this run
                time.sleep(0.5)
                interrupt()
                over.wait(60)
        return divider(messages)

    given = tasks(tmp_path / "tasks.jsonl", "1/2", "1/4", "1/8")
    with served(create_app(Scripted(script), "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "tools.py", "--tasks", given, "--output", "t.jsonl")
        code, _, err = swift(*words, "--parallel", 1)
        over.set()
    assert code == 130
    assert rows(tmp_path / "t.jsonl")[0]["messages"][-1]["content"] == "It is 0.5."
    assert "tasks: " in err and "traces: t.jsonl" in err


def test_the_time_limit_of_a_run_ends_a_reply(swift: Run, tmp_path: Path) -> None:
    over = threading.Event()

    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        while not over.wait(0.01):
            yield Delta("and ")

    with served(create_app(Scripted(script), "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "tools.py", "--task", "x", "--output", "t.jsonl")
        code, out, _ = swift(*words, "--max_seconds", 0.2)
        over.set()
    [row] = rows(tmp_path / "t.jsonl")
    assert (code, out, row["trace"]["outcome"]) == (1, "", "max_seconds")
    assert row["messages"][-1]["content"].startswith("and and")


def test_equal_tasks_are_runs_of_their_own_with_seeds_of_their_own(swift: Run, tmp_path: Path) -> None:
    chat = Scripted(divider)
    with served(create_app(chat, "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "tools.py", "--output", "t.jsonl", "--parallel", 1)
        swift(*words, "--tasks", tasks(tmp_path / "tasks.jsonl", "1/2", "1/2"), "--seed", 5)
    assert [request[2].seed for request in chat.asked] == [5, 5, 6, 6]
    first, second = (row["trace"]["id"] for row in rows(tmp_path / "t.jsonl"))
    assert second == f"{first}-2"


def test_a_task_may_offer_some_of_the_tools(swift: Run, tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text('def ping() -> str:\n    """Answer."""\n    return "pong"\n')
    chat = Scripted(lambda messages: iter(said("ok")))
    given = tasks(tmp_path / "tasks.jsonl", {"task": "x", "tools": ["ping"]}, {"task": "y", "tools": []}, "z")
    with served(create_app(chat, "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "tools.py", "more.py", "--output", "t.jsonl", "--parallel", 1)
        assert swift(*words, "--tasks", given)[0] == 0
    assert [[tool.name for tool in request[1]] for request in chat.asked] == [["ping"], [], ["divide", "ping"]]


SHOP = """
import swift

@swift.read_only
def price(article: str) -> float:
    'Look up a price.'
    return 2.5

def order(article: str) -> str:
    'Order an article.'
    open('ordered', 'w').close()
    return 'ordered'
"""


def test_calls_that_somebody_would_confirm_are_declined_since_nobody_is_there(swift: Run, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    replies = iter([called(("price", {"article": "tea"}), ("order", {"article": "tea"})), said("Sorry.")])
    with served(create_app(Scripted(lambda messages: iter(next(replies))), "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "shop.py", "--task", "Buy tea.", "--output", "t.jsonl")
        code, _, err = swift(*words, "--confirm", "writes")
    [row] = rows(tmp_path / "t.jsonl")
    assert code == 0 and not (tmp_path / "ordered").exists()
    assert "--confirm writes: nobody is there to confirm, so calls that may write are declined\n" in err
    assert [call["failure"] for call in row["trace"]["calls"]] == ["", "declined"]


def test_of_many_tools_those_that_fit_are_offered_and_written_to_the_row(swift: Run, tmp_path: Path) -> None:
    kinds = ("apples", "pears", "plums", "cherries")
    code = "".join(f'def buy_{kind}(n: int) -> int:\n    """Buy {kind}."""\n    return n\n' for kind in kinds)
    (tmp_path / "shop.py").write_text(code)
    chat = Scripted(lambda messages: iter(said("ok")))
    with served(create_app(chat, "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "shop.py", "--max_tools", 1, "--output", "t.jsonl")
        assert swift(*words, "--task", "I want plums.")[0] == 0
    assert [tool.name for tool in chat.asked[0][1]] == ["buy_plums"]
    [row] = rows(tmp_path / "t.jsonl")
    assert [tool["function"]["name"] for tool in row["tools"]] == ["buy_plums"]


NOWHERE = ("--endpoint", "http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--tools", "tools.py"), "swift agent run needs --task or --tasks"),
        (("--tools", "tools.py", "--task", "x", "--tasks", "t"), "--task or --tasks, not both"),
        (("--tools", "tools.py", "--task", " "), "--task is empty"),
        (("--task", "x"), "needs --tools"),
        (("--tools", "no.py", "--task", "x"), "no.py: no such file"),
        (("--tools", "tools.json", "--task", "x"), "tool 'divid' of tools.json is only described, and nobody types"),
        (("--tools", "tools.py", "--tasks", "no.jsonl"), "no.jsonl: no such file"),
        (("--tools", "tools.py", "--tasks", "bad.jsonl"), "bad.jsonl:2: not JSON"),
        (("--tools", "tools.py", "--tasks", "typo.jsonl"), "typo.jsonl:1: the key 'taks' has no effect: did you mean"),
        (("--tools", "tools.py", "--tasks", "done.jsonl"), "done.jsonl:1: the messages end with the assistant"),
        (("--tools", "tools.py", "--tasks", "twice.jsonl"), "twice.jsonl:2: the id 'a' is that of line 1 too"),
        (
            ("--tools", "tools.py", "--tasks", "other.jsonl"),
            "offers the tool 'divid', which is only described",
        ),
        (("--tools", "tools.py", "--task", "x", "--max_turns", "0"), "--max_turns 0: must be 1 or more"),
        (("--tools", "tools.py", "--task", "x", "--max_seconds", "0"), "--max_seconds 0: must be more than 0"),
        (("--tools", "tools.py", "--task", "x", "--stream", "true"), "--stream has no effect"),
        (("--tools", "tools.py", "--task", "x", "--parallel", "2"), "--parallel has no effect"),
        (("--tools", "tools.py", "--task", "x", *NOWHERE, "--dtype", "bf16"), "--dtype has no effect with --endpoint"),
        (("--tools", "tools.py", "--task", "x", *NOWHERE), "no server can be reached there"),
    ],
)
def test_wrong_input_is_one_line(swift: Run, tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    (tmp_path / "tools.json").write_text('[{"name": "divid"}]')
    (tmp_path / "bad.jsonl").write_text('"x"\n{"task": \n')
    tasks(tmp_path / "typo.jsonl", {"taks": "x"})
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    tasks(tmp_path / "done.jsonl", {"messages": turns})
    tasks(tmp_path / "twice.jsonl", {"task": "x", "id": "a"}, {"task": "y", "id": "a"})
    tasks(tmp_path / "other.jsonl", {"task": "x", "id": "a", "tools": [{"name": "divid"}]})
    code, out, err = swift(*words)
    assert (code, out) == (2, "") and err.count("\n") == 1 and complaint in err, err


def test_a_file_of_other_rows_or_other_settings_is_no_place_for_traces(swift: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"query": "q", "response": "r"}\n')
    with served(create_app(Scripted(divider), "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--tools", "tools.py", "--task", "1/2", "--output")
        code, _, err = swift(*words, "rows.jsonl")
        assert code == 2 and "--output rows.jsonl: row 1 is not a trace: choose another file" in err
        assert swift(*words, "t.jsonl")[0] == 0
        code, _, err = swift(*words, "t.jsonl", "--max_turns", 3)
    assert code == 2 and "its traces were made with max_turns 8, not 3: choose another file" in err


def test_no_key_and_no_password_reaches_a_trace(swift: Run, tmp_path: Path) -> None:
    words = ("--tools", "tools.py", "--task", "1/2", "--output")
    with served(create_app(Scripted(divider), "tiny", api_keys=("sk-secret",))) as url:
        assert swift("--endpoint", f"{url}/v1", "--api_key", "sk-secret", *words, "key.jsonl")[0] == 0

    def broken(messages: Sequence[Message]) -> Iterator[Delta]:
        raise ValueError("no")

    with served(create_app(Scripted(broken), "tiny")) as url:
        address = url.replace("http://", "http://me:hush@")
        assert swift("--endpoint", f"{address}/v1", *words, "password.jsonl")[0] == 1
    written = (tmp_path / "key.jsonl").read_text() + (tmp_path / "password.jsonl").read_text()
    assert url in written and "sk-secret" not in written and "hush" not in written


@pytest.mark.parametrize(
    ("target", "recorded"),
    [
        ("python notes_mcp.py notes", "python notes_mcp.py notes"),
        ("uvx server --token hush", "uvx server"),
        ("TOKEN=hush uvx server", ""),
        ("https://me:hush@example.com/mcp?key=hush", "https://example.com/mcp"),
    ],
)
def test_what_may_be_a_key_in_the_address_of_an_mcp_server_is_not_recorded(target: str, recorded: str) -> None:
    assert agent_setup.server_without_secrets(target) == recorded
