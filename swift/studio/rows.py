"""The data files that pages have open, and corrected rows that pages append to one. Knows no page."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swift.agent import jsontext
from swift.data import rows
from swift.data.data_file import DataFile
from swift.data.row_values import BadRow


class Opened:
    """The data files that are open. Opening one again gives the same, unless it has changed on the disk."""

    def __init__(self, most: int = 4) -> None:
        self._files: dict[Path, DataFile] = {}
        self._most = most
        self._lock = threading.Lock()

    def open(self, path: Path) -> DataFile:
        """Raises ValueError for a file that cannot be opened."""
        with self._lock:
            known = self._files.pop(path, None)
            if known and known.changed:
                known.close()
                known = None
            self._files[path] = found = known or DataFile(path)
            while len(self._files) > self._most:
                self._files.pop(next(iter(self._files))).close()
            return found


def add(file: Path, row: Mapping[str, Any]) -> int:
    """Appends a corrected row to a file of JSON lines, at once and whole, and returns its line.

    Raises ValueError for a row that cannot be trained, and for a file of another type.
    """
    if file.suffix != ".jsonl":
        raise ValueError(f"{file}: corrected rows go to a file that ends in .jsonl")
    try:
        rows.conversation(dict(row))
    except BadRow as bad:
        raise ValueError(f"{bad.rule}: {bad.message}") from None
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        out.seek(0)
        before = lines = 0
        last = b"\n"
        while part := out.read(1 << 20):
            before, lines, last = before + len(part), lines + part.count(b"\n"), part
        # a program that was killed may have left a line without its end
        torn = b"" if last.endswith(b"\n") else b"\n"
        out.write(torn + jsontext.dumps(row).encode() + b"\n")
    return lines + len(torn) + 1
