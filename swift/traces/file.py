"""The JSONL file of traces: appended row by row, read again to resume. Knows no model and no tool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swift.agent.jsontext import loads
from swift.system.atomic_write import atomic_file

NOT_COMPARED = ("version",)
"""Settings that may change between the runs that write one file."""
Row = dict[str, Any]


def read_jsonl(file: Path) -> tuple[list[Row], str]:
    """The rows of a file that a program appends to, and a note if it repaired the end of the file.

    A program that is killed while it writes leaves a part of a line: it is removed from the file, and a missing line
    break is added. Raises ValueError for any other line that is not a JSON object.
    """
    if not file.is_file():
        return [], ""
    data = file.read_bytes()
    *lines, last = data.split(b"\n")
    note = ""
    if last.strip():
        try:
            json.loads(last)
        except ValueError:
            file.write_bytes(data[: len(data) - len(last)])
            note = f"{file}: removed the last line, which was written only in part"
        else:
            file.write_bytes(data + b"\n")
            lines.append(last)
    return [_row(file, number, line) for number, line in enumerate(lines, 1) if line.strip()], note


def append(file: Path, row: Mapping[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(line_of(row))


def line_of(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


class TraceFile:
    """The traces of a run, old and new.

    `done`: (id, digest) of the tasks whose traces are there. Runs that ended with an error are not: their rows are
    removed, so that they run again. `notes`: what was repaired or removed. Raises ValueError for a file that is not
    one of traces, and for traces that were made with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, settings
        rows, note = read_jsonl(path)
        self.notes = [note] if note else []
        kept = []
        for number, row in enumerate(rows, 1):
            trace = row.get("trace")
            if not isinstance(trace, dict) or not {"id", "task", "outcome", "settings"} <= trace.keys():
                raise ValueError(f"--output {path}: row {number} is not a trace: choose another file")
            if differs := _difference(trace["settings"], settings):
                raise ValueError(f"--output {path}: its traces were made with {differs}: choose another file")
            if trace["outcome"] != "error":
                kept.append(row)
        if len(kept) < len(rows):
            self.notes.append(f"{path}: runs that ended with an error and run again: {len(rows) - len(kept)}")
            with atomic_file(path) as written:
                written.write_text("".join(map(line_of, kept)), encoding="utf-8")
        self.done = {(row["trace"]["id"], row["trace"]["task"]) for row in kept}

    def add(self, row: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append(self.path, row)


def _row(file: Path, number: int, line: bytes) -> Row:
    try:
        row = loads(line.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}:{number}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{file}:{number}: not a JSON object")
    return row


def _difference(theirs: Any, ours: Mapping[str, Any]) -> str:
    """The first setting that differs, as `name value, not value`."""
    former = theirs if isinstance(theirs, dict) else {}
    now = json.loads(json.dumps(ours))
    for name in [*now, *former]:
        if name in NOT_COMPARED or former.get(name) == now.get(name):
            continue
        if isinstance(former.get(name), dict) and isinstance(now.get(name), dict):
            return _difference(former[name], now[name])
        return f"{name} {json.dumps(former.get(name))}, not {json.dumps(now.get(name))}"
    return ""
