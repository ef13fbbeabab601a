"""train.log, the lines that a training run prints, kept in its folder: written, read, followed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

FILE = "train.log"
SECONDS = 0.3
"""Between two looks at a log that is followed."""


class LogFile:
    """Appends lines. Lines before `open` are kept and written by it; a full disk loses lines, not the run."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn, self._warned = warn, False
        self._before: list[str] = []
        self._file: Path | None = None

    def open(self, folder: Path, title: str) -> None:
        """Names the folder. `title` begins the part of this process in the log."""
        self._file = folder / FILE
        self._append("".join(f"{line}\n" for line in [title, *self._before]))
        self._before.clear()

    def write(self, text: str) -> None:
        if self._file is None:
            self._before.append(text)
        else:
            self._append(f"{text}\n")

    def _append(self, text: str) -> None:
        assert self._file is not None
        try:
            with self._file.open("a", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(f"warning: {self._file} cannot be written ({error.strerror}); training goes on")


def read(folder: Path, last: int | None = None) -> str:
    """The log, or its last lines. Raises FileNotFoundError with a line that says so where there is none."""
    with _opened(folder) as file:
        return _end(file.read(), last)


def follow(folder: Path, is_active: Callable[[], bool], last: int | None = None) -> Iterator[str]:
    """The log, or its last lines, then what is appended to it, until the run has ended. Raises as `read` does."""
    with _opened(folder) as file:
        yield _end(file.read(), last)
        while True:
            active = is_active()  # before the file is read, so that the last lines are not lost
            if new := file.read():
                yield new
            if not active:
                return
            time.sleep(SECONDS)


def _opened(folder: Path) -> TextIO:
    try:
        return (folder / FILE).open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {FILE}") from None


def _end(text: str, last: int | None) -> str:
    if last is None:
        return text
    lines = text.splitlines(keepends=True)
    return "".join(lines[len(lines) - min(last, len(lines)) :])
