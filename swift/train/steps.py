"""How many steps a run has. Knows counts alone; imports nothing heavy, as commands need it before they load torch."""

from __future__ import annotations

import math
from typing import NamedTuple


class Steps(NamedTuple):
    """The counts that decide how many steps a run has. `rows` is None where nobody knows how many there are."""

    rows: int | None
    batch_size: int
    accumulation: int
    world: int
    epochs: float
    max_steps: int = -1
    """Above 0 it decides alone."""

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.world

    @property
    def in_epoch(self) -> int:
        """Steps of one pass over the rows; the last of them can be short."""
        assert self.rows is not None, "an endless stream has no epochs"
        return max(math.ceil(self.rows / self.rows_per_step), 1)

    @property
    def total(self) -> int:
        return self.max_steps if self.max_steps > 0 else math.ceil(self.epochs * self.in_epoch)


def warmup_steps(given: float, steps: int) -> int:
    """Steps before the peak: `given` itself from 1 on, below it a share of `steps` that leaves the last at the peak."""
    return int(given) if given >= 1 else min(math.ceil(steps * given), steps - 1)
