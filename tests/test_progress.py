"""How far work is: bars on terminals, lines in files; colours where NO_COLOR and FORCE_COLOR want them."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import swift
from swift.system import progress, terminal
from swift.system.progress import Work, tracked, working

ROOT = Path(swift.__file__).parents[1]


class Stream(io.StringIO):
    """Standard error of a file, or of a terminal."""

    def __init__(self, live: bool) -> None:
        super().__init__()
        self.live = live

    def isatty(self) -> bool:
        return self.live


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """What a file gets; lines come at once and not after seconds."""
    monkeypatch.setattr(progress, "EVERY", 0.005)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return as_error_stream(Stream(live=False), monkeypatch)


def as_error_stream(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Not by `sys` itself, whose streams pytest sets again between a fixture and its test."""
    streams = SimpleNamespace(stderr=stream, stdout=io.StringIO())
    monkeypatch.setattr(progress, "sys", streams)
    monkeypatch.setattr(terminal, "sys", streams)
    return stream


def shown_by(stream: Stream, text: str) -> None:
    """Waits until `text` is written."""
    waiting = threading.Event()
    for _ in range(12_000):  # a minute: a busy machine is slow
        if text in stream.getvalue():
            return
        waiting.wait(0.005)
    raise AssertionError(f"{text!r} is not in {stream.getvalue()!r}")


def test_a_file_gets_lines_and_a_last_one_with_the_time(written: Stream) -> None:
    with working("load the model"):
        shown_by(written, "load the model: 0:00\n")
    assert written.getvalue().endswith("load the model: done in 0:00\n")


def test_a_line_has_the_parts_that_are_done_and_the_time_left(written: Stream) -> None:
    with working("read rows", 4000) as work:
        work.advance(1000)
        work.began -= 60  # as if it began a minute ago
        shown_by(written, "read rows: 1,000 of 4,000 in 1:00, 3:00 left\n")


def test_items_are_counted_as_they_are_taken(written: Stream) -> None:
    taken = tracked("abc", "letters", 3)
    assert next(taken) == "a" and next(taken) == "b"
    shown_by(written, "letters: 1 of 3")
    assert list(taken) == ["c"]


def test_short_work_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for live in (False, True):
        stream = as_error_stream(Stream(live), monkeypatch)
        with working("quick"):
            pass
        assert stream.getvalue() == ""


def test_an_error_ends_the_lines_without_a_last_one(written: Stream) -> None:
    with pytest.raises(ValueError, match="wrong"), working("load"):
        shown_by(written, "load: 0:00")
        raise ValueError("wrong")
    assert "done" not in written.getvalue()


def test_only_the_first_process_of_a_training_says_how_far_it_is(
    written: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with working("load") as work:
        threading.Event().wait(0.05)
    assert written.getvalue() == "" and isinstance(work, Work)


def test_a_terminal_gets_bars_that_works_within_works_share(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = as_error_stream(Stream(live=True), monkeypatch)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(progress, "AFTER", 0.0)
    with working("merge"), working("load", 10) as inner:
        inner.advance(3)
        shown_by(stream, "merge")
        shown_by(stream, "3 of 10 in 0:0")
    assert not progress._shared and "done" not in stream.getvalue()


@pytest.mark.parametrize(
    ("live", "env", "coloured"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "0"}, False),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_follow_the_stream_and_the_two_variables(
    live: bool, env: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    stream = Stream(live)
    monkeypatch.setattr(sys, "stdout", stream)
    assert terminal.has_colours(stream) is coloured
    terminal.console().print("[red]word[/]")
    assert ("\x1b[" in stream.getvalue()) is coloured


def in_terminal(words: list[str], folder: Path, **env: str) -> str:
    """What a command writes to a terminal: both streams are one."""
    ours, theirs = pty.openpty()
    code = "import sys; from swift.cli import main; sys.exit(main(sys.argv[1:]))"
    known = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment = {**known, "PYTHONPATH": str(ROOT), "TERM": "xterm", **env}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=folder
    )
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux's sign that the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    process.wait(60)
    return b"".join(parts).decode(errors="replace")


@pytest.mark.parametrize("words", [["--help"], ["sft", "--help"], ["runs"], ["data", "lint", "rows.jsonl"], ["stf"]])
def test_no_color_leaves_no_escape_on_a_terminal(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"query": "Hi", "response": "Hello"}) + "\n")
    said = in_terminal(words, tmp_path, NO_COLOR="1")
    assert said.strip() and "\x1b[" not in said
