"""What is said of runs while they end and when all have: a bar or lines, and counts. Knows only traces."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from swift.system.terminal import is_live


class Summary:
    """Counts of the finished runs."""

    def __init__(self, tasks: int) -> None:
        self._tasks, self._began = tasks, time.monotonic()
        self.outcomes: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._calls = self._tokens = self._prompt_tokens = 0

    def add(self, trace: Mapping[str, Any]) -> None:
        self.outcomes[trace["outcome"]] += 1
        self._calls += len(trace["calls"])
        self._failures.update(call["failure"] for call in trace["calls"] if call["failure"])
        self._tokens += trace["usage"]["completion_tokens"]
        self._prompt_tokens += trace["usage"]["prompt_tokens"]

    def lines(self) -> list[str]:
        seconds = time.monotonic() - self._began
        done = self.outcomes.total()
        failed = f", {self._failures.total()} failed ({_counted(self._failures)})" if self._failures else ""
        return [
            f"{done} of {self._tasks} tasks: {_counted(self.outcomes) or 'none finished'}",
            f"{self._calls} call{'s' * (self._calls != 1)}{failed}",
            f"{self._tokens} tokens in {seconds:.1f} s ({self._tokens / max(seconds, 1e-9):.1f} tokens/s), "
            f"{self._prompt_tokens} of prompts",
        ]


@contextmanager
def progress(console: Console, tasks: int, shown: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function to call with each finished trace: a bar on a terminal, a line a run elsewhere."""
    if not shown or not is_live(console.file):
        counted = count(1)

        def line(trace: Mapping[str, Any]) -> None:
            if shown:
                console.print(f"{next(counted)}/{tasks} {one_line(trace)}", markup=False, soft_wrap=True)

        yield line
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    outcomes: Counter[str] = Counter()
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        running = bar.add_task("", total=tasks)

        def step(trace: Mapping[str, Any]) -> None:
            outcomes[trace["outcome"]] += 1
            if trace["outcome"] != "answer":
                bar.console.print(one_line(trace), markup=False, soft_wrap=True)
            bar.update(running, advance=1, description=_counted(outcomes))

        yield step


def one_line(trace: Mapping[str, Any]) -> str:
    """How a run ended."""
    why = f" ({trace['error']})" if "error" in trace else ""
    calls = len(trace["calls"])
    declined = len(trace.get("declined_calls", ()))
    counted = f"{calls} call{'s' * (calls != 1)}" + (f" ({declined} doubtful not made)" if declined else "")
    return f"{trace['id']}: {trace['outcome']}{why}, {counted}, {trace['seconds']:.1f} s"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.most_common())
