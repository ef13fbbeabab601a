"""The learning rate of each step of a run. Knows no model and no data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

HYPERPARAMETERS = ("lr", "initial_lr", "weight_decay", "betas", "eps")
"""Settings in an optimizer's groups that come from flags; the others are state of the run."""


def learning_rate_factor(name: str, warmup: int, steps: int, peak: float) -> Callable[[int], float]:
    """A function from the step, counted from 0, to its learning rate as a multiple of the peak.

    Warm-up is linear as in arXiv 1910.04209, min(1, t / T) with t from 1 and T = warmup + 1: the first step has rate
    1 / (warmup + 1), the step after warm-up the peak. transformers starts with a step of rate 0, which trains nothing;
    after the peak its schedules are used step for step. Raises ValueError for a peak not above the end of
    'polynomial', 1e-7.
    """
    parameter = torch.optim.SGD([torch.zeros(1)], lr=peak)  # only its rate is read
    # transformers' default, which would otherwise shift too
    more = {"timescale": warmup or 10_000} if name == "inverse_sqrt" else None
    theirs = get_scheduler(name, parameter, warmup + 1, max(steps, warmup + 1) + 1, more).lr_lambdas[0]
    return lambda step: float(theirs(step + 1))


def follow_flags(scheduler: LambdaLR, fresh: list[dict[str, Any]]) -> None:
    """Makes a scheduler and an optimizer loaded from a checkpoint follow the flags of this run.

    `fresh`: the optimizer's groups before loading. With equal flags nothing changes, bit for bit.
    """
    groups = scheduler.optimizer.param_groups
    for group, new in zip(groups, fresh, strict=True):
        group.update({name: new[name] for name in HYPERPARAMETERS if name in new})
    scheduler.base_lrs = [group["initial_lr"] for group in fresh]
    step = scheduler.last_epoch
    rates = [base * at(step) for base, at in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
