"""Training runs and the jobs that begin them as rows of a table. Draws nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from swift.runs import control, details, finding, record
from swift.runs.record import Progress, Run
from swift.studio.folders import Folders
from swift.studio.jobs import Job

CURVES: Mapping[str, str] = {
    "loss": "Loss",
    "eval_loss": "Held-out loss",
    "eval_acc": "Held-out accuracy",
    "learning_rate": "Learning rate",
    "tokens_per_second": "Tokens per second",
    "memory_gib": "Memory, GiB",
}
"""Key of the log lines -> title."""
COLUMNS: Mapping[str, str] = {
    "name": "Run",
    "state": "State",
    "model": "Model",
    "step": "Step",
    "loss": "Loss",
    "eval_loss": "Held-out loss",
    "speed": "Tokens/s",
    "left": "Time left",
    "started": "Started",
}
"""Name of a cell -> title of its column."""
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
    def can_resume(self) -> bool:
        """Whether it has a checkpoint to go on from, and steps left. `swift runs resume` says more about why not."""
        if self.run is None or self.run.state == "finished":
            return False
        with contextlib.suppress(ValueError):
            return bool(control.resumable(self.run))
        return False

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
    progress = row.run.record.progress if row.run else Progress()
    speed = progress.tokens_per_second
    figures: dict[str, tuple[float | None, str]] = {
        "step": (progress.step, details.step(progress) if progress.steps else ""),
        "loss": (progress.loss, details.loss(progress.loss)),
        "eval_loss": (progress.eval_loss, details.loss(progress.eval_loss)),
        "speed": (speed, "" if speed is None else f"{speed:,.0f}"),
        "left": (progress.seconds_left if row.is_active else None, details.time_left(row.run) if row.run else ""),
        "started": (row.started, time.strftime("%m-%d %H:%M:%S", time.localtime(row.started))),
    }
    named = {"name": row.name, "state": row.state, "model": row.run.record.model if row.run else ""}
    texts = {f"{name}_text": text for name, (_, text) in figures.items()}
    return {**named, "reason": row.reason, **{name: value for name, (value, _) in figures.items()}, **texts}


def titled(run: Run, short: Callable[[Path], str] = str) -> dict[str, str]:
    """English title -> text, for each line about a run. `short`: the run's folder -> the path to show."""
    process = run.record.process
    found = {title.capitalize(): text for title, text in details.details(run).items()}
    return {**found, "Process": f"pid {process.pid}, {process.host}", "Folder": short(run.folder)}
