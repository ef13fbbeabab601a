"""run.json, the record that a training run keeps in its folder: its format, how it is written, what a reader infers."""

from __future__ import annotations

import contextlib
import json
import time
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from swift.runs import processes
from swift.runs.processes import Process, Sight
from swift.system.durations import duration

FILE = "run.json"
CONSOLE = "output.log"
"""What a run that was resumed in the background prints, library warnings included."""

State = Literal["starting", "running", "saving", "finished", "stopped", "failed", "killed", "stalled"]
"""A record never says `stalled`, and `killed` only where `swift runs stop --now` did it: readers infer both."""
ACTIVE = ("starting", "running", "saving")

LEAST_SILENCE = 120.0
STEPS_OF_SILENCE = 20
LONGEST_SILENCE = 1800.0
"""Seconds without a sign of life after which a run counts as stalled: `STEPS_OF_SILENCE` times its time for a step, at
least `LEAST_SILENCE`; `LONGEST_SILENCE` before the first step ends and while a checkpoint is saved."""

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far a run is. Losses are in nats per weighted token, or those of the objective; None: not known yet."""

    step: int = 0
    steps: int = 0
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    step_seconds: float | None = None
    seconds_left: float | None = None
    checkpoint: str | None = None
    """The last checkpoint"""


@dataclass(frozen=True)
class Record:
    """The content of run.json. Times are seconds since 1970."""

    verb: str
    """sft or rlhf"""
    model: str
    tuner: str
    command: list[str]
    """The words after `swift` of the process, which may be another command that trains; empty for a Python program"""
    training: list[str]
    """The words of a `swift sft` or `swift rlhf` that trains the same"""
    python: str
    """The interpreter"""
    working_folder: str
    environment: dict[str, str]
    """Variables that a resumed run needs"""
    process: Process
    launcher: Process | None = None
    """The parent of the processes of a run that has several"""
    state: State = "starting"
    reason: str = ""
    """Why the run ended, in words"""
    progress: Progress = Progress()
    started: float = 0.0
    heartbeat: float = 0.0
    """When the training last did something; not when this file was written"""
    ended: float | None = None
    killed_for_memory: int | None = None
    """`processes.killed_for_memory` at the last writing"""
    format: int = 1

    @property
    def words(self) -> list[str]:
        """The command line that trains this run again, and nothing else."""
        return self.command if self.is_direct else self.training

    @property
    def is_direct(self) -> bool:
        """Whether the process is this training alone, not a command such as `swift practice` or a Python program."""
        return self.command[:1] == [self.verb]


class Run(NamedTuple):
    """A run as a reader sees it now. `state` and `reason` are the record's, or follow from its process."""

    folder: Path
    record: Record
    state: State
    reason: str

    @property
    def is_active(self) -> bool:
        """Whether its process still works on it, or should."""
        return self.state in (*ACTIVE, "stalled")


def write(folder: Path, record: Record) -> None:
    """Replaces run.json. Raises OSError, and the former file stays."""
    new = folder / f".{FILE}.new"
    try:
        new.write_text(json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        new.replace(folder / FILE)
    except OSError:
        with contextlib.suppress(OSError):  # the folder is gone, or is no longer ours
            new.unlink(missing_ok=True)
        raise


def read(folder: Path, now: Callable[[], float] = time.time, look: Callable[[Process], Sight] = processes.look) -> Run:
    """The run of a folder. Raises FileNotFoundError if it has no record, ValueError for one that is not understood."""
    record = load(folder)
    if record.state not in ACTIVE:
        return Run(folder, record, record.state, record.reason)
    sight = look(record.process)
    if sight == "gone":
        return Run(folder, record, "killed", _why_killed(folder, record))
    if sight == "suspended":
        return Run(folder, record, "stalled", "its process is suspended: fg or kill -CONT continues it")
    silence = now() - record.heartbeat
    if record.state == "starting" or silence <= _patience(record):
        return Run(folder, record, record.state, record.reason)
    reason = f"no sign of life for {duration(silence)}"
    if sight == "elsewhere":
        reason += f"; its process is on {record.process.host} and cannot be seen from here"
    return Run(folder, record, "stalled", reason)


def load(folder: Path) -> Record:
    """The content of run.json. Raises as `read` does."""
    file = folder / FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return _made(Record, content)
    except ValueError as error:
        raise ValueError(f"{file} is not the record of a run: {error}") from None


def _patience(record: Record) -> float:
    seconds = record.progress.step_seconds
    if record.state == "saving" or seconds is None:
        return LONGEST_SILENCE
    return max(LEAST_SILENCE, STEPS_OF_SILENCE * seconds)


def _why_killed(folder: Path, record: Record) -> str:
    reached = f"at step {record.progress.step:,}" if record.state != "starting" else "before its first step"
    if record.state == "starting" and (line := _last_error(folder / CONSOLE, record.started)):
        return line
    before, after = record.killed_for_memory, processes.killed_for_memory()
    starved = before is not None and after is not None and after > before
    memory = "; since then this machine has killed a process for lack of memory" if starved else ""
    return f"its process is gone without a last word, {reached}{memory}"


def _last_error(console: Path, since: float) -> str:
    """The error with which a run in the background ended before it had a record of its own."""
    try:
        if console.stat().st_mtime < since:
            return ""
        lines = console.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    last = next((line for line in reversed(lines) if line.strip()), "")
    return last.partition("swift: error: ")[2]


# --- JSON -> dataclasses ----------------------------------------------------------------------------------------------


def _made(kind: type[T], values: object) -> T:
    """A dataclass of JSON. Keys of a later version are ignored; a missing or wrong one raises ValueError."""
    if not isinstance(values, Mapping):
        raise ValueError("it has no JSON object where one belongs")
    hints, found = typing.get_type_hints(kind), {}
    for item in fields(typing.cast(Any, kind)):
        if item.name in values:
            found[item.name] = _value(hints[item.name], values[item.name], item.name)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{item.name} is missing")
    return kind(**found)


def _value(kind: Any, value: object, name: str) -> Any:
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
    if is_dataclass(kind):
        return _made(typing.cast(Any, kind), value)
    origin = typing.get_origin(kind)
    if origin is Literal:
        right = value in typing.get_args(kind)
    elif origin in (list, dict):
        inner = list(value.values()) if isinstance(value, dict) else value
        right = isinstance(value, origin) and all(isinstance(each, str) for each in typing.cast(Any, inner))
    elif kind is float:
        right = isinstance(value, (int, float))
    else:
        right = isinstance(value, kind)
    if not right:
        raise ValueError(f"{name} is {value!r}")
    return value
