"""Data files as numbered rows: what is in them, what lint finds, and where a row is. Knows no page and no tokenizer.

A thread reads a file once. Rows stay on disk: those of JSON lines in the file itself, others in a temporary file.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
import threading
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from swift.data import readers, rows
from swift.data.linting import Finding, Linter, unreadable
from swift.data.row_kinds import kind_of, source_of
from swift.data.row_values import BadRow, Row
from swift.images import Access
from swift.system import cache

FINDINGS = 100_000
"""Findings that are kept. All are counted."""
EXCERPT = 100
"""Characters of a row in a list."""


class Filter(NamedTuple):
    """Which rows are listed. `found`: only those with findings; `rule`: with one of this rule; `text`: that hold it."""

    found: bool = False
    rule: str = ""
    text: str = ""


class DataFile:
    """The rows of a file in order; `at` counts them from 0. More appear until `done`.

    `rules`: counts of (rule, whether it is a warning).
    Raises ValueError for a file that cannot be opened. One that turns out to be unreadable has a finding for line 0.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.stamp, self.done = path, stamp(path), threading.Event()
        self.findings: list[Finding] = []
        self.rules: Counter[tuple[str, bool]] = Counter()
        self.lines = array("q")
        self.kinds: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self._by_line: dict[int, list[Finding]] = {}
        self._ends = array("q")
        self._starts = array("q")
        self._notes: list[str] = []
        self.is_lines = path.suffix == ".jsonl"
        self._store: IO[bytes] | None = path.open("rb") if self.is_lines else None
        self._numbered = (
            readers.json_lines(path) if self.is_lines else self._spilled(readers.read_rows(path, self._note))
        )
        self._closed = False
        threading.Thread(target=self._read, name=f"rows of {path.name}", daemon=True).start()

    def __len__(self) -> int:
        return len(self.lines)

    def close(self) -> None:
        """Stops reading."""
        self._closed = True

    @property
    def changed(self) -> bool:
        """Whether the file is no longer the one that was opened."""
        try:
            return stamp(self.path) != self.stamp
        except ValueError:
            return True

    def row(self, at: int) -> Row | BadRow:
        """Raises ValueError if the file has changed meanwhile."""
        if self.is_lines:
            return readers.json_row(self.raw(at))
        value = pickle.loads(self._stored(at))
        return BadRow(*value) if isinstance(value, tuple) else value

    def raw(self, at: int) -> bytes:
        """The line of a row of JSON lines."""
        if self.changed:
            raise ValueError(f"{self.path} has changed on the disk: open it again")
        return self._stored(at)

    def _stored(self, at: int) -> bytes:
        assert self._store
        return os.pread(self._store.fileno(), self._ends[at] - self._starts[at], self._starts[at])

    def sizes(self) -> list[int]:
        """The bytes of each row in its file or, for other files than JSON lines, as it is kept."""
        return [end - start for start, end in zip(self._starts, self._ends, strict=False)]

    def found(self, at: int) -> list[Finding]:
        """The findings about a row."""
        return self._by_line.get(self.lines[at], [])

    def at_line(self, line: int) -> int | None:
        """Where the row of a line is; None if there is none, or not yet."""
        at = bisect_left(self.lines, line)
        return at if at < len(self.lines) and self.lines[at] == line else None

    def find(self, wanted: Filter, start: int, count: int, backwards: bool = False) -> list[int]:
        """The first `count` rows from `start` on, or up to it, that a filter lets through, in order of the file."""
        found: list[int] = []
        for at in range(min(start, len(self) - 1), -1, -1) if backwards else range(start, len(self)):
            if self._fits(wanted, at):
                found.append(at)
                if len(found) == count:
                    break
        return sorted(found)

    def _fits(self, wanted: Filter, at: int) -> bool:
        found = self._by_line.get(self.lines[at], ())
        if (wanted.found and not found) or (wanted.rule and all(each.rule != wanted.rule for each in found)):
            return False
        return not wanted.text or wanted.text.casefold() in text_of(self.row(at)).casefold()

    # Reading ---------------------------------------------------------------------------------------------------------

    def _note(self, remark: str) -> None:
        self._notes.append(remark)

    def _read(self) -> None:
        # images outside the file's folder, and those of a private network, are no business of a page
        linter = Linter(self.path, access=Access(self.path.parent, within=True, keep=None))
        try:
            for line, row, start, end in self._numbered:
                found = list(linter.row(line, row))
                if found:
                    self._keep(line, found)
                self._count(row)
                self._starts.append(start)
                self._ends.append(end)
                self.lines.append(line)
                if self._closed:
                    return
        except (ValueError, OSError) as error:
            self.findings.append(unreadable(self.path, ValueError(str(error))))
        finally:
            for finding in linter.of_file(self._notes):
                self._keep(finding.line, [finding])
            if not self.lines and not self.findings:
                self.findings.append(unreadable(self.path, ValueError("the file is empty")))
            self.done.set()

    def _keep(self, line: int, found: list[Finding]) -> None:
        self.rules.update((each.rule, each.warning) for each in found)
        if len(self.findings) < FINDINGS:
            # a row is shown beside its findings
            self.findings += (kept := [each._replace(excerpt="") for each in found])
            self._by_line.setdefault(line, []).extend(kept)

    def _count(self, row: Row | BadRow) -> None:
        try:
            kind = "cannot be read" if isinstance(row, BadRow) else kind_of(rows.read(row))
        except BadRow:
            kind = "cannot be read"
        self.kinds[kind] += 1
        self.sources[source_of(row)] += 1

    def _spilled(self, numbered: Iterator[tuple[int, Row | BadRow]]) -> Iterator[tuple[int, Row | BadRow, int, int]]:
        """The rows of any other file, which go to a temporary file that the operating system deletes."""
        start = 0
        with cache.scratch_folder() as folder:
            self._store = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # open as long as the rows
            for line, row in numbered:
                value = (row.rule, row.message, row.excerpt) if isinstance(row, BadRow) else row
                end = start + self._store.write(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
                yield line, row, start, end
                start = end


def stamp(path: Path) -> tuple[int, int, int]:
    """What changes with a file. Raises ValueError for a file that is not there."""
    try:
        state = path.stat()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    return state.st_mtime_ns, state.st_size, state.st_ino


def text_of(row: Row | BadRow) -> str:
    """All text of a row; what is left of one that cannot be read."""
    return row.excerpt if isinstance(row, BadRow) else json.dumps(row, ensure_ascii=False, default=str)


def excerpt(row: Row | BadRow) -> str:
    """The beginning of a row: of its last question, if it has one."""
    if isinstance(row, BadRow):
        return row.excerpt[:EXCERPT]
    try:
        messages = rows.read(row).messages
        asked = [message for message in messages if message.role == "user"] or messages
        text = asked[-1].content or text_of(row)
    except BadRow:
        text = text_of(row)
    return " ".join(text[: 4 * EXCERPT].split())[:EXCERPT]


def digest(row: Row | BadRow) -> str:
    """The same for equal rows."""
    value = [row.rule, row.excerpt] if isinstance(row, BadRow) else row
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode(errors="replace")).hexdigest()[:16]
