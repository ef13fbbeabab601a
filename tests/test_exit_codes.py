"""The exit codes of docs/terminal.md, of commands in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_model_folder

import swift
from swift import cli

CODE = "import sys; from swift.cli import main; sys.exit(main(sys.argv[1:]))"
GOOD = {"query": "Hi", "response": "Hello"}


def started(folder: Path, *words: str, **options: int) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(swift.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    env = {name: value for name, value in env.items() if name not in ("SWIFT_TRACEBACK", "LOCAL_RANK")}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *words],
        cwd=folder, env=env, text=True, stdout=options.get("stdout", subprocess.PIPE), stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.jsonl").write_text(json.dumps(GOOD) + "\n")
    (tmp_path / "bad.jsonl").write_text('{"messages": 3}\n')
    return tmp_path


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--version", 0),
        ("--help", 0),
        ("sft --help", 0),
        ("data lint good.jsonl", 0),
        ("runs", 0),
        ("data lint bad.jsonl", 1),  # it ran and found what it reports
        ("", 2),
        ("stf", 2),
        ("sft --modle x", 2),
        ("data lnt good.jsonl", 2),
        ("infer --ckpt_dir nowhere", 2),
    ],
)
def test_a_command_ends_with_the_code_that_its_page_names(folder: Path, line: str, code: int) -> None:
    process = started(folder, *line.split())
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert ("swift: error: " in err) is (code == 2 and line != ""), err
    assert "Traceback" not in err and (out or err)


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("agent", ["agent", "run"]),
        ("data", ["data", "show"]),
        *((verb, [verb]) for verb in cli.verbs() if verb not in ("agent", "data")),
    ],
)
def test_an_unknown_flag_ends_every_command_with_2(
    verb: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words, "--nonsense_flag"]) == 2
    assert capsys.readouterr().err.startswith("swift: error: unknown flag --nonsense_flag")


def test_a_pipe_that_its_reader_closes_ends_with_1(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = started(folder, "--help", stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, "")


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_ends_a_training_with_128_and_its_number(folder: Path, sent: signal.Signals, code: int) -> None:
    """The shell says 137 for a process that SIGKILL ended, which Python reports as -9."""
    tiny_model_folder(folder / "tiny")
    (folder / "rows.jsonl").write_text((json.dumps(GOOD) + "\n") * 50)
    process = started(
        folder, "sft", "--model", "tiny", "--template_type", "chatml", "--dataset", "rows.jsonl", "--device", "cpu",
        "--max_steps", "100000", "--logging_steps", "1", "--dataset_test_ratio", "0",
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step "):
            break
    process.send_signal(sent)
    _, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert (sent == signal.SIGKILL) or list(folder.rglob("checkpoint-*"))
