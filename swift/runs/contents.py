"""Everything that the files in a run's folder say of it, in one value. Reads no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from swift.runs import checkpoints, history
from swift.runs.checkpoints import Checkpoint
from swift.runs.record import Run

FLAGS, MIXTURE, MACHINE = "sft_args.json", "mixture.json", "machine.json"


class Contents(NamedTuple):
    """`history`: log lines. `flags`, `mixture`, `machine`: their files; empty where one is missing or damaged."""

    run: Run
    history: list[dict[str, Any]]
    saved: list[Checkpoint]
    flags: dict[str, Any]
    mixture: dict[str, Any]
    machine: dict[str, Any]


def read(run: Run) -> Contents:
    folder = run.folder
    files = (_json(folder / name) for name in (FLAGS, MIXTURE, MACHINE))
    return Contents(run, history.read(folder), checkpoints.of(folder), *files)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
