"""The number of steps of a run. Knows only counts; imports nothing heavy, since commands need it before torch."""

from __future__ import annotations

import math
from typing import NamedTuple


class Steps(NamedTuple):
    """The counts that determine the number of steps. `rows` is None for a stream."""

    rows: int | None
    batch_size: int
    accumulation: int
    world: int
    epochs: float
    max_steps: int = -1
    """Above 0 it overrides the others."""

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.world

    @property
    def in_epoch(self) -> int:
        """Steps of one pass over the rows; the last can be short."""
        assert self.rows is not None, "an endless stream has no epochs"
        return max(math.ceil(self.rows / self.rows_per_step), 1)

    @property
    def total(self) -> int:
        return self.max_steps if self.max_steps > 0 else math.ceil(self.epochs * self.in_epoch)


def warmup_steps(given: float, steps: int) -> int:
    """Warm-up steps: `given` if it is 1 or more, else that share of `steps`, at most all but the last."""
    return int(given) if given >= 1 else min(math.ceil(steps * given), steps - 1)
