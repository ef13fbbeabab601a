"""Data sets that tokenise a row when it is trained on: streams and lazy lists. Knows no text."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar, overload

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from swift.chat import Sample
from swift.train.batch import POOL, Batch, batches_of_rank, collate
from swift.train.sample_cache import CompactSamples

Row = TypeVar("Row")
LEFT_OUT = Sample([0], [0.0])
"""Replaces a dropped row whose place in the order is fixed: one token of weight 0."""


class Stream(IterableDataset[list[Sample]], Generic[Row]):
    """Endless micro-batches of one rank; rows are read again for each pass.

    A pass reads `rows(pass number, aloud)`, aloud only in the first pass of one process, and mixes them with a seeded
    shuffle buffer of `buffer` rows. Pools of `POOL` steps are sorted by `size`, cut into steps and distributed like
    those of `StepBatches`: which rows make a step depends only on the rows per step. Each row is tokenised once, in
    the process that trains on it. `make` returns None for a dropped row, and its step is a row short.
    """

    def __init__(
        self,
        rows: Callable[[int, bool], Iterable[Row]],
        size: Callable[[Row], int],
        make: Callable[[Row], Sample | None],
        batch_size: int,
        accumulation: int,
        *,
        buffer: int = 1000,
        rank: int = 0,
        world: int = 1,
        seed: int = 42,
    ) -> None:
        self.rows, self.size, self.make = rows, size, make
        self.batch_size, self.accumulation, self.buffer = batch_size, accumulation, buffer
        self.rank, self.world, self.seed = rank, world, seed
        self.skipped = 0

    def skip(self, batches: int) -> None:
        """Skips this many micro-batches of this rank when resuming, without making samples."""
        self.skipped = batches

    def steps(self, aloud: bool = False) -> Iterator[list[Row]]:
        size = self.batch_size * self.accumulation * self.world
        chance = random.Random(f"{self.seed}-steps")
        rows = self._endless(aloud)
        while pool := list(islice(rows, size * POOL)):
            pool.sort(key=self.size, reverse=True)
            cut = [pool[at : at + size] for at in range(0, len(pool), size)]
            chance.shuffle(cut)
            yield from cut

    def _endless(self, aloud: bool) -> Iterator[Row]:
        number = 0
        while True:
            empty = True
            rows = self.rows(number, aloud and number == 0)
            for row in mixed(rows, self.buffer, random.Random(f"{self.seed}-{number}")):
                empty = False
                yield row
            if empty:
                raise ValueError("no row of the stream is left to train on")
            number += 1

    def __iter__(self) -> Iterator[list[Sample]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for batch in islice(self._mine(aloud=self.rank == number == 0), self.skipped + number, None, workers):
            yield [sample for sample in map(self.make, batch) if sample is not None]

    def _mine(self, aloud: bool) -> Iterator[list[Row]]:
        for step in self.steps(aloud):
            for places in batches_of_rank(range(len(step)), self.batch_size, self.rank, self.world):
                yield [step[at] for at in places]


def mixed(rows: Iterable[Row], buffer: int, chance: random.Random) -> Iterator[Row]:
    """All rows in the order of a shuffle buffer of `buffer` rows."""
    held: list[Row] = []
    for row in rows:
        if len(held) < max(buffer, 1):
            held.append(row)
            continue
        at = chance.randrange(len(held))
        yield held[at]
        held[at] = row
    chance.shuffle(held)
    yield from held


class StreamLoader(DataLoader[Any]):
    """A DataLoader over a `Stream`; the order does not depend on the number of workers."""

    def __init__(
        self,
        stream: Stream[Any],
        workers: int = 0,
        pin: bool = False,
        collate_fn: Callable[[Sequence[Sample]], Batch] = collate,
    ) -> None:
        super().__init__(
            stream,
            batch_size=None,
            collate_fn=collate_fn,
            num_workers=workers,
            pin_memory=pin,
            generator=torch.Generator(),
        )


class LazySamples(Sequence[Sample], Generic[Row]):
    """Samples made anew at each access. `lengths` are estimates by `size`; dropped rows become `LEFT_OUT`."""

    def __init__(self, rows: Sequence[Row], size: Callable[[Row], int], make: Callable[[Row], Sample | None]) -> None:
        self.rows, self.make = rows, make
        self.lengths = [size(row) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Sample]: ...
    def __getitem__(self, at: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        sample = self.make(self.rows[at])
        return LEFT_OUT if sample is None else sample


def lengths(samples: Sequence[Sample]) -> Sequence[int]:
    """The token count of each sample; for samples made on demand an estimate."""
    return (
        samples.lengths
        if isinstance(samples, (LazySamples, CompactSamples))
        else [len(sample.tokens) for sample in samples]
    )
