"""Edits of a data file that are not saved yet, and the new file. Knows no page.

A saved file is JSON lines; it never replaces another.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from swift.agent import jsontext
from swift.data.data_file import DataFile, digest
from swift.data.row_values import BadRow, Row
from swift.system.atomic_write import atomic_file


class Edits:
    """The edits of a data file that are not saved yet, in a file of their own: they outlive the page and its server."""

    def __init__(self, folder: Path, data: Path) -> None:
        self._data = data
        self._file = folder / f"{data.stem}-{hashlib.sha256(str(data).encode()).hexdigest()[:12]}.json"

    def all(self) -> dict[int, Row]:
        """The new rows by line, also of lines that have changed since."""
        return {line: edit["row"] for line, edit in self._read().items()}

    def get(self, line: int, row: Row | BadRow) -> Row | None:
        """The new row of a line. Raises ValueError if the file has another row there than when it was edited."""
        edit = self._read().get(line)
        if edit and edit["of"] != digest(row):
            raise ValueError(f"line {line} has changed on the disk since it was edited: discard the edit")
        return edit["row"] if edit else None

    def set(self, line: int, row: Row | BadRow, new: Row | None) -> None:
        """Keeps the new row of a line; None discards it."""
        edits = self._read()
        edits.pop(line, None)
        if new is not None and new != row:
            edits[line] = {"of": digest(row), "row": new}
        self._write(edits)

    def clear(self) -> None:
        self._file.unlink(missing_ok=True)

    def _read(self) -> dict[int, dict[str, Any]]:
        if not self._file.is_file():
            return {}
        written = json.loads(self._file.read_text(encoding="utf-8"))
        return {int(line): edit for line, edit in written["edits"].items()}

    def _write(self, edits: Mapping[int, Any]) -> None:
        if not edits:
            self.clear()
            return
        with atomic_file(self._file) as written:
            text = jsontext.dumps({"file": str(self._data), "edits": {str(line): each for line, each in edits.items()}})
            written.write_text(text, encoding="utf-8")


class Saved(NamedTuple):
    """A new file. `unreadable`: the lines of rows that cannot be read; `kept`: whether they are in it nevertheless."""

    rows: int
    edited: int
    unreadable: list[int]
    kept: bool


def save(data: DataFile, edits: Edits, target: Path) -> Saved:
    """Writes all rows with their edits to a new file of JSON lines, complete or not at all.

    Lines of JSON lines that were not edited stay as they are, byte for byte, also those that are not JSON. Raises
    ValueError for a file that exists, for another type, and if rows have changed on the disk since they were edited.
    """
    if target.suffix != ".jsonl":
        raise ValueError(f"{target.name}: rows are saved as JSON lines: choose a name that ends in .jsonl")
    if target.exists():
        raise ValueError(f"{target} exists: choose another name")
    data.done.wait()
    if data.changed:
        raise ValueError(f"{data.path} has changed on the disk: open it again")
    count, edited, unreadable = 0, 0, list[int]()
    left = set(edits.all())
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        written = Path(folder) / target.name
        with written.open("wb") as out:
            for at, line in enumerate(data.lines):
                row = data.row(at)
                new = edits.get(line, row) if line in left else None
                left.discard(line)
                if new is None and isinstance(row, BadRow):
                    unreadable.append(line)
                    if not data.is_lines:
                        continue
                edited += new is not None
                count += 1
                out.write(_line(data, at, row, new))
        if left:
            raise ValueError(f"{data.path} has no line {min(left)} any more, which was edited: discard the edit")
        _publish(written, target)
    return Saved(count, edited, unreadable, data.is_lines)


def _line(data: DataFile, at: int, row: Row | BadRow, new: Row | None) -> bytes:
    if new is None and data.is_lines:
        return data.raw(at).rstrip(b"\r\n") + b"\n"
    return jsontext.dumps(row if new is None else new).encode() + b"\n"


def _publish(written: Path, target: Path) -> None:
    """Gives a whole file its name. Raises ValueError if another program has taken it meanwhile."""
    try:
        try:
            os.link(written, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without links: the name is taken first
            target.open("xb").close()
            written.replace(target)
    except FileExistsError:
        raise ValueError(f"{target} exists: choose another name") from None
