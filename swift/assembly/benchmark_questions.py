"""The questions of the installed benchmarks, for the check that no training row repeats one. Asks no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from swift.synth.overlap import Question


def questions(files: Iterable[str | Path] = ()) -> Iterator[Question]:
    """The questions of every installed benchmark, and of files of rows. Raises OSError or ValueError for a file."""
    yield from _bfcl()
    for file in files:
        yield from _rows(Path(file))


def _bfcl() -> Iterator[Question]:
    from swift.eval.tasks.bfcl import official, task

    try:
        official.installed_version()
    except ValueError:
        return
    for category in (*task.NON_LIVE, *task.LIVE):
        for row in official.rows(category):
            text = " ".join(str(said["content"]) for turn in row["question"] for said in turn)
            yield Question("bfcl", text, tuple(str(each["name"]) for each in row["function"]))


def _rows(file: Path) -> Iterator[Question]:
    from swift.data.readers import read_rows
    from swift.data.row_values import BadRow
    from swift.data.rows import conversation

    for line, row in read_rows(file):
        if isinstance(row, BadRow):
            raise ValueError(f"{file}:{line}: {row.message}")
        try:
            made: Any = conversation(dict(row))
        except BadRow as error:
            raise ValueError(f"{file}:{line}: {error.message}") from None
        text = " ".join(message.content for message in made.messages if message.role == "user")
        yield Question(file.stem, text, tuple(tool.name for tool in made.tools))
