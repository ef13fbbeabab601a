"""What a training run keeps of itself while it runs: run.json and train.log in its folder. Decides nothing."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from swift.assembly import resuming
from swift.assembly.training_config import TrainingConfig
from swift.runs import processes, record
from swift.runs.log_file import LogFile
from swift.runs.record import Progress, Record, State
from swift.runs.writer import Writer
from swift.system import invocation


class Journal:
    """The journal of a run, from `begin` to the end of the `with` block, which records how the run ended.

    Only the first process of a run calls `begin`; in the others a journal does nothing.
    """

    def __init__(self) -> None:
        self._writer: Writer | None = None
        self._log = LogFile(_warn)
        self._end: tuple[State, str] = ("finished", "")

    @property
    def folder(self) -> Path | None:
        """The run's folder; None before `begin`."""
        return self._writer.folder if self._writer else None

    def say(self, line: str) -> None:
        """Prints a line and keeps it."""
        print(line)
        self._log.write(line)

    def note(self, line: str) -> None:
        """Keeps a line that is printed elsewhere."""
        self._log.write(line)

    def begin(self, folder: Path, begun: Record) -> None:
        """Writes the first record, and the lines before it."""
        self._log.open(folder, f"# {time.strftime('%Y-%m-%d %H:%M:%S')} pid {begun.process.pid}")
        self._writer = Writer(folder, begun, _warn)

    def beat(self, state: str, figures: Mapping[str, Any]) -> None:
        """A sign of life: `swift.train.heartbeat.Tell`."""
        if self._writer:
            self._writer.beat("saving" if state == "saving" else "running" if state else None, figures)

    def stopped(self, reason: str) -> None:
        """The run stopped before its last step, on request."""
        self._end = ("stopped", reason)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None:
            return
        state, reason = self._end
        if isinstance(error, KeyboardInterrupt):
            state, reason = "stopped", "by Ctrl-C"
        elif error is not None and not (isinstance(error, SystemExit) and state == "stopped"):
            state, reason = "failed", _line(error)
            expected = isinstance(error, (ValueError, OSError))
            self._log.write(f"error: {reason}" if expected else "".join(traceback.format_exception(error)).rstrip())
        self._writer.close(state, reason)


def begun(verb: str, given: TrainingConfig, cfg: TrainingConfig, steps: int, resume: Path | None) -> Record:
    """The first record of a run of this process. `given`: the flags before defaults were filled in."""
    from swift.system import torchrun

    now, started = time.time(), invocation.started()
    count = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return Record(
        verb=verb,
        model=cfg.model.model_type or Path(str(cfg.model.model_id_or_path)).name,
        tuner=cfg.train.sft_type,
        command=started.words,
        training=[verb, *resuming.flag_words(given)],
        python=sys.executable,
        working_folder=str(Path.cwd()),
        environment=started.environment | ({"NPROC_PER_NODE": count} if count != "1" else {}),
        process=processes.of(os.getpid()),
        launcher=processes.of(os.getppid()) if torchrun.MARK in os.environ else None,
        progress=Progress(steps=steps, checkpoint=str(resume) if resume else None),
        started=now,
        heartbeat=now,
        killed_for_memory=processes.killed_for_memory(),
    )


def free(folder: Path) -> Path:
    """`folder`. Raises ValueError if another process is training in it."""
    try:
        run = record.read(folder)
    except (ValueError, OSError):
        return folder  # no record, or one that a new run replaces
    # the launcher of several processes, and `swift runs resume`, record a run before its own process does
    own = (os.getpid(), os.getppid())
    if run.is_active and run.record.process.pid not in own and processes.look(run.record.process) != "elsewhere":
        raise ValueError(f"{folder} has a run that is {run.state} (pid {run.record.process.pid}): stop it, or wait")
    return folder


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if _is_memory(error, text):
        return f"out of memory: {text}" if text else "out of memory"
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_memory(error: BaseException, text: str) -> bool:
    """torch reports a full GPU by a class of its own, and full main memory by a RuntimeError of this text."""
    names = [each.__name__ for each in type(error).__mro__]
    return "MemoryError" in names or "OutOfMemoryError" in names or "not enough memory: you tried to allocate" in text


def _warn(line: str) -> None:
    print(f"swift: {line}", file=sys.stderr)
