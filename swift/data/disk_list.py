"""Sequences of more things than memory should hold. Knows nothing of what they are."""

from __future__ import annotations

import os
import pickle
import tempfile
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Generic, TypeVar, overload

from swift.system import cache

T = TypeVar("T")

IN_MEMORY = 20_000
"""Things of a shelf that stay in memory; what comes behind them is written to the disk."""


class _Places(Sequence[T]):
    """What a sequence needs beyond its length and the thing at a place."""

    @abstractmethod
    def at(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        if isinstance(place, slice):
            return [self.at(each) for each in range(*place.indices(len(self)))]
        return self.at(range(len(self))[place])


class DiskList(_Places[T], Generic[T]):
    """The first things in memory, the others pickled into a file without a name, which goes with the process.

    Processes that are forked may read it; none may add to it then.
    """

    def __init__(self, things: Iterable[T] = ()) -> None:
        left = iter(things)
        self._first: list[T] = list(islice(left, IN_MEMORY))
        self._ends = array("q", [0])
        with cache.scratch_folder() as folder:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # it stays open with the shelf
            for thing in left:
                self._ends.append(self._ends[-1] + self._file.write(pickle.dumps(thing, pickle.HIGHEST_PROTOCOL)))
            self._file.flush()

    def __len__(self) -> int:
        return len(self._first) + len(self._ends) - 1

    def at(self, place: int) -> T:
        if place < len(self._first):
            return self._first[place]
        behind = place - len(self._first)
        start, end = self._ends[behind], self._ends[behind + 1]
        thing: T = pickle.loads(os.pread(self._file.fileno(), end - start, start))
        return thing


class IndexedView(_Places[T], Generic[T]):
    """Things of several sequences, in any order and as often as wanted: sixteen bytes each."""

    def __init__(self) -> None:
        self._from: list[Sequence[T]] = []
        self._which, self._at = array("q"), array("q")

    def add(self, things: Sequence[T], places: Iterable[int] | None = None) -> None:
        """Those at the places, or all of them."""
        before = len(self._at)
        self._at.extend(range(len(things)) if places is None else places)
        self._which.extend([len(self._from)] * (len(self._at) - before))
        self._from.append(things)

    def only(self, places: Iterable[int]) -> IndexedView[T]:
        made: IndexedView[T] = IndexedView()
        made.add(self, places)
        return made

    def __len__(self) -> int:
        return len(self._at)

    def at(self, place: int) -> T:
        return self._from[self._which[place]][self._at[place]]
