"""LISA (arXiv 2403.17919): trains a few random blocks at a time. Knows no tuner."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import TrainerCallback


class Lisa(TrainerCallback):  # type: ignore[misc]
    """Freezes all but `active` of the `blocks`; embeddings and head are always trained.

    The choice depends only on seed and step, so a resumed run makes the same. A frozen block loses its optimizer
    state, which saves the memory.
    """

    def __init__(self, blocks: Sequence[nn.Module], active: int, interval: int, seed: int) -> None:
        if not 1 <= active <= len(blocks):
            raise ValueError(f"--lisa_activated_layers {active}: must be from 1 to the model's {len(blocks)} blocks")
        if interval < 1:
            raise ValueError(f"--lisa_step_interval {interval}: must be 1 or more")
        self.blocks, self.active, self.interval, self.seed = blocks, active, interval, seed
        self._drawn = -1

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        interval = state.global_step // self.interval
        if interval == self._drawn:
            return
        self._drawn = interval
        chosen = set(random.Random(f"{self.seed} {interval}").sample(range(len(self.blocks)), self.active))
        for index, block in enumerate(self.blocks):
            block.requires_grad_(index in chosen)
            for parameter in block.parameters() if index not in chosen else ():
                optimizer.state.pop(parameter, None)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        for block in self.blocks:
            block.requires_grad_(True)
