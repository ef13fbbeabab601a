"""Training runs and the jobs that begin them as rows of a table, and their log lines as curves. Draws nothing."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from swift.runs import checkpoints, control, finding, record
from swift.runs.record import Run
from swift.studio.folders import Folders
from swift.studio.jobs import Job
from swift.system.durations import duration

LOG = "logging.jsonl"
CURVES: Mapping[str, str] = {
    "loss": "Loss",
    "eval_loss": "Held-out loss",
    "eval_acc": "Held-out accuracy",
    "learning_rate": "Learning rate",
    "tokens_per_second": "Tokens per second",
    "memory_gib": "Memory, GiB",
}
"""Key of the log lines -> title."""
Axis = Literal["step", "epoch", "time"]
TRAINING = ("sft", "rlhf")
REST = 20
"""Times that a search takes, before the next one."""
KEPT = 86_400.0
"""Seconds for which a job that ended before its run began is listed."""


class Row(NamedTuple):
    """`run` is None for a job that has no run yet, `job` for a run that the studio has not begun.

    `act`: the last job that was to stop or to resume the run.
    """

    name: str
    run: Run | None
    job: Job | None
    act: Job | None = None

    @property
    def folder(self) -> Path | None:
        return self.run.folder if self.run else None

    @property
    def state(self) -> str:
        if self.run:
            return self.run.state
        return "starting" if self.is_active else self.job.state if self.job else ""

    @property
    def reason(self) -> str:
        """Why it ended, with what the process of its job saw."""
        if self.run is None:
            return self.job.reason if self.job else ""
        seen = self.job.reason if self.job and self.run.state == "killed" and self.job.state == "killed" else ""
        return ": ".join(filter(None, (seen, self.run.reason)))

    @property
    def fault(self) -> str:
        """Why it could not be stopped or resumed, where it has done nothing since."""
        if self.act is None or self.run is None or self.act.state not in ("failed", "killed"):
            return ""
        return self.act.reason if self.act.started > (self.run.record.ended or self.run.record.started) else ""

    @property
    def words(self) -> list[str]:
        return list(self.run.record.words) if self.run else list(self.job.words) if self.job else []

    @property
    def is_active(self) -> bool:
        return self.run.is_active if self.run else bool(self.job and self.job.is_active)

    @property
    def started(self) -> float:
        return self.run.record.started if self.run else self.job.started if self.job else 0.0


class Search:
    """Looks for runs below folders. Where that takes long, it looks in between only after the runs that it knows."""

    def __init__(self, folders: Folders, now: Callable[[], float] = time.monotonic) -> None:
        self._folders, self._now = folders, now
        self._again = float("-inf")
        self._known: list[Path] = []
        self._faults: list[str] = []

    def runs(self) -> finding.Found:
        """The runs as they are now. Those that links lead out to are left out."""
        begin = self._now()
        if begin < self._again:
            return finding.Found(list(self._reread()), self._faults)
        runs, self._faults = finding.find(self._folders.named.values())
        inside = [run for run in runs if self._folders.contains(run.folder)]
        self._known = [run.folder for run in inside]
        self._again = begin + REST * (self._now() - begin)
        return finding.Found(inside, self._faults)

    def _reread(self) -> Iterator[Run]:
        for folder in self._known:
            with contextlib.suppress(OSError, ValueError):  # deleted since
                yield record.read(folder)


def rows(runs: Sequence[Run], jobs: Iterable[Job], now: float | None = None) -> list[Row]:
    """The runs, each with the job that began it, and the jobs whose run has not begun; the newest first."""
    now = time.time() if now is None else now
    names = finding.names([run.folder for run in runs])
    found, left, acts = [], [], dict[str, Job]()
    for job in sorted(jobs, key=lambda job: job.started):
        if job.verb in TRAINING and "--dry_run" not in job.words:
            left.append(job)
        elif job.words[:2] in (("runs", "stop"), ("runs", "resume")):
            acts[job.words[2]] = job
    by_process = {job.process: job for job in left if job.process is not None}
    taken = set()
    for run in runs:
        processes = (run.record.process, run.record.launcher)
        begun = next((by_process[each] for each in processes if each in by_process), None)
        if begun:
            taken.add(begun.name)
        found.append(Row(names[run.folder], run, begun, acts.get(str(run.folder))))
    for job in left:
        if job.name not in taken and (job.is_active or job.state != "finished") and now - job.started < KEPT:
            found.append(Row(job.name, None, job))
    return sorted(found, key=lambda row: row.started, reverse=True)


def cells(row: Row) -> dict[str, Any]:
    """A row of the table: raw figures, by which it is sorted, and texts under the same name with `_text`."""
    run = row.run
    progress = run.record.progress if run else None
    left = progress.seconds_left if progress and row.is_active else None
    figures = {
        "step": progress.step if progress else 0,
        "loss": progress.loss if progress else None,
        "eval_loss": progress.eval_loss if progress else None,
        "speed": progress.tokens_per_second if progress else None,
        "left": left,
        "started": row.started,
    }
    texts = {
        "step_text": f"{progress.step:,}/{progress.steps:,}" if progress and progress.steps else "",
        "loss_text": _number(figures["loss"]),
        "eval_loss_text": _number(figures["eval_loss"]),
        "speed_text": "" if figures["speed"] is None else f"{figures['speed']:,.0f}",
        "left_text": "" if left is None else duration(left),
        "started_text": time.strftime("%m-%d %H:%M:%S", time.localtime(row.started)),
    }
    model = run.record.model if run else ""
    return {"name": row.name, "state": row.state, "reason": row.reason, "model": model, **figures, **texts}


def details(run: Run, short: Callable[[Path], str] = str) -> dict[str, str]:
    """The details of one run: English title -> text. `short`: its folder -> the path to show."""
    found, progress = run.record, run.record.progress
    speed = None if progress.tokens_per_second is None else f"{progress.tokens_per_second:,.0f} tokens/s"
    pace = None if progress.step_seconds is None else f"{progress.step_seconds:.2g} s"
    return {
        "Model": f"{found.model}, swift {found.verb}, {found.tuner}",
        "Step": f"{progress.step:,}/{progress.steps:,}" + (f", {progress.epoch:.2f}" if progress.epoch else ""),
        "Loss": _number(progress.loss),
        "Held-out loss": _number(progress.eval_loss),
        "Speed": ", ".join(filter(None, (speed, pace))),
        "Time left": "" if progress.seconds_left is None or not run.is_active else duration(progress.seconds_left),
        "Process": f"pid {found.process.pid}, {found.process.host}",
        "Folder": short(run.folder),
    }


def saved(run: Run) -> list[dict[str, str]]:
    """The checkpoints of a run, the newest first."""
    return [
        {"name": each.folder.name, "folder": str(each.folder), "loss": _number(each.eval_loss)}
        for each in reversed(checkpoints.of(run.folder))
    ]


def can_resume(run: Run) -> bool:
    """Whether it has a checkpoint to go on from, and steps left. `swift runs resume` says more about why not."""
    try:
        control.resumable(run)
    except ValueError:
        return False
    return run.state != "finished"


class Log:
    """The log lines of a run's folder. A later `read` reads only what was appended since."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / LOG
        self._offset = 0
        self.lines: list[dict[str, Any]] = []

    def read(self) -> bool:
        """Whether there is something new. A file that a resumed run has cut is read anew."""
        try:
            with self._file.open("rb") as file:
                file.seek(max(self._offset - 1, 0))
                if self._offset and file.read(1) != b"\n":
                    self._offset, self.lines = 0, []
                    file.seek(0)
                new = file.read()
        except OSError:
            return False
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and isinstance(found.get("step"), int):
                while self.lines and self.lines[-1]["step"] > found["step"]:
                    self.lines.pop()  # a resumed run logs steps again
                self.lines.append(found)
        return bool(whole)

    def points(self, key: str, axis: Axis) -> list[tuple[float, float]]:
        """(x, value) of the lines that have both. Times are minutes since the first line."""
        begin = next((line["time"] for line in self.lines if "time" in line), 0.0)
        found = []
        for line in self.lines:
            x, y = line.get(axis), line.get(key)
            if isinstance(x, (int, float)) and isinstance(y, (int, float)):
                found.append(((x - begin) / 60 if axis == "time" else float(x), float(y)))
        return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
