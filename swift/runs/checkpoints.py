"""The checkpoints in a run's folder, by their file names. Reads no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_0", "latest")
"""Files or folders of an optimizer's state, as `swift.train.checkpoint` knows them."""


class Checkpoint(NamedTuple):
    """`resumable`: whether it has an optimizer's state. `eval_loss`: None where nothing was evaluated at its step."""

    folder: Path
    step: int
    resumable: bool
    eval_loss: float | None


def of(folder: Path) -> list[Checkpoint]:
    """Oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit() and path.is_dir()]
    return sorted(map(_checkpoint, found), key=lambda each: each.step)


def _checkpoint(folder: Path) -> Checkpoint:
    step = int(folder.name.removeprefix("checkpoint-"))
    resumable = any((folder / name).exists() for name in OPTIMIZERS)
    return Checkpoint(folder, step, resumable, _eval_loss(folder, step))


def _eval_loss(folder: Path, step: int) -> float | None:
    try:
        history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        return next((line["eval_loss"] for line in history if line["step"] == step and "eval_loss" in line), None)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged, or of another program
