"""Signs of life of a run: what it does, its step, its figures. Knows no file and no process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift.train.checkpoint import PREFIX

FIGURES = ("loss", "eval_loss", "tokens_per_second")
"""Keys of log lines that are told."""
Tell = Callable[[str, Mapping[str, Any]], None]


class Heartbeat(TrainerCallback):  # type: ignore[misc]
    """Calls `tell(state, figures)` after each micro-batch, step, log line and checkpoint, in the first process only.

    `state`: "running" or "saving"; empty where it stays as it is. `figures`: those that have changed.
    """

    def __init__(self, folder: Path, tell: Tell) -> None:
        self.folder, self.tell = folder, tell
        self._began, self._first = 0.0, 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._began, self._first = time.perf_counter(), state.global_step
            self.tell("running", {"step": state.global_step, "steps": state.max_steps, "epoch": state.epoch})

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.tell("", {})

    on_prediction_step = on_substep_end

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            seconds = (time.perf_counter() - self._began) / max(state.global_step - self._first, 1)
            left = seconds * (state.max_steps - state.global_step)
            figures = {"step": state.global_step, "epoch": state.epoch, "step_seconds": seconds, "seconds_left": left}
            saves_next = control.should_save and not control.should_evaluate
            self.tell("saving" if saves_next else "", figures)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and control.should_save:
            self.tell("saving", {})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            self.tell("", {name: _finite(logs[name]) for name in FIGURES if name in logs})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.tell("running", {"checkpoint": str(self.folder / f"{PREFIX}{state.global_step}")})


def _finite(value: float) -> float | None:
    """NaN and infinity are not JSON."""
    return float(value) if math.isfinite(value) else None
