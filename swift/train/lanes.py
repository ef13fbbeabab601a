"""Batches of one step beside each other, each on threads of its own. Knows gradients; no rows, no model.

Products whose result has few columns do not get quicker by a second thread, and threads that share every operation
wait for each other at each: two batches on a thread each take less time than both, one after the other, on two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

LANES = 2


class Sums:
    """Gradients of a lane's jobs, added up parameter by parameter.

    A model that knows them adds large gradients itself, as soon as each is there: those of one job are never there
    together.
    """

    def __init__(self, begun: Iterable[Tensor] = ()) -> None:
        """`begun`: parameters whose `grad` is gone on with."""
        self._of = {id(each): each.grad for each in begun if each.grad is not None}

    def of(self, parameter: Tensor) -> Tensor:
        """The sum so far, to be added to; zeros at first."""
        found = self._of.get(id(parameter))
        if found is None:
            found = self._of[id(parameter)] = torch.zeros_like(parameter, requires_grad=False)
        return found

    def take(self, parameter: Tensor) -> Tensor | None:
        """The sum, which is given away; None where nothing was added."""
        return self._of.pop(id(parameter), None)

    def add(self, parameter: Tensor, gradient: Tensor | None) -> None:
        """Adds a gradient that nobody else needs."""
        if gradient is None:
            return
        if id(parameter) in self._of:
            self.of(parameter).add_(gradient)
        else:
            self._of[id(parameter)] = gradient.contiguous()


Job = Callable[[Sums], Tensor]
"""Computes a loss; gradients that it adds to the sums itself are none of the loss's."""


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

        def gradients(jobs: Sequence[Job], sums: Sums) -> tuple[Tensor, Sums]:
            loss = torch.zeros(())
            for job in jobs:
                found = job(sums)
                loss += found.detach()
                made = torch.autograd.grad(found, parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, made, strict=True):
                    sums.add(parameter, gradient)
            return loss, sums

        first = Sums(parameters)
        done = [gradients(alone, first)]
        if self._together:
            # the first lane goes on with what was there before
            own = [first, *(Sums() for _ in beside[1:])]
            running = [self._pool.submit(gradients, *each) for each in zip(beside, own, strict=False)]
            done += [each.result() for each in running]
        else:
            done += [gradients(jobs, first) for jobs in beside]
        others = [sums for _, sums in done if sums is not first]
        for parameter in parameters:
            for sums in others:
                first.add(parameter, sums.take(parameter))
            parameter.grad = first.take(parameter)
        return torch.stack([loss for loss, _ in done]).sum()
