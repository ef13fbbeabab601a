"""Runs the micro-batches of a step in parallel, on threads. Knows gradients; no rows and no model.

On a CPU, products whose result has few columns do not get faster with a second thread, and threads that share every
operation synchronise at each: one micro-batch per thread takes less time than all threads on one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


class Sums:
    """Gradients summed by parameter over the micro-batches of a worker.

    A model that knows `Sums` adds each large gradient as soon as it is computed, so that a micro-batch never holds all
    of them.
    """

    def __init__(self, started: Iterable[Tensor] = ()) -> None:
        """`started`: parameters whose `grad` is the initial sum."""
        self._of = {id(each): each.grad for each in started if each.grad is not None}

    def of(self, parameter: Tensor) -> Tensor:
        """The sum so far, to be added to in place; zeros at first."""
        found = self._of.get(id(parameter))
        if found is None:
            found = self._of[id(parameter)] = torch.zeros_like(parameter, requires_grad=False)
        return found

    def take(self, parameter: Tensor) -> Tensor | None:
        """Removes and returns the sum; None where nothing was added."""
        return self._of.pop(id(parameter), None)

    def add(self, parameter: Tensor, gradient: Tensor | None) -> None:
        """Adds a gradient; takes ownership of its memory."""
        if gradient is None:
            return
        if id(parameter) in self._of:
            self.of(parameter).add_(gradient)
        else:
            self._of[id(parameter)] = gradient.contiguous()


Job = Callable[[Sums], Tensor]
"""Computes the loss of a micro-batch; gradients that it adds to the sums itself are not part of the loss's graph."""


class ParallelMicroBatches:
    """Worker threads, each with an equal share of the OpenMP threads.

    Gradients are added in a fixed order, so that runs are reproducible.
    """

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._workers: list[ThreadPoolExecutor] = []

    def close(self) -> None:
        for each in self._workers:
            each.shutdown(cancel_futures=True)

    def _open(self, number: int) -> None:
        """Starts workers up to `number`. Each keeps its Python thread, which owns its OpenMP threads."""
        while len(self._workers) < number:
            pool = ThreadPoolExecutor(1, "micro-batches")
            pool.submit(torch.get_num_threads).result()  # the first call resets a thread to the process's number
            pool.submit(torch.set_flush_denormal, True).result()
            self._workers.append(pool)
        for each in self._workers[:number]:
            each.submit(torch.set_num_threads, self._threads // number).result()
        torch.set_num_threads(self._threads)  # the last call sets the number for threads to come

    def add_gradients(
        self, serial: Sequence[Job], parallel: Sequence[Sequence[Job]], parameters: Sequence[Tensor]
    ) -> Tensor:
        """Adds the gradients of all jobs to the parameters' `grad` and returns the sum of their losses.

        `serial` jobs run one after the other on all threads; then each list of `parallel` runs on a worker, or here
        where there are fewer threads than lists.
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
        done = [gradients(serial, first)]
        if 1 < len(parallel) <= self._threads:
            self._open(len(parallel))
            # the first worker adds to the sums of the serial jobs
            own = [first, *(Sums() for _ in parallel[1:])]
            running = [
                worker.submit(gradients, jobs, sums)
                for worker, jobs, sums in zip(self._workers, parallel, own, strict=False)
            ]
            done += [each.result() for each in running]
        else:
            done += [gradients(jobs, first) for jobs in parallel]
        others = [sums for _, sums in done if sums is not first]
        for parameter in parameters:
            for sums in others:
                first.add(parameter, sums.take(parameter))
            parameter.grad = first.take(parameter)
        return torch.stack([loss for loss, _ in done]).sum()
