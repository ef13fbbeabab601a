"""The folder of a practice: tasks, attempts, rows and figures of each round. Trains and samples nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.data.row_messages import read_message
from swift.data.row_writer import as_message, write_jsonl
from swift.practice.figures import Measured, measured
from swift.practice.judging import Attempt
from swift.practice.sampling import Result
from swift.practice.selection import Selection
from swift.practice.tasks import Task, read_tasks, write_tasks
from swift.system.atomic_write import atomic_file


class Round:
    """The files of a round; round 0 is the start, which has held-out figures alone."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number, self.folder = number, folder / f"round-{number}"
        self.tasks_file, self.attempts_file = self.folder / "tasks.jsonl", self.folder / "attempts.jsonl"
        self.rows_file = self.folder / "rows.jsonl"
        self._trained, self._held_out = self.folder / "trained.json", self.folder / "held_out.json"

    def tasks(self) -> list[Task] | None:
        """The tasks that were drawn; None: not yet."""
        return read_tasks(self.tasks_file) if self.tasks_file.exists() else None

    def keep_tasks(self, tasks: Sequence[Task]) -> None:
        with atomic_file(self.tasks_file) as file:
            write_tasks(tasks, file)

    def results(self) -> list[Result]:
        """The attempts so far. The line that an interruption cut is left out, and removed from the file."""
        tasks = {task.id: task for task in self.tasks() or ()}
        text = self.attempts_file.read_text(encoding="utf-8") if self.attempts_file.exists() else ""
        whole, _, cut = text.rpartition("\n")
        if cut:
            with atomic_file(self.attempts_file) as file:
                file.write_text(whole + "\n" if whole else "", encoding="utf-8")
        return [_result(json.loads(line), tasks) for line in whole.splitlines()]

    def keep(self, result: Result) -> None:
        """Adds the attempts at a task."""
        with self.attempts_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_as_json(result), ensure_ascii=False) + "\n")

    def keep_rows(self, selection: Selection, pairs: Iterable[Mapping[str, Any]] | None) -> int:
        """Writes the rows to train on, preference pairs where `pairs` is given, and returns their number."""
        with atomic_file(self.rows_file) as file:
            if pairs is None:
                return write_jsonl(selection.rows, file)
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in pairs]
            file.write_text("".join(lines), encoding="utf-8")
            return len(lines)

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that was trained; None: not yet, or no row was left to train on."""
        name = _read(self._trained).get("checkpoint")
        return Path(name) if name else None

    @property
    def is_trained(self) -> bool:
        return self._trained.exists()

    def keep_checkpoint(self, checkpoint: Path | None, about: Mapping[str, Any]) -> None:
        _write(self._trained, {"checkpoint": str(checkpoint) if checkpoint else None, **about})

    def about(self) -> dict[str, Any]:
        """What `keep_checkpoint` was given."""
        return _read(self._trained)

    def measured(self) -> Measured | None:
        """The figures on held-out tasks; None: not yet."""
        value = _read(self._held_out)
        return measured(value) if value else None

    def keep_measured(self, figures: Measured) -> None:
        _write(self._held_out, figures.as_json())


def held_out(folder: Path) -> list[Task] | None:
    """The held-out tasks of a folder; None: not drawn yet."""
    file = folder / "held_out.jsonl"
    return read_tasks(file) if file.exists() else None


def keep_held_out(folder: Path, tasks: Sequence[Task]) -> None:
    with atomic_file(folder / "held_out.jsonl") as file:
        write_tasks(tasks, file)


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes what decides the result of a practice, or raises ValueError if the folder's began with other settings."""
    file = folder / "settings.json"
    if not file.exists():
        _write(file, settings)
        return
    before = _read(file)
    now = json.loads(json.dumps(settings))
    for name in now:
        if before.get(name) != now[name]:
            raise ValueError(
                f"{folder}: this practice began with --{name} {before.get(name)}, not {now[name]}: "
                "give another --output_dir, or the same flags to continue"
            )


def _as_json(result: Result) -> dict[str, Any]:
    attempts = [
        {
            "messages": [as_message(message) for message in each.messages],
            "tokens": each.tokens,
            "failure": each.failure,
            "detail": each.detail,
        }
        for each in result.attempts
    ]
    return {"task": result.task.id, "attempts": attempts}


def _result(line: Mapping[str, Any], tasks: Mapping[str, Task]) -> Result:
    attempts = (
        Attempt(
            tuple(read_message(item, number) for number, item in enumerate(each["messages"], 1)),
            each["tokens"],
            each["failure"],
            each["detail"],
        )
        for each in line["attempts"]
    )
    return Result(tasks[line["task"]], tuple(attempts))


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def _write(file: Path, value: Mapping[str, Any]) -> None:
    with atomic_file(file) as written:
        written.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
