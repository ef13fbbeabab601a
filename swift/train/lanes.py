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


class Lanes:
    """Two lanes of half the threads each. Gradients are added in the order of the jobs, so a run can be repeated."""

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
        self,
        alone: Sequence[Callable[[], Tensor]],
        beside: Sequence[Callable[[], Tensor]],
        parameters: Sequence[Tensor],
    ) -> Tensor:
        """The sum of the losses that the jobs compute; their gradients are added to the parameters' `grad`.

        Jobs of `alone` have all threads, one after the other, then those of `beside` run in the lanes.
        """

        def gradients(job: Callable[[], Tensor]) -> tuple[Tensor, Sequence[Tensor | None]]:
            loss = job()
            return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

        if not self._together or len(beside) < LANES:
            alone, beside = [*alone, *beside], []
        losses = []

        def keep(loss: Tensor, found: Sequence[Tensor | None]) -> None:
            losses.append(loss)
            for parameter, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    parameter.grad = gradient.contiguous() if parameter.grad is None else parameter.grad.add_(gradient)

        for job in alone:
            keep(*gradients(job))
        for each in [self._pool.submit(gradients, job) for job in beside]:
            keep(*each.result())
        return torch.stack(losses).sum()
