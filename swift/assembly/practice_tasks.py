"""The tasks of a practice: from the user's files, or made; and which of them are held out. Tries none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from swift.assembly import practice_setup

if TYPE_CHECKING:
    from swift.practice.sampling import Tools
    from swift.practice.tasks import Task


def read(
    given: str | None, held_out_file: str | None, count: int, seed: int, folder: Path, tools: Tools | None
) -> tuple[list[Task], list[Task]]:
    """(tasks to practise, held-out tasks, at most `count`). Without `given`, the file of --tasks, none are to practise:
    they are made, and so are those to measure with. `folder` keeps the latter. Raises ValueError."""
    from swift.practice import record, tasks

    if not given:
        held_out = record.held_out(folder)
        if held_out is None:
            supply = practice_setup.made_tasks(seed, "held-out-", held_out=True, seen=())
            held_out = supply.draw([None] * count)
            record.keep_held_out(folder, held_out)
        return [], held_out
    pool = tasks.read_tasks(Path(given).expanduser())
    if held_out_file:
        held_out = tasks.read_tasks(Path(held_out_file).expanduser())
        contents = {task.content for task in held_out}
        if both := next((task.id for task in pool if task.content in contents), None):
            raise ValueError(f"--held_out {held_out_file}: the task '{both}' of --tasks is among them")
    else:
        pool, held_out = tasks.split(pool, 0.2)
    for name, part in (("to practise", pool), ("held out", held_out)):
        if not part:
            raise ValueError(f"--tasks {given}: no task is {name}: give more tasks, or --held_out")
    for task in (*pool, *held_out):
        _check_runs(task, tools)
    held_out, before = held_out[:count], record.held_out(folder)
    if before is None:
        record.keep_held_out(folder, held_out)
    elif before != held_out:
        raise ValueError(f"{folder}: this practice began with other held-out tasks: give another --output_dir")
    return pool, held_out


def _check_runs(task: Task, tools: Tools | None) -> None:
    """Raises ValueError for a task that needs tools which do not run."""
    from swift.practice.sampling import chosen

    if tools is not None and not task.tools:
        chosen(task, tools.offered)
        by_name = {bound.name for bound in tools.offered}
        named = [*(each.name for each in task.check.calls or ()), *(each.call.name for each in task.check.state)]
        if missing := [name for name in named if name not in by_name]:
            raise ValueError(f"task {task.id}: no tool of --tools is named '{missing[0]}' ({', '.join(by_name)})")
    elif tools is None and (task.runs or task.check.state or (task.check.calls and not task.tools)):
        raise ValueError(f"task {task.id}: its tools are not described: add 'tools' to it, or give --tools FILE.py")
