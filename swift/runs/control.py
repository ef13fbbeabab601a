"""Stops a run and starts it again from its last checkpoint, from any process of the same machine. Trains nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from swift.runs import checkpoints, processes, record
from swift.runs.checkpoints import Checkpoint
from swift.runs.record import Record, Run
from swift.system import invocation

SECONDS = 0.2
"""Between two looks at a process that ends."""


class Stopped(NamedTuple):
    """What became of a run that was asked to stop. `ended`: whether it has."""

    ended: bool
    run: Run


def stop(run: Run, patience: float, kill: bool = False, sleep: Callable[[float], None] = time.sleep) -> Stopped:
    """Has a run save a checkpoint and end, or kills its processes; waits up to `patience` seconds.

    Raises ValueError for a run that has ended, or runs elsewhere, PermissionError for another user's.
    """
    check_active(run)
    found = run.record
    target = found.launcher or found.process
    if kill:
        processes.kill_all(target)
        processes.kill_all(found.process)
    else:
        processes.send(target, signal.SIGTERM)
        if run.state == "stalled":
            processes.send(found.process, signal.SIGCONT)  # a suspended process hears no signal before
    until = time.monotonic() + patience
    while (now := record.read(run.folder)).is_active or (kill and _lives(target)):
        if time.monotonic() > until:
            return Stopped(False, now)
        sleep(SECONDS)
    if now.state == "killed" and now.record.state != "killed":
        now = _settle(now, kill)
    return Stopped(True, now)


def check_active(run: Run) -> None:
    """Raises ValueError unless the run has processes on this machine."""
    if not run.is_active:
        raise ValueError(f"{run.folder} is not running: {run.state}{f' ({run.reason})' if run.reason else ''}")
    if processes.look(run.record.process) == "elsewhere":
        raise ValueError(f"{run.folder} runs on {run.record.process.host}, or in another container: stop it there")


def _lives(process: processes.Process) -> bool:
    return processes.look(process) in ("lives", "suspended")


def _settle(run: Run, kill: bool) -> Run:
    """Records the end of a run that could not do so itself."""
    if kill:
        ended = replace(run.record, state="killed", reason="by swift runs stop --now", ended=time.time())
    else:
        before = " before its first step" if run.record.state == "starting" else ""
        ended = replace(run.record, state="stopped", reason=f"by SIGTERM{before}", ended=time.time())
    record.write(run.folder, ended)
    return record.read(run.folder)


# --- resuming ---------------------------------------------------------------------------------------------------------


def resumable(run: Run) -> Checkpoint:
    """The checkpoint to resume a run from. Raises ValueError with the reason where it cannot be resumed."""
    if run.is_active:
        raise ValueError(f"{run.folder} is {run.state} (pid {run.record.process.pid}): swift runs stop ends it")
    if run.record.environment.get("NNODES", "1") not in ("", "1"):
        raise ValueError(
            f"{run.folder} was trained by several machines: add --resume_from_checkpoint to the command of each"
        )
    found = checkpoints.of(run.folder)
    if not found:
        again = invocation.command(*run.record.words)
        raise ValueError(f"{run.folder} has no checkpoint: start it again: {again}")
    if not found[-1].resumable:
        raise ValueError(
            f"{found[-1].folder} has only weights (--save_only_model), which training cannot be resumed from"
        )
    return found[-1]


def start(folder: Path, words: Sequence[str], before: Record) -> int:
    """Starts a command line in a session of its own, which outlives the terminal, and returns its pid.

    It has the interpreter, the working folder and the environment of `before`, and prints to output.log in `folder`.
    Raises OSError where it cannot be started.
    """
    own = {name: value for name, value in os.environ.items() if name not in invocation.KEPT}
    own.setdefault(invocation.VARIABLE, invocation.program())
    command = [before.python, "-m", "swift.cli", *words]
    pid = processes.start(command, before.working_folder, own | before.environment, folder / record.CONSOLE)
    now = time.time()
    begun = replace(
        before,
        command=list(words),
        process=processes.of(pid),
        launcher=None,
        state="starting",
        reason="",
        progress=replace(before.progress, step_seconds=None, seconds_left=None),
        started=now,
        heartbeat=now,
        ended=None,
    )
    record.write(folder, begun)  # the run itself takes over once it has read its rows
    return pid
