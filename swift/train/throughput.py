"""Tokens, seconds and padding of training steps. Knows no model and no data."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerCallback


@dataclass
class Throughput(TrainerCallback):  # type: ignore[misc]
    """Counts tokens and seconds of training steps; evaluation and saving do not count."""

    tokens: int = 0
    trained: int = 0
    area: int = 0  # tokens and padding
    seconds: float = 0.0
    _lap: tuple[int, float] = (0, 0.0)
    _start: float = field(default_factory=time.perf_counter)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds += time.perf_counter() - self._start

    def lap(self) -> float:
        """Tokens per second since the last call."""
        tokens, seconds = self._lap
        self._lap = (self.tokens, self.seconds)
        return _rate(self.tokens - tokens, self.seconds - seconds)

    @property
    def tokens_per_second(self) -> float:
        return _rate(self.tokens, self.seconds)

    @property
    def padding(self) -> float:
        """The share of computed positions that were padding, 0 to 1."""
        return 1 - self.tokens / self.area if self.area else 0.0


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds else 0.0
