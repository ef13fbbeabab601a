"""Checkpoint folders: written hidden, published when complete, found again. Knows file names; no model and no loss."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift.system import file_modes

UNFINISHED = ".unfinished"
"""transformers.Trainer writes here; a complete checkpoint is moved out."""
STATE = "trainer_state.json"
SUMS = "checksums.json"
PREFIX = "checkpoint-"
SUMMED = (".safetensors", ".pt", ".pth", ".bin", ".distcp")
"""Suffixes of the files that resuming reads."""
OPTIMIZERS = {"optimizer.pt": "", "optimizer.bin": "fsdp", "optimizer_0": "fsdp", "latest": "deepspeed"}
"""File or folder of the optimizer's state -> the engine that wrote it."""
CANNOT_WRITE = ("inline_container", "PytorchStreamWriter", "iostream error")
"""Signs in torch.save's errors of a file that cannot be written completely."""


def steps(folder: Path) -> dict[int, Path]:
    """The checkpoints in a run's folder by step, oldest first."""
    found = {}
    for path in folder.glob(PREFIX + "*"):
        number = path.name[len(PREFIX) :]
        if number.isdigit() and path.is_dir():
            found[int(number)] = path
    return dict(sorted(found.items()))


def newest(folder: Path, say: Callable[[str], None] = lambda _: None) -> Path | None:
    """The last checkpoint of a run that training can resume from; `say` receives why later ones are skipped."""
    for path in reversed(steps(folder).values()):
        if not (reason := fault(path)):
            return path
        say(f"skipped: {reason}")
    return None


def newest_saved(folder: Path) -> Path | None:
    """The last checkpoint of a run, which may lack what resuming needs."""
    return next(reversed(steps(folder).values()), None)


def fault(path: Path) -> str:
    """Why training cannot resume from this folder, in one line; empty if it can."""
    if not path.is_dir():
        return f"there is no folder {path}"
    try:
        json.loads((path / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{path} is not a checkpoint: {STATE} is missing"
    except ValueError:
        return f"{path} is incomplete: {STATE} is not JSON"
    weights = [*path.glob("adapter_model.safetensors"), *path.glob("model*.safetensors")]
    if not weights:
        return f"{path} is incomplete: it has no weights"
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            return f"{path} is incomplete: {file.name}: {error}"
    engine = engine_of(path)
    if engine is None:
        return f"{path} has no optimizer.pt to resume from (--save_only_model true leaves it out)"
    if engine != "deepspeed" and not (path / "scheduler.pt").exists():
        return f"{path} has no scheduler.pt to resume from"
    for file in (path / "optimizer.pt", path / "scheduler.pt"):
        if file.exists() and not zipfile.is_zipfile(file):
            return f"{path} is incomplete: {file.name} is cut short"
    return _altered(path)


def engine_of(path: Path) -> str | None:
    """The engine that resuming needs: fsdp, deepspeed, or "" for neither; None if the optimizer's state is missing."""
    return next((engine for name, engine in OPTIMIZERS.items() if (path / name).exists()), None)


def _altered(path: Path) -> str:
    """Which file differs from its checksum, in one line; empty if none does, or there are no checksums."""
    try:
        sums = json.loads((path / SUMS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    except ValueError:
        return f"{path} is incomplete: {SUMS} is not JSON"
    for name, wanted in sums.items():
        if not (path / name).is_file():
            return f"{path} is incomplete: {name} is missing"
        if _sum(path / name) != wanted:
            return f"{path} is damaged: {name} does not match its checksum"
    return ""


def _sum(file: Path) -> str:
    found = 0
    with file.open("rb") as opened:
        while block := opened.read(1 << 22):
            found = zlib.crc32(block, found)
    return f"{found:08x}"


def _seal(folder: Path) -> None:
    """Writes the checksums of a finished checkpoint, by which `fault` detects data that never reached the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {str(file.relative_to(folder)): _sum(file) for file in files if file.suffix in SUMMED or file.name == STATE}
    (folder / SUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


@contextmanager
def saving(folder: Path, step: int) -> Iterator[None]:
    """Within, a failure to write a checkpoint becomes one OSError, and the incomplete checkpoint is deleted."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in CANNOT_WRITE):
            raise
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        if isinstance(error, RuntimeError):
            reason = "a file could not be written completely, as on a full disk"
        last = newest(folder)
        previous = f"the last complete one is {last}" if last else "there is no complete one yet"
        raise OSError(f"the checkpoint of step {step} cannot be saved in {folder}: {reason}; {previous}") from error


def evaluated(state: TrainerState) -> dict[int, float]:
    """Evaluation loss by step."""
    return {int(entry["step"]): entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry}


class Publish(TrainerCallback):  # type: ignore[misc]
    """Moves each checkpoint into the run's folder once it is complete, and deletes old ones.

    A run that is killed while it saves leaves the incomplete checkpoint in a hidden folder, which the next run clears.
    `finish(folder)` adds the caller's files before the move.
    """

    def __init__(self, folder: Path, keep: int | None, finish: Callable[[Path], None]) -> None:
        self.folder, self.keep, self.finish = folder, keep, finish

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)
        _wait_for_all()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # on every rank: the Trainer synchronises the ranks only if a best step is known
        losses = evaluated(state)
        rivals = [(losses[step], step) for step in {*steps(self.folder), state.global_step} if step in losses]
        if rivals:
            state.best_metric, state.best_global_step = min(rivals)
            state.best_model_checkpoint = str(self.folder / f"{PREFIX}{state.best_global_step}")
        _wait_for_all()  # every rank writes its own random state
        if state.is_world_process_zero:
            with saving(self.folder, state.global_step):
                self._publish(f"{PREFIX}{state.global_step}", state)
        _wait_for_all()

    def _publish(self, name: str, state: TrainerState) -> None:
        unfinished, final = self.folder / UNFINISHED / name, self.folder / name
        state.save_to_json(str(unfinished / STATE))
        self.finish(unfinished)
        _seal(unfinished)
        file_modes.apply_umask(unfinished)
        if final.exists():  # a run resumed from an earlier step saves this step again
            self._drop(final)
        unfinished.rename(final)
        self._drop_old(state)

    def _drop(self, path: Path) -> None:
        """Deletes a checkpoint; a run killed meanwhile leaves no part of it among the others."""
        away = self.folder / UNFINISHED / f"dropped-{path.name}"
        path.rename(away)
        shutil.rmtree(away)

    def _drop_old(self, state: TrainerState) -> None:
        """Keeps the newest and the best, and of the others the newest up to `keep` in all."""
        found = steps(self.folder)
        others = [step for step in found if step not in (max(found), state.best_global_step)]
        kept = len(others) if self.keep is None else max(self.keep - (len(found) - len(others)), 0)
        for step in others[: len(others) - kept]:
            self._drop(found[step])

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)


def _wait_for_all() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
