"""`swift data synth --endpoint` through its front door, with a server of ours on the loopback and a scripted writer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from test_server import Scripted, served

from swift import cli
from swift.chat import Delta, Message, Usage
from swift.serve.server import create_app
from swift.synth import written
from swift.synth.catalogue import Function, Parameter
from swift.synth.rounds import Call
from swift.synth.values import Said
from swift.synth.written import Wanted

CLOSED = "http://127.0.0.1:9/v1"
VALUE = re.compile(r'^- .*: "(.*)"$', re.MULTILINE)
DESCRIPTION = re.compile(r"^(?:(?:The call|Call 1): \w+|The user wants the same as .*): (.*)", re.MULTILINE)
Write = Callable[[Sequence[Message]], str]


def says_values(messages: Sequence[Message]) -> str:
    """A writer that says the values and nothing else; a thought if it is asked for one."""
    if "thinks" in messages[0].content:
        return "The user wants something, so it has to be looked up."
    values = VALUE.findall(messages[1].content)
    return "Do for me " + (" / ".join(values) or DESCRIPTION.findall(messages[1].content)[-1])


def scripted(write: Write = says_values) -> Scripted:
    def script(messages: Sequence[Message]) -> Iterator[Delta]:
        return iter([Delta(write(messages), finish="stop", usage=Usage(100, 10))])

    return Scripted(script)


def synth(out: Path, *words: object, rows: int = 12) -> int:
    common = (
        "--out",
        out,
        "-n",
        rows,
        "--chinese",
        0,
        "--direct_questions",
        0,
        "--kinds",
        '{"no_tool": 0.3, "missing": 0.3}',
    )
    return cli.main(["data", "synth", *map(str, (*common, *words))])


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]


def report_of(out: Path) -> dict:
    return json.loads(Path(f"{out}.report.json").read_text(encoding="utf-8"))["endpoint"]


def users(row: dict) -> list[str]:
    return [message["content"] for message in row["messages"] if message["role"] == "user"]


def calls(rows: Sequence[dict]) -> list[object]:
    return [message["tool_calls"] for row in rows for message in row["messages"] if message.get("tool_calls")]


def test_the_model_writes_the_questions_and_the_calls_stay(tmp_path: Path) -> None:
    chat = scripted()
    synth(tmp_path / "templates.jsonl", "--text_share", 0)
    with served(create_app(chat, "tiny")) as url:
        assert synth(tmp_path / "rows.jsonl", "--text_share", 0, "--endpoint", f"{url}/v1") == 0
    plain, rows = rows_of(tmp_path / "templates.jsonl"), rows_of(tmp_path / "rows.jsonl")
    assert calls(plain) == calls(rows) and plain != rows
    report = report_of(tmp_path / "rows.jsonl")
    asked = [question for row in rows for question in users(row) if question.startswith("Do for me ")]
    assert len(asked) == report["questions"] > 10
    assert report["prompt_tokens"] == 100 * len(chat.asked)
    assert cli.main(["data", "lint", str(tmp_path / "rows.jsonl")]) == 0


def test_thoughts_are_written_where_thoughts_are_wanted(tmp_path: Path) -> None:
    with served(create_app(scripted(), "tiny")) as url:
        synth(tmp_path / "rows.jsonl", "--thoughts", 1, "--text_share", 0, "--endpoint", f"{url}/v1")
    report = report_of(tmp_path / "rows.jsonl")
    text = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    assert text.count("Thought: The user wants something") == report["thoughts"] > 5
    assert "I need to call" not in text


def test_a_reply_that_does_not_say_the_values_is_asked_for_again_with_the_reason(tmp_path: Path) -> None:
    def write(messages: Sequence[Message]) -> str:
        return "Do something" if len(messages) == 2 and VALUE.search(messages[1].content) else says_values(messages)

    chat = scripted(write)
    with served(create_app(chat, "tiny")) as url:
        synth(tmp_path / "rows.jsonl", "--endpoint", f"{url}/v1")
    seconds = [messages for messages, *_ in chat.asked if len(messages) == 4]
    assert seconds and all("This is not right: it does not say" in messages[3].content for messages in seconds)
    report = report_of(tmp_path / "rows.jsonl")
    assert report["right_at_the_second_reply"] > 5
    assert "does not say" in report["replies_that_were_not_right"][0]


def test_a_model_that_never_says_the_values_leaves_the_template_and_is_counted(tmp_path: Path) -> None:
    synth(tmp_path / "templates.jsonl")
    with served(create_app(scripted(lambda messages: "Go to Atlantis 99 times"), "tiny")) as url:
        synth(tmp_path / "rows.jsonl", "--endpoint", f"{url}/v1")
    assert (tmp_path / "rows.jsonl").read_bytes() == (tmp_path / "templates.jsonl").read_bytes()
    report = report_of(tmp_path / "rows.jsonl")
    assert report["questions"] == 0 and sum(report["from_templates"].values()) > 10


def test_a_second_run_asks_nothing_and_writes_the_same_bytes(tmp_path: Path) -> None:
    out, chat = tmp_path / "rows.jsonl", scripted()
    with served(create_app(chat, "tiny")) as url:
        synth(out, "--endpoint", f"{url}/v1", "--endpoint_model", "tiny")
        first, count = out.read_bytes(), len(chat.asked)
        report = report_of(out)
        synth(out, "--endpoint", f"{url}/v1", "--endpoint_model", "tiny", "--endpoint_concurrency", 1)
    assert len(chat.asked) == count and out.read_bytes() == first and report_of(out) == report
    # With the name of the model, the replies are enough: no server is there.
    assert synth(out, "--endpoint", CLOSED, "--endpoint_model", "tiny") == 0
    assert out.read_bytes() == first


def test_a_server_that_fails_is_one_line_and_the_next_run_asks_for_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    answered = 0

    def write(messages: Sequence[Message]) -> str:
        nonlocal answered
        answered += 1
        if answered > 5:
            raise RuntimeError("out of memory")
        return says_values(messages)

    chat = scripted()
    with served(create_app(scripted(write), "tiny")) as url:
        code = synth(out, "--endpoint", f"{url}/v1", "--endpoint_concurrency", 1)
    assert code == 2 and not out.exists()
    errors = capsys.readouterr().err.split("\n")  # among them the traceback of our server, before or after
    [said] = [line for line in errors if line.startswith("swift: error: ")]
    assert said.startswith(f"swift: error: {url}/v1: ")
    assert said.endswith(f"; the replies so far are in {out}.replies.jsonl: the same command goes on from there")
    with Path(f"{out}.replies.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"key": "abc", "repl')  # as a run that was killed leaves it
    with served(create_app(chat, "tiny")) as url:
        assert synth(out, "--endpoint", f"{url}/v1") == 0
    assert "1 broken lines are not used" in capsys.readouterr().out
    lines = Path(f"{out}.replies.jsonl").read_text(encoding="utf-8").strip().split("\n")
    assert len(lines) == 5 + 1 + len(chat.asked)


def test_a_request_that_the_server_refuses_keeps_its_template(tmp_path: Path) -> None:
    refused = 0

    def write(messages: Sequence[Message]) -> str:
        nonlocal refused
        if "Call 2" in messages[1].content:
            refused += 1
            raise ValueError("not this one")
        return says_values(messages)

    with served(create_app(scripted(write), "tiny")) as url:
        # One request at a time: a server that refuses the first few is taken to refuse all.
        assert synth(tmp_path / "rows.jsonl", "--endpoint", f"{url}/v1", "--endpoint_concurrency", 1) == 0
    kept = report_of(tmp_path / "rows.jsonl")["from_templates"]
    assert kept["question: the server refuses it"] == refused > 0


def test_a_server_that_refuses_all_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(messages: Sequence[Message]) -> str:
        raise ValueError("this model does not chat")

    with served(create_app(scripted(write), "tiny")) as url:
        assert synth(tmp_path / "rows.jsonl", "--endpoint", f"{url}/v1") == 2
    assert "this model does not chat" in capsys.readouterr().err


def test_a_dry_run_says_what_it_would_cost_and_asks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, chat = tmp_path / "rows.jsonl", scripted()
    with served(create_app(chat, "tiny")) as url:
        words = ("--endpoint", f"{url}/v1", "--dry_run", "--price_per_million", 1000, 5000)
        assert synth(out, *words) == 0
        said = capsys.readouterr().out
        dry = int(re.search(r"tiny: (\d+) requests, about [\d,]+ tokens", said)[1])  # type: ignore[index]
        assert re.search(r"estimated cost at these prices: [\d.]+, about [\d.]+ if", said)
        assert not chat.asked and not list(tmp_path.iterdir())
        synth(out, "--endpoint", f"{url}/v1")
    assert len({messages[1].content for messages, *_ in chat.asked}) == dry


def test_no_more_requests_are_sent_than_allowed_and_the_next_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, chat = tmp_path / "rows.jsonl", scripted()
    with served(create_app(chat, "tiny")) as url:
        synth(out, "--endpoint", f"{url}/v1", "--max_requests", 7)
        assert len(chat.asked) == 7
        assert "--max_requests 7 leaves" in capsys.readouterr().out
        report = report_of(out)
        assert report["questions"] <= 7 and report["from_templates"]["question: --max_requests"] > 0
        synth(out, "--endpoint", f"{url}/v1", "--max_requests", 7)
        assert len(chat.asked) == 14 and report_of(out)["questions"] > report["questions"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max_requests", 5], "--max_requests has no effect without --endpoint"),
        (["--dry_run"], "--dry_run has no effect without --endpoint"),
        (["--endpoint", "here"], "--endpoint here: must be a URL such as http://127.0.0.1:8000/v1"),
        (["--endpoint", CLOSED], f"{CLOSED}: no server can be reached there"),
        (["--endpoint", CLOSED, "--price_per_million", 1], "--price_per_million: give two prices"),
        (["--endpoint", CLOSED, "--endpoint_concurrency", 0], "--endpoint_concurrency 0: must be 1 or more"),
    ],
)
def test_wrong_flags_are_one_line(
    words: list[object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synth(tmp_path / "rows.jsonl", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"swift: error: {said}") and error.count("\n") == 1


BOOK = Function(
    "test",
    "bookTable",
    "Books a table in a restaurant.",
    {
        "city": Parameter("City", "string", "city"),
        "day": Parameter("Day (YYYY-MM-DD)", "string", "date"),
        "at": Parameter("Time (HH:MM)", "string", "time"),
        "guests": Parameter("Guests", "integer", "int 1..9"),
        "terrace": Parameter("Whether the table is on the terrace", "boolean", "bool", True),
        "order": Parameter("Order of the menu", "string", [["cheapest first", "price"]], True, ("price", "popularity")),
    },
    (), (), (), {}, {}, (), (),
)  # fmt: skip


def booking(said: dict[str, Said]) -> Wanted:
    arguments = {name: each.value for name, each in said.items()}
    return Wanted((Call(BOOK, arguments, {}, said),), (set(said),), (), None, "A place, please")


@pytest.mark.parametrize(
    ("text", "said", "reason"),
    [
        ("A table in Oslo, please", {"city": Said("Oslo", "Oslo")}, ""),
        ("A table in Paris, please", {"city": Said("Oslo", "Oslo")}, "does not say 'Oslo'"),
        ("A table in Oslo or Bergen", {"city": Said("Oslo", "Oslo")}, "says Bergen, which is none"),
        ("A table for four", {"guests": Said("4", 4)}, ""),
        ("A table for 14", {"guests": Said("4", 4)}, "does not say '4'"),
        ("4 people on 12 chairs", {"guests": Said("4", 4)}, "says 12"),
        ("4 people on twelve chairs", {"guests": Said("4", 4)}, "says twelve"),
        ("a table on the 3rd of March 2025", {"day": Said("2025-03-03", "2025-03-03")}, ""),
        ("a table on March 4th, 2025", {"day": Said("2025-03-03", "2025-03-03")}, "does not say '2025-03-03'"),
        ("a table at 8pm", {"at": Said("20:00", "20:00")}, ""),
        ("a table at 8am", {"at": Said("20:00", "20:00")}, "does not say '20:00'"),
        ("a table on the terrace", {"terrace": Said("", True)}, ""),
        ("a table, not on the terrace", {"terrace": Said("", True)}, "does not say that terrace is yes"),
        ("a table, not on the terrace", {"terrace": Said("", False)}, ""),
        ("a table inside", {"terrace": Said("", True)}, "does not say that terrace is yes"),
        ("the menu, cheapest first", {"order": Said("", "price")}, ""),
        ("a table, menu by popularity", {"guests": Said("", 2)}, "does not say that guests is 2"),
        ("2 of us, by popularity", {"guests": Said("2", 2)}, "says 'popularity' for order"),
        ("bookTable for 2", {"guests": Said("2", 2)}, "names the function bookTable"),
        ("Here is the message: 2 of us", {"guests": Said("2", 2)}, "without an introduction"),
        ("两位", {"guests": Said("2", 2)}, "has to be in English"),
        ('2 of us at "The Anchor"', {"guests": Said("2", 2)}, "says Anchor"),
        ("a table on the 23rd of May 2025 for 2", {"day": Said("2025-05-23", "2025-05-23")}, ""),
        ("2 of us at 'la rose'", {"guests": Said("2", 2)}, "quotes 'la rose'"),
        ("", {"guests": Said("2", 2)}, "empty"),
        ("Could you book a table?", {}, ""),
        ("Tell me a joke", {}, "does not say what is wanted: Books"),
    ],
)
def test_a_question_is_right_if_it_says_the_values_and_nothing_else(
    text: str, said: dict[str, Said], reason: str
) -> None:
    found = written.problem(text, booking(said))
    assert reason in found if reason else not found


def test_values_of_two_calls_that_are_mixed_up_are_found() -> None:
    one = {"city": Said("Oslo", "Oslo"), "guests": Said("5", 5)}
    two = {"city": Said("Lima", "Lima"), "guests": Said("6", 6)}
    calls = tuple(Call(BOOK, {name: each.value for name, each in said.items()}, {}, said) for said in (one, two))
    asked = Wanted(calls, (set(one), set(two)), (), None, "Two tables")
    assert not written.problem("Oslo for 5, Lima for 6", asked)
    assert "guests are in another order" in written.problem("Oslo for 6, Lima for 5", asked)


def test_reasoning_and_quotes_around_a_reply_are_taken_off() -> None:
    assert written.cleaned('<think>\nhm, Oslo\n</think>\n\n "A table  in Oslo" ') == "A table in Oslo"
