"""Batches of one step beside each other, each on threads of its own. Knows gradients; no rows, no model.

Products whose result has few columns do not get quicker by a second thread, and threads that share every operation
wait for each other at each: two batches on a thread each take less time than both, one after the other, on two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

LANES = 2
Job = Callable[[], Tensor]
"""Computes a loss."""


class Lanes:
    """Two lanes of half the threads each. Gradients are added in a fixed order, so a run can be repeated."""

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        self._together = threads >= LANES
        if self._together:
            ready = threading.Barrier(LANES + 1)

            def begin() -> None:
                torch.get_num_threads()  # the first call takes the process's number, whatever was said before
                torch.set_num_threads(threads // LANES)
                torch.set_flush_denormal(True)
                ready.wait()

            self._pool = ThreadPoolExecutor(LANES, "lane", initializer=begin)
            for _ in range(LANES):
                self._pool.submit(int)
            ready.wait()
            torch.set_num_threads(threads)  # the last call counts for threads to come

    def close(self) -> None:
        if self._together:
            self._pool.shutdown(cancel_futures=True)

    def add_gradients(
        self, alone: Sequence[Job], beside: Sequence[Sequence[Job]], parameters: Sequence[Tensor]
    ) -> Tensor:
        """The sum of the losses that the jobs compute; their gradients are added to the parameters' `grad`.

        Jobs of `alone` have all threads, one after the other, then those of each list `beside` have a lane.
        """

        def gradients(jobs: Sequence[Job]) -> tuple[Tensor, list[Tensor | None]]:
            loss = torch.zeros(())
            sums: list[Tensor | None] = [None] * len(parameters)
            for job in jobs:
                found = job()
                loss += found.detach()
                sums = list(map(_sum, sums, torch.autograd.grad(found, parameters, allow_unused=True)))
            return loss, sums

        done = [gradients(alone)]
        if self._together:
            done += [each.result() for each in [self._pool.submit(gradients, jobs) for jobs in beside]]
        else:
            done += map(gradients, beside)
        for _, found in done:
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = _sum(parameter.grad, gradient)
        return torch.stack([loss for loss, _ in done]).sum()


def _sum(sum_: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Adds to the first, where there is one."""
    if sum_ is None or more is None:
        return sum_ if more is None else more.contiguous()
    return sum_.add_(more)
