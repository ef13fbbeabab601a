"""`swift runs` and what training records for it: real processes where they matter, else fake clocks and processes."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_sft import plain_rows, train, write
from tiny import tiny_model_folder

from swift import cli, flags
from swift.assembly import run_journal
from swift.commands import sft
from swift.runs import checkpoints, log_file, processes, record
from swift.runs.record import Progress, Record, Run
from swift.train import checkpoint
from swift.train.trainer import SftTrainer

OWN = processes.of(os.getpid())
GONE = replace(OWN, start="1")  # a process with this pid that began at another time
PATIENCE = 250


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model_folder(tmp_path / "tiny")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", plain_rows(30))


def made(**changes: Any) -> Record:
    """The record of a run of this process that began at second 1000."""
    settings: dict[str, Any] = {
        "verb": "sft",
        "model": "tiny",
        "tuner": "lora",
        "command": ["sft", "--model", "tiny", "--dataset", "a.jsonl", "b.jsonl", "--max_steps", "9"],
        "training": ["sft", "--model_id_or_path", "tiny"],
        "python": sys.executable,
        "working_folder": str(Path.cwd()),
        "environment": {},
        "process": OWN,
        "state": "running",
        "progress": Progress(step=3, steps=9, loss=1.5, step_seconds=2.0, seconds_left=12.0),
        "started": 1000.0,
        "heartbeat": 1000.0,
        **changes,
    }
    return Record(**settings)


def written(folder: str, **changes: Any) -> Path:
    path = Path(folder).absolute()
    path.mkdir(parents=True, exist_ok=True)
    record.write(path, made(**changes))
    return path


# --- real processes ---------------------------------------------------------------------------------------------------


@contextmanager
def started(*words: str, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """A Python process, killed at the end of the block."""
    process = subprocess.Popen([sys.executable, *words], text=True, stdout=subprocess.PIPE, **settings)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def background() -> Iterator[list[int]]:
    """Pids of other processes to kill at the end of the test."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait(until: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := until():
            return found
        time.sleep(0.1)
    raise AssertionError(what)


def trained_steps(state: str = "running") -> Callable[[], Run | None]:
    """The only run of ./output once it is in this state and has done a step."""

    def look() -> Run | None:
        for file in Path.cwd().glob("output/*/*/run.json"):
            run = record.read(file.parent)
            if run.state == state and run.record.progress.step_seconds:
                return run
        return None

    return look


def test_a_run_in_a_process_of_its_own_is_seen_stopped_resumed_and_found_killed(
    here: Path, model: Path, rows: Path, background: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sft", "--model", "tiny", "--template_type", "chatml", "--dataset", "rows.jsonl", "--device", "cpu"]
    words += [
        "--tuner_backend",
        "peft",
        "--max_steps",
        "100000",
        "--logging_steps",
        "1",
        "--eval_strategy",
        "no",
        "--save_steps",
        "50000",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    with started("-m", "swift.cli", *words, env=env, cwd=here) as process:
        run = wait(trained_steps(), "the run never trained")
        assert run.record.process.pid == process.pid
        assert run.record.command == words

        assert cli.main(["runs", "stop", "v0"]) == 0
        assert process.wait(PATIENCE) == 143
    said = capsys.readouterr().out
    assert re.search(r"^stopped: after step \d+ of 100000 by SIGTERM$", said, re.MULTILINE)
    (saved,) = checkpoints.of(run.folder)
    assert f"last checkpoint: {saved.folder.relative_to(here)}" in said
    assert f"swift.cli runs resume {run.folder.relative_to(here)}" in said

    os.environ["PYTHONPATH"], before = env["PYTHONPATH"], os.environ.get("PYTHONPATH", "")
    try:
        assert cli.main(["runs", "resume", "v0", "--set", "max_steps=90000"]) == 0
    finally:
        os.environ["PYTHONPATH"] = before
    pid = int(re.search(r"^pid (\d+) resumes from", capsys.readouterr().out, re.MULTILINE)[1])  # type: ignore[index]
    background.append(pid)
    assert os.getsid(pid) == pid  # a terminal that closes ends its own session only
    resumed = wait(trained_steps(), "the resumed run never trained")
    assert resumed.record.process.pid == pid
    assert resumed.record.progress.step > saved.step and resumed.record.progress.steps == 90000

    os.kill(pid, signal.SIGKILL)
    found = wait(trained_steps("killed"), "nobody noticed")
    assert "gone without a last word" in found.reason
    assert cli.main(["runs"]) == 0
    assert re.search(r"^v0-[\d-]+ +tiny +killed ", capsys.readouterr().out, re.MULTILINE)
    text = log_file.read(run.folder)
    assert text.count("mixture: rows.jsonl: ") == 2 and "/90000  loss " in text


def test_a_process_that_hears_no_signal_is_killed_with_now(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    with started("-c", code) as process:
        assert process.stdout
        process.stdout.readline()
        folder = written("output/deaf", process=processes.of(process.pid), heartbeat=time.time())
        assert cli.main(["runs", "stop", "deaf", "--seconds", "0.5"]) == 1
        assert "still running after 0.5 s: --now kills it" in capsys.readouterr().err
        assert cli.main(["runs", "stop", "deaf", "--now"]) == 0
    assert record.read(folder)[2:] == ("killed", "by swift runs stop --now")
    assert "no checkpoint was saved" in capsys.readouterr().out


def test_a_run_that_is_stopped_before_its_first_step_says_so() -> None:
    with started("-c", "import time; time.sleep(600)") as process:
        folder = written("output/early", process=processes.of(process.pid), state="starting")
        assert cli.main(["runs", "stop", "early"]) == 0
    assert record.read(folder)[2:] == ("stopped", "by SIGTERM before its first step")


# --- what training records --------------------------------------------------------------------------------------------


def test_a_finished_run_has_its_figures_and_its_printed_lines(
    here: Path, model: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(here, model, rows)
    folder = Path(result["output_dir"])
    run = record.read(folder)
    assert (run.state, run.reason, run.record.process) == ("finished", "", OWN)
    progress = run.record.progress
    assert (progress.step, progress.steps, progress.checkpoint) == (4, 4, result["last_model_checkpoint"])
    losses = [line["loss"] for line in result["log_history"] if "loss" in line]
    assert progress.loss == losses[-1]
    assert progress.eval_loss == result["log_history"][-1].get("eval_loss", progress.eval_loss)
    out, err = capsys.readouterr()
    log = log_file.read(folder).splitlines()
    assert set(out.splitlines()) <= set(log)  # from the first line on, before there was a folder
    assert {line for line in err.splitlines() if line.startswith("step ")} <= set(log)
    config = flags.parse(sft.Config, run.record.training[1:]).config
    assert config.data.dataset == (str(rows),) and config.train.max_steps == 4


def test_a_run_that_fails_records_its_error_and_its_step(
    here: Path, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: SftTrainer, *_: Any) -> None:
        raise MemoryError("no 3 GiB left")

    monkeypatch.setattr(SftTrainer, "_save_checkpoint", fail)
    with pytest.raises(MemoryError):
        train(here, model, rows)
    (folder,) = [file.parent for file in here.glob("output/*/*/run.json")]
    run = record.read(folder)
    assert (run.state, run.reason) == ("failed", "out of memory: no 3 GiB left")
    assert run.record.progress.step == 2
    assert "Traceback" in log_file.read(folder)


def test_a_full_disk_is_one_warning_and_training_goes_on(
    here: Path, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(folder: Path, content: Record) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(record, "write", full)
    assert train(here, model, rows, max_steps=1)["global_step"] == 1
    warnings = [line for line in capsys.readouterr().err.splitlines() if "run.json" in line]
    assert len(warnings) == 1 and "No space left on device" in warnings[0]


def test_a_folder_in_which_another_process_trains_is_refused(here: Path, model: Path, rows: Path) -> None:
    with started("-c", "import time; time.sleep(600)") as process:
        written("output", process=processes.of(process.pid), heartbeat=time.time())
        with pytest.raises(ValueError, match=f"output has a run that is running \\(pid {process.pid}\\)"):
            train(here, model, rows, add_output_dir_suffix=False)
    train(here, model, rows, add_output_dir_suffix=False, max_steps=1)  # once it is gone


def test_a_journal_outside_of_the_first_process_does_nothing(here: Path) -> None:
    with run_journal.Journal() as journal:
        journal.beat("running", {"step": 1})
    assert not list(here.iterdir())


# --- what a reader infers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "step_seconds", "silence", "seen"),
    [
        ("running", 2.0, 119, "running"),
        ("running", 2.0, 121, "stalled"),
        ("running", 60.0, 1199, "running"),
        ("running", 60.0, 1201, "stalled"),
        ("running", None, 1799, "running"),  # its first step is under way
        ("running", None, 1801, "stalled"),
        ("saving", 2.0, 1799, "saving"),
        ("saving", 2.0, 1801, "stalled"),
        ("starting", None, 10**6, "starting"),  # reading rows can take long
        ("finished", 2.0, 10**6, "finished"),
    ],
)
def test_a_run_whose_process_lives_is_stalled_after_the_time_of_many_steps(
    state: Any, step_seconds: float | None, silence: float, seen: str
) -> None:
    folder = written("run", state=state, progress=Progress(3, 9, step_seconds=step_seconds))
    assert record.read(folder, now=lambda: 1000.0 + silence).state == seen


def test_a_pid_that_another_process_has_by_now_is_not_mistaken_for_the_run() -> None:
    folder = written("run", process=GONE)
    assert record.read(folder, now=lambda: 1000.0).state == "killed"


def test_a_process_of_before_a_reboot_is_gone() -> None:
    folder = written("run", process=replace(OWN, boot="another"))
    assert record.read(folder, now=lambda: 1000.0).state == "killed"


def test_a_process_on_another_machine_is_judged_by_its_heartbeat_alone(capsys: pytest.CaptureFixture[str]) -> None:
    folder = written("run", process=replace(OWN, host="far"))
    assert record.read(folder, now=lambda: 1010.0).state == "running"
    later = record.read(folder, now=lambda: 2000.0)
    assert later.state == "stalled" and "cannot be seen from here" in later.reason
    assert cli.main(["runs", "stop", "run"]) == 2
    assert "runs on far, or in another container: stop it there" in capsys.readouterr().err


def test_a_suspended_process_is_stalled_at_once() -> None:
    folder = written("run")
    found = record.read(folder, now=lambda: 1000.0, look=lambda process: "suspended")
    assert found.state == "stalled" and "fg or kill -CONT" in found.reason


def test_a_killed_run_says_whether_the_machine_ran_out_of_memory_since(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written("run", process=GONE, killed_for_memory=4)
    monkeypatch.setattr(processes, "killed_for_memory", lambda: 4)
    assert "memory" not in record.read(folder).reason
    monkeypatch.setattr(processes, "killed_for_memory", lambda: 5)
    assert "killed a process for lack of memory" in record.read(folder).reason


def test_a_resumed_run_that_ends_before_its_first_record_says_why() -> None:
    folder = written("run", process=GONE, state="starting")
    (folder / record.CONSOLE).write_text("some warning\nswift: error: rows.jsonl: No such file or directory\n")
    assert record.read(folder).reason == "rows.jsonl: No such file or directory"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"verb": "sft"', "delimiter"),
        ("[]", "no JSON object"),
        ('{"verb": "sft"}', "model is missing"),
        (None, "step is 'many'"),
    ],
)
def test_a_record_that_is_damaged_is_named_and_the_others_are_listed(
    content: str | None, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = written("output/bad") / record.FILE
    if content is None:
        values = json.loads(bad.read_text())
        values["progress"]["step"] = "many"
        content = json.dumps(values)
    bad.write_text(content)
    written("output/good")
    assert cli.main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert "good" in out
    assert f"{bad} is not the record of a run" in err and fault in err


def test_a_record_of_a_later_version_with_more_keys_is_read() -> None:
    file = written("run") / record.FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mood": "good"}))
    assert record.load(file.parent) == made()


# --- the command ------------------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_with_names_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    written("output/a/v0", started=1000.0)
    written("output/b/v0", started=3000.0)
    written("elsewhere/v7", started=2000.0)
    written("output/a/v0/checkpoint-2")  # a copy of a run's files is not a run
    written(".hidden/v8")
    assert cli.main(["runs"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == ["name", "b/v0", "v7", "a/v0"]
    assert " 3/9 " in out[1] and "1.5000" in out[1]
    assert cli.main(["runs", "elsewhere", "--json"]) == 0
    (only,) = json.loads(capsys.readouterr().out)
    assert (only["folder"], only["progress"]["loss"]) == (str(Path("elsewhere/v7").absolute()), 1.5)


def test_no_runs_and_a_wrong_folder_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs"]) == 0
    assert capsys.readouterr().out == "no runs in the current folder\n"
    assert cli.main(["runs", "sho"]) == 2
    assert capsys.readouterr().err == "swift: error: there is no folder sho: did you mean show?\n"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("v0", "'v0' is the name of 2 runs: a/v0, b/v0"),
        ("v8-2026", "no run 'v8-2026': there is v9-20261130"),
        ("", "no run ''"),
    ],
)
def test_an_ambiguous_or_unknown_name_is_one_line_with_names_that_are_near(
    name: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, folder in enumerate(("output/b/v9-20261130", "output/b/v0", "output/a/v0")):
        written(folder, started=1000.0 + number)
    assert cli.main(["runs", "show", name]) == 2
    err = capsys.readouterr().err
    assert err.startswith("swift: error: ") and line in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["a/v0", "output/a/v0", "./output/a/v0/", "0261130", "v9"])
def test_a_name_is_a_path_or_its_end_or_the_beginning_of_its_last_part(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written("output/a/v0")
    written("output/b/v0")
    written("output/b/v9-20261130")
    wanted = "output/a/v0" if "v0" in name else "output/b/v9-20261130"
    assert cli.main(["runs", "show", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(Path(wanted).absolute())


def test_show_has_the_exact_command_and_the_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    folder = written("output/v0", command=["practice", "--tools", "my tools.py"], environment={"OMP_NUM_THREADS": "2"})
    for step, optimizer in ((2, True), (10, False)):
        saved = folder / f"checkpoint-{step}"
        saved.mkdir()
        history = [{"step": 2, "eval_loss": 0.25}]
        (saved / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        if optimizer:
            (saved / "optimizer.pt").touch()
    assert cli.main(["runs", "show", "v0"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "command OMP_NUM_THREADS=2 swift practice --tools 'my tools.py'" in lines
    assert "trains as swift sft --model_id_or_path tiny" in lines
    assert lines[-2:] == [
        "output/v0/checkpoint-2 held-out loss 0.2500",
        "output/v0/checkpoint-10 (weights only)",
    ]


def test_a_log_is_followed_to_the_end_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written("output/v0", process=GONE)
    log = folder / log_file.FILE
    log.write_text("one\ntwo\n")
    alive = iter([True, True, False])

    def is_active() -> bool:
        with log.open("a") as file:
            file.write("more\n")
        return next(alive)

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert list(log_file.follow(folder, is_active, last=1)) == ["two\n", "more\n", "more\n", "more\n"]


def test_the_last_lines_of_a_log_and_a_log_that_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    (written("output/v0") / log_file.FILE).write_text("one\ntwo\nthree\n")
    assert cli.main(["runs", "log", "v0", "--lines", "2"]) == 0
    assert capsys.readouterr().out == "two\nthree\n"
    written("output/v1")
    assert cli.main(["runs", "log", "v1"]) == 2
    assert capsys.readouterr().err.endswith("output/v1 has no train.log\n")


# --- resuming ---------------------------------------------------------------------------------------------------------


def resumable(folder: str, **changes: Any) -> Path:
    path = written(folder, **{"process": GONE, **changes})
    (path / "checkpoint-3").mkdir()
    (path / "checkpoint-3" / "optimizer.pt").touch()
    return path


@pytest.fixture
def popen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, Any]]]:
    """What would have been started: words and settings."""
    started: list[tuple[list[str], dict[str, Any]]] = []

    class Fake:
        pid = os.getpid()

        def __init__(self, words: list[str], **settings: Any) -> None:
            started.append((words, settings))

    monkeypatch.setattr("swift.runs.processes.subprocess.Popen", Fake)
    return started


def test_a_resumed_run_has_its_words_folder_and_environment_with_the_changes(
    popen: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = resumable("output/v0", environment={"NPROC_PER_NODE": "2"})
    changes = ["--set", "dataset='c d.jsonl' e.jsonl", "--set", "max-steps=20"]
    assert cli.main(["runs", "resume", "v0", *changes]) == 0
    ((words, settings),) = popen
    assert words[:4] == [sys.executable, "-m", "swift.cli", "sft"]
    rest = ["--dataset", "c d.jsonl", "e.jsonl", "--max_steps", "20"]
    assert words[4:] == ["--model", "tiny", *rest, "--resume_from_checkpoint", str(folder / "checkpoint-3")]
    assert settings["cwd"] == str(Path.cwd()) and settings["env"]["NPROC_PER_NODE"] == "2"
    assert settings["start_new_session"]
    now = record.load(folder)
    assert (now.state, now.process.pid, now.command) == ("starting", os.getpid(), words[3:])
    # a run that was resumed is resumed again from its own last checkpoint
    (folder / "checkpoint-8").mkdir()
    (folder / "checkpoint-8" / "optimizer.pt").touch()
    record.write(folder, replace(now, process=GONE))
    assert cli.main(["runs", "resume", "v0"]) == 0
    assert popen[1][0][-2:] == ["--resume_from_checkpoint", str(folder / "checkpoint-8")]
    assert popen[1][0].count("--resume_from_checkpoint") == 1


def test_a_training_within_another_command_is_resumed_alone(
    popen: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    resumable("output/v0", command=["practice", "--tools", "a.py"])
    assert cli.main(["runs", "resume", "v0"]) == 0
    assert popen[0][0][3:6] == ["sft", "--model_id_or_path", "tiny"]
    assert "the training alone, not the rest of swift practice --tools a.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words", "line"),
    [
        ({"process": OWN, "heartbeat": 1e12}, [], "is running (pid"),
        ({"state": "finished"}, [], "is finished: --set num_train_epochs=NUMBER"),
        ({"environment": {"NNODES": "2"}}, [], "by several machines"),
        ({}, ["--set", "lerning_rate=1"], "--set: unknown flag lerning_rate: did you mean learning_rate?"),
        ({}, ["--set", "learning_rate=much"], "--learning_rate: 'much' is not a number"),
        ({}, ["--set", "learning_rate"], "a change is written flag=value"),
        ({}, ["--set", "output_dir=there"], "a resumed run stays in its folder"),
        ({"working_folder": "/nowhere"}, [], "the folder in which the run was started is gone: /nowhere"),
        ({"python": "/nowhere/python"}, [], "the Python with which the run was started is gone"),
    ],
)
def test_what_cannot_be_resumed_is_one_line_and_starts_nothing(
    changes: dict[str, Any], words: list[str], line: str, popen: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    resumable("output/v0", **changes)
    assert cli.main(["runs", "resume", "v0", *words]) == 2
    err = capsys.readouterr().err
    assert line in err and err.count("\n") == 1
    assert not popen


def test_a_run_without_a_checkpoint_or_with_weights_alone_cannot_be_resumed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = written("output/v0", process=GONE)
    assert cli.main(["runs", "resume", "v0"]) == 2
    assert "has no checkpoint: start it again: " in capsys.readouterr().err
    (folder / "checkpoint-3").mkdir()
    assert cli.main(["runs", "resume", "v0"]) == 2
    assert "has only weights" in capsys.readouterr().err


def test_the_files_of_an_optimizer_are_those_that_training_knows() -> None:
    assert set(checkpoints.OPTIMIZERS) == set(checkpoint.OPTIMIZERS)


def test_listing_runs_imports_no_torch(here: Path) -> None:
    written("output/v0")
    code = (
        "import sys, swift.cli; swift.cli.main(['runs']); sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "v0" in done.stdout, done.stderr
