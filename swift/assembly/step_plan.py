"""Flags and rows -> the number of steps: defaults that suit small data sets, and notes on unusual settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from swift.flag_groups import TrainFlags
from swift.train.steps import Steps, warmup_steps

ROWS_PER_STEP = 16
ENOUGH_STEPS = 200
"""Steps that the defaults aim at: about as many as rank 8 at 1e-4 needs to learn a small data set."""
MOST_EPOCHS = 30
FEW_STEPS = 50


def steps_of(
    train: TrainFlags,
    rows: int | None,
    world: int,
    recorded: Mapping[str, Any],
    most_epochs: int = MOST_EPOCHS,
) -> Steps:
    """The steps of a run, with defaults for --gradient_accumulation_steps and --num_train_epochs.

    A data set too small for `ENOUGH_STEPS` steps of `ROWS_PER_STEP` rows gets smaller steps, then more epochs.
    `recorded`: flags and `world` of the checkpoint to resume, whose steps are kept.
    """
    micro_batch = train.batch_size * world
    counted = rows is not None and train.max_steps < 1
    accumulation = train.gradient_accumulation_steps
    if accumulation is None and "gradient_accumulation_steps" in recorded:
        before = recorded["batch_size"] * recorded["gradient_accumulation_steps"] * recorded.get("world", 1)
        accumulation = max(round(before / micro_batch), 1)
    if accumulation is None:
        accumulation = math.ceil(ROWS_PER_STEP / micro_batch)
        if counted and rows is not None:
            passes = train.num_train_epochs or 1
            accumulation = min(max(int(rows * passes / ENOUGH_STEPS / micro_batch), 1), accumulation)
    epochs = train.num_train_epochs
    if epochs is None:
        epochs = 1.0
        if counted:
            in_epoch = Steps(rows, train.batch_size, accumulation, world, 1).in_epoch
            epochs = float(min(max(round(ENOUGH_STEPS / in_epoch), 1), most_epochs))
    return Steps(rows, train.batch_size, accumulation, world, epochs, train.max_steps)


def say_plan(
    given: TrainFlags, train: TrainFlags, steps: Steps, held_out: int, say: Callable[[str], None], unit: str = "row"
) -> None:
    """Reports the defaults chosen for a small data set, and unusual settings, a line each.

    `given`: the flags before defaults were chosen. `unit`: what makes up a step, row or sample.
    """
    open_flags = [
        f"--{name}"
        for name in ("gradient_accumulation_steps", "num_train_epochs")
        if getattr(given, name) is None and train.max_steps < 1
    ]
    usual = (math.ceil(ROWS_PER_STEP / (steps.batch_size * steps.world)), 1.0)
    if open_flags and steps.rows is not None and (steps.accumulation, steps.epochs) != usual:
        made = f"{_count(steps.total, 'step')} of {_count(steps.rows_per_step, unit)}, {steps.epochs:g} epochs"
        say(f"small set: {_count(steps.rows, unit)} trained in {made} ({' and '.join(open_flags)} left open)")
    for line in _notes(train, steps, held_out, unit):
        say(f"note: {line}")


def _notes(train: TrainFlags, steps: Steps, held_out: int, unit: str) -> list[str]:
    found = []
    if steps.total < FEW_STEPS:
        found.append(f"the run has {_count(steps.total, 'step')}, in which a model learns little: {_more(steps)}")
    warmup = warmup_steps(train.optimizer.warmup_steps or train.optimizer.warmup_ratio, steps.total)
    if warmup >= steps.total and train.optimizer.lr_scheduler_type != "constant":
        reached = (train.optimizer.learning_rate or 0) * steps.total / (warmup + 1)
        found.append(
            f"--warmup_steps {warmup} is not less than the {_count(steps.total, 'step')} of the run: "
            f"the learning rate rises to {reached:.3g} of {train.optimizer.learning_rate:.3g}"
        )
    if steps.rows is not None and held_out > steps.rows:
        found.append(
            f"{held_out:,} {unit}s are held out and {steps.rows:,} are trained, so evaluation takes most of the time: "
            f"--val_dataset_sample {steps.rows} evaluates fewer, --eval_strategy no none"
        )
    return found


def _more(steps: Steps) -> str:
    if steps.max_steps > 0 or steps.rows is None:
        return f"--max_steps {ENOUGH_STEPS} makes more"
    epochs = math.ceil(ENOUGH_STEPS / steps.in_epoch)
    return f"--num_train_epochs {epochs} makes {epochs * steps.in_epoch}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
