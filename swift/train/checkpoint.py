"""Checkpoint folders: written aside, published whole, found again. Knows file names; no model and no loss."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

ASIDE = ".unfinished"  # transformers.Trainer writes here; what is whole is moved out
STATE = "trainer_state.json"
PREFIX = "checkpoint-"


def steps(folder: Path) -> dict[int, Path]:
    """The checkpoints in a run's folder, by step, oldest first."""
    found = {}
    for path in folder.glob(PREFIX + "*"):
        number = path.name[len(PREFIX) :]
        if number.isdigit() and path.is_dir():
            found[int(number)] = path
    return dict(sorted(found.items()))


def newest(folder: Path) -> Path | None:
    """The last checkpoint of a run that training can go on from."""
    whole = [path for path in steps(folder).values() if not fault(path)]
    return whole[-1] if whole else None


def newest_saved(folder: Path) -> Path | None:
    """The last checkpoint of a run, which may lack what training needs to go on."""
    return next(reversed(steps(folder).values()), None)


def fault(path: Path) -> str:
    """Why training cannot go on from this folder, in one line; empty if it can."""
    if not path.is_dir():
        return f"there is no folder {path}"
    try:
        json.loads((path / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{path} is no checkpoint: it has no {STATE}"
    except ValueError:
        return f"{path} is half-written: {STATE} is no JSON"
    weights = [*path.glob("adapter_model.safetensors"), *path.glob("model*.safetensors")]
    if not weights:
        return f"{path} is half-written: it has no weights"
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            return f"{path} is half-written: {file.name}: {error}"
    for file in (path / "optimizer.pt", path / "scheduler.pt"):
        if not file.exists():
            return f"{path} has no {file.name} to go on with (--save_only_model true leaves it out)"
        if not zipfile.is_zipfile(file):
            return f"{path} is half-written: {file.name} is cut short"
    return ""


def evaluated(state: TrainerState) -> dict[int, float]:
    """Evaluation loss by step."""
    return {int(entry["step"]): entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry}


class Publish(TrainerCallback):  # type: ignore[misc]
    """Moves each checkpoint into the run's folder once every file of it is there, and drops old ones.

    A run that is killed while it saves leaves its half checkpoint in a hidden folder, which the next run clears.
    `finish(folder)` adds files of the caller's before the move.
    """

    def __init__(self, folder: Path, keep: int | None, finish: Callable[[Path], None]) -> None:
        self.folder, self.keep, self.finish = folder, keep, finish

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            shutil.rmtree(self.folder / ASIDE, ignore_errors=True)
        _wait_for_all()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # On every rank: the Trainer lets the ranks wait for each other only where a best step is known.
        losses = evaluated(state)
        rivals = [(losses[step], step) for step in {*steps(self.folder), state.global_step} if step in losses]
        if rivals:
            state.best_metric, state.best_global_step = min(rivals)
            state.best_model_checkpoint = str(self.folder / f"{PREFIX}{state.best_global_step}")
        _wait_for_all()  # every rank writes its own random state
        if state.is_world_process_zero:
            self._publish(f"{PREFIX}{state.global_step}", state)
        _wait_for_all()

    def _publish(self, name: str, state: TrainerState) -> None:
        aside, final = self.folder / ASIDE / name, self.folder / name
        state.save_to_json(str(aside / STATE))
        self.finish(aside)
        if final.exists():  # a run that was continued from an earlier step comes by again
            shutil.rmtree(final)
        aside.rename(final)
        self._drop_old(state)

    def _drop_old(self, state: TrainerState) -> None:
        """The newest and the best always stay; `keep` says how many stay in all, the newest first."""
        found = steps(self.folder)
        others = [step for step in found if step not in (max(found), state.best_global_step)]
        room = len(others) if self.keep is None else max(self.keep - (len(found) - len(others)), 0)
        for step in others[: len(others) - room]:
            shutil.rmtree(found[step])

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            shutil.rmtree(self.folder / ASIDE, ignore_errors=True)


def _wait_for_all() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
