"""How far long work is: a bar on a terminal, else a line now and then, both on standard error. Knows no work."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from swift.system import terminal
from swift.system.durations import duration

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
AFTER = 2.0
"""Seconds after which work has a bar on a terminal; shorter work shows none."""
EVERY = 10.0
"""Seconds between two lines in a file or pipe."""


class Work:
    """Work under way; `advance` may be called from any thread. `total`: its parts; None where they are unknown."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self.began = time.monotonic()
        self._ended = threading.Event()
        self._told = False

    def advance(self, parts: int = 1) -> None:
        self.done += parts

    def line(self) -> str:
        """`read rows: 1,200 of 40,000 in 0:20, 10:47 left`"""
        return f"{self.what}: {self.facts()}"

    def facts(self) -> str:
        spent = time.monotonic() - self.began
        if not self.total:
            return f"{f'{self.done:,} in ' if self.done else ''}{duration(spent)}"
        left = f", {duration(spent / self.done * (self.total - self.done))} left" if self.done else ""
        return f"{self.done:,} of {self.total:,} in {duration(spent)}{left}"

    def show(self) -> None:
        """Shows the work until it ends: runs on a thread."""
        if not terminal.is_live(sys.stderr):
            while not self._ended.wait(EVERY):
                self._told = True
                print(self.line(), file=sys.stderr, flush=True)
        elif not self._ended.wait(AFTER):
            self._bar()

    def end(self) -> None:
        self._ended.set()

    def closing_line(self) -> str:
        """What a file is told at the end, if it was told that the work was under way."""
        return f"{self.what}: done in {duration(time.monotonic() - self.began)}" if self._told else ""

    def _bar(self) -> None:
        with _bars() as bars:
            task = bars.add_task(self.what, total=self.total, completed=self.done, facts=self.facts())
            while not self._ended.wait(0.2):
                bars.update(task, completed=self.done, facts=self.facts())
            bars.remove_task(task)


@contextmanager
def working(what: str, total: int | None = None) -> Iterator[Work]:
    """Shows `what` while the block runs. In other processes than the first of a training it shows nothing."""
    work = Work(what, total)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield work
        return
    thread = threading.Thread(target=work.show, name="progress", daemon=True)
    thread.start()
    try:
        yield work
    except BaseException:
        work.end()
        thread.join()
        raise
    work.end()
    thread.join()
    if line := work.closing_line():
        print(line, file=sys.stderr, flush=True)


def tracked(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items, each counted as done when the next one is taken."""
    with working(what, total) as work:
        for item in items:
            yield item
            work.advance()


_lock = threading.Lock()
_shared: list[Progress] = []
_users = 0


@contextmanager
def _bars() -> Iterator[Progress]:
    """The bars of the terminal, which works within works share: two at once would overwrite each other."""
    global _users
    from rich.progress import BarColumn, Progress, TextColumn

    with _lock:
        if not _users:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[facts]}"))
            # what is printed to a terminal goes above the bars; to a file it goes unchanged
            above = sys.stdout.isatty()
            bars = Progress(*columns, console=terminal.console(stderr=True), transient=True, redirect_stdout=above)
            bars.start()
            _shared.append(bars)
        _users += 1
    try:
        yield _shared[0]
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _shared.pop().stop()
