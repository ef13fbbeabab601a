"""Sequences larger than memory: lists that spill to disk, and indexed views. Knows noitem about the items."""

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
"""Items of a DiskList that stay in memory; the others are written to disk."""


class _Indexed(Sequence[T]):
    """Implements indexing and slicing with `at`."""

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


class DiskList(_Indexed[T], Generic[T]):
    """An immutable list: the first IN_MEMORY items in memory, the others pickled to an unnamed temporary file.

    The operating system deletes the file with the process. Forked processes may read it.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        left = iter(items)
        self._first: list[T] = list(islice(left, IN_MEMORY))
        self._ends = array("q", [0])
        with cache.scratch_folder() as folder:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # open as long as the list
            for item in left:
                self._ends.append(self._ends[-1] + self._file.write(pickle.dumps(item, pickle.HIGHEST_PROTOCOL)))
            self._file.flush()

    def __len__(self) -> int:
        return len(self._first) + len(self._ends) - 1

    def at(self, place: int) -> T:
        if place < len(self._first):
            return self._first[place]
        behind = place - len(self._first)
        start, end = self._ends[behind], self._ends[behind + 1]
        item: T = pickle.loads(os.pread(self._file.fileno(), end - start, start))
        return item


class IndexedView(_Indexed[T], Generic[T]):
    """Items of several sequences in any order, with repetitions. Takes 16 bytes per item."""

    def __init__(self) -> None:
        self._from: list[Sequence[T]] = []
        self._which, self._at = array("q"), array("q")

    def add(self, items: Sequence[T], places: Iterable[int] | None = None) -> None:
        """Appends the items at the places, or all items."""
        before = len(self._at)
        self._at.extend(range(len(items)) if places is None else places)
        self._which.extend([len(self._from)] * (len(self._at) - before))
        self._from.append(items)

    def only(self, places: Iterable[int]) -> IndexedView[T]:
        made: IndexedView[T] = IndexedView()
        made.add(self, places)
        return made

    def __len__(self) -> int:
        return len(self._at)

    def at(self, place: int) -> T:
        return self._from[self._which[place]][self._at[place]]
