"""The tool files of examples/agent: each is run by an agent whose model is a script, through `swift agent run`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_agent_command import called, rows, said
from test_server import Scripted, served

from swift import cli
from swift.chat import Delta, Message, ToolCall
from swift.serve.server import create_app
from swift.tools.call import Result, call
from swift.tools.fire_alarm import LOG_VARIABLE
from swift.tools.python.source import PythonFile

EXAMPLES = Path(__file__).parents[1] / "examples" / "agent"
Agent = Callable[..., list[str]]


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Agent:
    """Runs an example with a model that makes the given calls, one a reply, and returns what the tools gave."""
    monkeypatch.chdir(tmp_path)

    def run(example: str, *calls: tuple[str, dict[str, Any]]) -> list[str]:
        def script(messages: Sequence[Message]) -> Iterator[Delta]:
            made = sum(message.role == "tool" for message in messages)
            return iter(called(calls[made]) if made < len(calls) else said("Done."))

        with served(create_app(Scripted(script), "tiny")) as url:
            words = [
                "--endpoint",
                f"{url}/v1",
                "--tools",
                str(EXAMPLES / example),
                "--task",
                "Go.",
                "--max_turns",
                "20",
            ]
            assert cli.main(["agent", "run", *words, "--output", "trace.jsonl"]) == 0
        [row] = rows(tmp_path / "trace.jsonl")
        return [message["content"] for message in row["messages"] if message["role"] == "tool"]

    return run


def test_the_fire_alarm_sees_a_fire_and_writes_what_it_did_to_the_log(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOG_VARIABLE, str(tmp_path / "alarms.log"))
    shutil.copy(EXAMPLES / "fire.jpg", tmp_path / "1.jpg")
    seen, alarm, firemen = agent(
        "fire_alarm.py", ("fire_recognition", {"image": "1.jpg"}), ("fire_alert", {}), ("call_fireman", {})
    )
    [fire] = json.loads(seen)
    x, y = fire["coordinate"]
    assert fire["on_fire"] and abs(x - 52) < 3 and abs(y - 82) < 3
    assert (alarm, firemen) == ("the administrators of the building are warned", "119 is called")
    lines = (tmp_path / "alarms.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [f"fire_alert: {alarm}", f"call_fireman: {firemen}"]


def test_the_fire_alarm_sees_no_fire_and_says_what_is_no_picture(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    looks = [str(EXAMPLES / "room.jpg"), "nowhere.jpg", "text.jpg"]
    none, missing, text = agent("fire_alarm.py", *(("fire_recognition", {"image": image}) for image in looks))
    assert json.loads(none) == [{"coordinate": None, "on_fire": False}]
    assert missing == "Error: there is no file nowhere.jpg"
    assert text.startswith("Error: text.jpg is no picture that can be read: ")


def test_the_fire_alarm_is_the_tutorials(agent: Agent) -> None:
    from swift.data.scenario import SYSTEM

    source = PythonFile(EXAMPLES / "fire_alarm.py")
    try:
        for bound in source.tools:
            line = next(line for line in SYSTEM.splitlines() if f" {bound.name}: " in line)
            assert f"{bound.tool.description} Parameters:" in line
            for name, parameter in bound.tool.parameters["properties"].items():
                assert f'"name": "{name}", "description": "{parameter["description"]}"' in line
        assert {bound.name for bound in source.tools if bound.read_only} == {"fire_recognition"}
        assert len(source.tools) == 4
    finally:
        source.close()


def test_the_calculator_calculates(agent: Agent) -> None:
    expressions = ["17 * 23 - 4", "sqrt(2)^2 + -1", "max(7 // 2, 2 ** 100) % 1000", "1 / 0", "9 ** 9 ** 9", "open('x')"]
    *values, zero, huge, other = agent("calculator.py", *(("calculate", {"expression": each}) for each in expressions))
    assert values == ["387", "1.0000000000000004", "376"]
    assert "division by zero" in zero and "more than 1000 digits" in huge and "cannot be calculated" in other


def test_the_calculator_counts_days(agent: Agent) -> None:
    assert agent("calculator.py", ("days_between", {"first": "2026-02-01", "last": "2026-03-01"})) == ["28"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with text files, links and a hidden file, beside a secret that is not in it."""
    folder = tmp_path / "shared"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.md").write_text("\n".join(f"line {number}" for number in range(1, 301)))
    (folder / "sub" / "b.md").write_text("The door code is 1234.\n")
    (folder / "c.bin").write_bytes(b"\xff\xfe\x00")
    (folder / ".hidden").write_text("hidden code")
    (tmp_path / "secret.txt").write_text("the secret code")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "up").symlink_to(tmp_path)
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "b_link.md").symlink_to(folder / "sub" / "b.md")
    monkeypatch.setenv("SWIFT_FILES", str(folder))
    return folder


def test_files_lists_reads_and_searches_one_folder(agent: Agent, folder: Path) -> None:
    listed, few, start, middle, found, none = agent(
        "files.py",
        ("list_files", {}),
        ("list_files", {"pattern": "a*.md"}),
        ("read_file", {"path": "a.md"}),
        ("read_file", {"path": "sub/../a.md", "first_line": 299, "lines": 5}),
        ("search_files", {"text": "CODE"}),
        ("search_files", {"text": "window", "pattern": "*.md"}),
    )
    sizes = ["a.md (2591 bytes)", "b_link.md (23 bytes)", "c.bin (3 bytes)", "sub/b.md (23 bytes)"]
    assert json.loads(listed) == sizes
    assert json.loads(few) == ["a.md (2591 bytes)"]
    assert start.endswith("line 200\n[lines 1 to 200 of 300]")
    assert middle == "line 299\nline 300\n[lines 299 to 300 of 300]"
    code = "The door code is 1234."
    assert json.loads(found) == [f"b_link.md:1: {code}", f"sub/b.md:1: {code}"]
    assert json.loads(none) == ["no file contains 'window'"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "/etc/hostname",
        "link.txt",
        "up/secret.txt",
        "sub/../../secret.txt",
        ".hidden",
        "circle",
        "a\0",
        ".",
    ],
)
def test_no_path_leads_out_of_the_folder(files: PythonFile, path: str) -> None:
    given = {"path": path}
    result = call(files.tools, ToolCall("read_file", json.dumps(given)))
    assert result.failure == "raised" and "there is no file" in result.text and "in the folder" in result.text


@pytest.fixture
def files(folder: Path) -> Iterator[PythonFile]:
    source = PythonFile(EXAMPLES / "files.py")
    yield source
    source.close()


def test_files_says_what_cannot_be_read(files: PythonFile) -> None:
    def read(**given: object) -> Result:
        return call(files.tools, ToolCall("read_file", json.dumps(given)))

    assert read(path="c.bin").text == "Error: ValueError: c.bin is not a text file"
    assert read(path="a.md", first_line=301).text == "Error: ValueError: a.md has 300 lines"


def test_the_house_has_lamps_and_a_clock(agent: Agent) -> None:
    on, off, time, total = agent(
        "house_tools.py",
        ("switch_lamp", {"room": "kitchen", "on": True}),
        ("switch_lamp", {"room": "hall", "on": False}),
        ("time_in", {"zone": "Europe/Oslo"}),
        ("add", {"numbers": [1, 2.5]}),
    )
    assert (json.loads(on), json.loads(off)) == ({"kitchen": True}, {"kitchen": True, "hall": False})
    assert len(time) == 5 and total == "3.5"
