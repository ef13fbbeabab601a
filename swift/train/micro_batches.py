"""Batches of one step beside each other, each on threads of its own. Knows gradients; no rows, no model.

Products whose result has few columns do not get quicker by a second thread, and threads that share every operation
wait for each other at each: batches on a thread each take less time than one after the other on all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


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
    """Lanes of as many threads each. Gradients are added in a fixed order, so a run can be repeated."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._lanes: list[ThreadPoolExecutor] = []

    def close(self) -> None:
        for each in self._lanes:
            each.shutdown(cancel_futures=True)

    def _open(self, number: int) -> None:
        """Lanes have a thread of Python's each, and keep it: those of OpenMP belong to it."""
        while len(self._lanes) < number:
            pool = ThreadPoolExecutor(1, "lane")
            pool.submit(torch.get_num_threads).result()  # the first call takes the process's number, whatever was said
            pool.submit(torch.set_flush_denormal, True).result()
            self._lanes.append(pool)
        for each in self._lanes[:number]:
            each.submit(torch.set_num_threads, self._threads // number).result()
        torch.set_num_threads(self._threads)  # the last call counts for threads to come

    def add_gradients(
        self, alone: Sequence[Job], beside: Sequence[Sequence[Job]], parameters: Sequence[Tensor]
    ) -> Tensor:
        """The sum of the losses that the jobs compute; their gradients are added to the parameters' `grad`.

        Jobs of `alone` have all threads, one after the other, then those of each list `beside` have a lane, where there
        are threads for each.
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
        if 1 < len(beside) <= self._threads:
            self._open(len(beside))
            # the first lane goes on with what was there before
            own = [first, *(Sums() for _ in beside[1:])]
            running = [
                lane.submit(gradients, jobs, sums) for lane, jobs, sums in zip(self._lanes, beside, own, strict=False)
            ]
            done += [each.result() for each in running]
        else:
            done += [gradients(jobs, first) for jobs in beside]
        others = [sums for _, sums in done if sums is not first]
        for parameter in parameters:
            for sums in others:
                first.add(parameter, sums.take(parameter))
            parameter.grad = first.take(parameter)
        return torch.stack([loss for loss, _ in done]).sum()
