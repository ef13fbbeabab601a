"""Asks the questions that are left and stores the answers, with progress on standard error. Knows no flag."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from swift.eval import runner
from swift.eval.records import Store
from swift.eval.runner import Job, Model
from swift.system import terminal
from swift.system.terminal import is_live


def ask(model: Model, missing: Sequence[Job], store: Store, workers: int, folder: Path) -> None:
    """Asks and stores. Progress: a bar in a terminal, else a line for each tenth. Ctrl-C keeps what is stored."""
    console = terminal.console(stderr=True)
    columns = (
        TextColumn("ask"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("right {task.fields[right]:.0%}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    done, right, began = 0, 0, time.monotonic()
    bars = Progress(*columns, console=console, disable=not is_live(sys.stderr), redirect_stdout=sys.stdout.isatty())
    try:
        with (
            bars as bar,
            closing(runner.run(model, missing, workers)) as records,
        ):
            shown = bar.add_task("ask", total=len(missing), right=0.0)
            for record in records:
                store.add(record)
                done, right = done + 1, right + record.correct
                bar.update(shown, completed=done, right=right / done)
                if not is_live(sys.stderr) and 10 * done // len(missing) > 10 * (done - 1) // len(missing):
                    left = (time.monotonic() - began) / done * (len(missing) - done)
                    _say(f"{done:,} of {len(missing):,} asked, right {right / done:.0%}, {left:.0f} s left")
    except KeyboardInterrupt:
        _say(f"stopped: {len(store.records):,} answers are in {folder}; the same command continues")
        raise


def _say(line: str) -> None:
    print(line, file=sys.stderr)
