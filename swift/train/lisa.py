"""LISA (arXiv 2403.17919): a few blocks are trained at a time, drawn anew every so many steps. Knows no tuner."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import TrainerCallback


class Lisa(TrainerCallback):  # type: ignore[misc]
    """Freezes all `blocks` but `active`; what is outside of them, embeddings and head, is always trained.

    What is drawn depends on the seed and the step alone, so a run that is continued draws the same. A block that is
    frozen gives its optimizer state back, which is where the memory goes.
    """

    def __init__(self, blocks: Sequence[nn.Module], active: int, interval: int, seed: int) -> None:
        if not 1 <= active <= len(blocks):
            raise ValueError(f"--lisa_activated_layers {active}: must be from 1 to the model's {len(blocks)} blocks")
        if interval < 1:
            raise ValueError(f"--lisa_step_interval {interval}: must be 1 or more")
        self.blocks, self.active, self.interval, self.seed = blocks, active, interval, seed
        self._drawn = -1

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        turn = state.global_step // self.interval
        if turn == self._drawn:
            return
        self._drawn = turn
        chosen = set(random.Random(f"{self.seed} {turn}").sample(range(len(self.blocks)), self.active))
        for index, block in enumerate(self.blocks):
            block.requires_grad_(index in chosen)
            for parameter in block.parameters() if index not in chosen else ():
                optimizer.state.pop(parameter, None)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        for block in self.blocks:
            block.requires_grad_(True)
