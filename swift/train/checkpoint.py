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
"""Endings of the files that training goes on from."""
OPTIMIZERS = {"optimizer.pt": "", "optimizer.bin": "fsdp", "optimizer_0": "fsdp", "latest": "deepspeed"}
"""What stands for the optimizer's state, and the engine that wrote it."""
CANNOT_WRITE = ("inline_container", "PytorchStreamWriter", "iostream error")
"""What torch.save says of a file that it cannot write to the end."""


def steps(folder: Path) -> dict[int, Path]:
    """The checkpoints in a run's folder, by step, oldest first."""
    found = {}
    for path in folder.glob(PREFIX + "*"):
        number = path.name[len(PREFIX) :]
        if number.isdigit() and path.is_dir():
            found[int(number)] = path
    return dict(sorted(found.items()))


def newest(folder: Path, say: Callable[[str], None] = lambda _: None) -> Path | None:
    """The last checkpoint of a run that training can go on from; `say` hears why later ones are passed over."""
    for path in reversed(steps(folder).values()):
        if not (reason := fault(path)):
            return path
        say(f"passed over: {reason}")
    return None


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
    engine = engine_of(path)
    if engine is None:
        return f"{path} has no optimizer.pt to go on with (--save_only_model true leaves it out)"
    if engine != "deepspeed" and not (path / "scheduler.pt").exists():
        return f"{path} has no scheduler.pt to go on with"
    for file in (path / "optimizer.pt", path / "scheduler.pt"):
        if file.exists() and not zipfile.is_zipfile(file):
            return f"{path} is half-written: {file.name} is cut short"
    return _altered(path)


def engine_of(path: Path) -> str | None:
    """What has to run for a checkpoint to be gone on from: fsdp, deepspeed, or "" for neither; None: it cannot be."""
    return next((engine for name, engine in OPTIMIZERS.items() if (path / name).exists()), None)


def _altered(path: Path) -> str:
    """Which file is not as it was written, in one line; empty if all are, or nobody wrote down how they were."""
    try:
        sums = json.loads((path / SUMS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    except ValueError:
        return f"{path} is half-written: {SUMS} is no JSON"
    for name, wanted in sums.items():
        if not (path / name).is_file():
            return f"{path} is not whole: {name} is missing"
        if _sum(path / name) != wanted:
            return f"{path} is damaged: {name} is not what was saved (by its checksum)"
    return ""


def _sum(file: Path) -> str:
    found = 0
    with file.open("rb") as opened:
        while block := opened.read(1 << 22):
            found = zlib.crc32(block, found)
    return f"{found:08x}"


def _seal(folder: Path) -> None:
    """Writes down the checksums of a finished checkpoint: by them `fault` knows one that never reached the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {str(file.relative_to(folder)): _sum(file) for file in files if file.suffix in SUMMED or file.name == STATE}
    (folder / SUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


@contextmanager
def saving(folder: Path, step: int) -> Iterator[None]:
    """Within, what keeps a checkpoint from being written is one OSError, and the half of it is deleted."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in CANNOT_WRITE):
            raise
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        if isinstance(error, RuntimeError):
            reason = "a file could not be written to its end, as on a full disk"
        last = newest(folder)
        stands = f"the last whole one is {last}" if last else "there is no whole one yet"
        raise OSError(f"the checkpoint of step {step} cannot be saved in {folder}: {reason}; {stands}") from error


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
            shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)
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
            with saving(self.folder, state.global_step):
                self._publish(f"{PREFIX}{state.global_step}", state)
        _wait_for_all()

    def _publish(self, name: str, state: TrainerState) -> None:
        unfinished, final = self.folder / UNFINISHED / name, self.folder / name
        state.save_to_json(str(unfinished / STATE))
        self.finish(unfinished)
        _seal(unfinished)
        file_modes.apply_umask(unfinished)
        if final.exists():  # a run that was continued from an earlier step comes by again
            self._drop(final)
        unfinished.rename(final)
        self._drop_old(state)

    def _drop(self, path: Path) -> None:
        """Deletes a checkpoint; one that is killed meanwhile leaves no half of it among the others."""
        away = self.folder / UNFINISHED / f"dropped-{path.name}"
        path.rename(away)
        shutil.rmtree(away)

    def _drop_old(self, state: TrainerState) -> None:
        """The newest and the best always stay; `keep` says how many stay in all, the newest first."""
        found = steps(self.folder)
        others = [step for step in found if step not in (max(found), state.best_global_step)]
        room = len(others) if self.keep is None else max(self.keep - (len(found) - len(others)), 0)
        for step in others[: len(others) - room]:
            self._drop(found[step])

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)


def _wait_for_all() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
