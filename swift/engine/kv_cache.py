"""Keys and values of many sequences in shared tensors that grow on demand. Knows no model and no memory layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from swift.engine.runner import KVBlock, SequenceState

MIN_CAPACITY = 256
"""Positions a slot holds at first; the capacity doubles."""


class Layout(Protocol):
    """How the keys and values of all layers lie in memory: `slots` sequences of up to `capacity` positions each."""

    position_bytes: int

    def allocate(self, slots: int, capacity: int) -> list[Tensor]:
        """Zeros: masked positions are multiplied by 0 and must not be NaN."""
        ...

    def read(self, tensors: Sequence[Tensor], slot: int, start: int, end: int) -> KVBlock:
        """Copies positions `start` to `end` of a slot."""
        ...

    def write(self, tensors: Sequence[Tensor], slot: int, start: int, block: KVBlock, length: int) -> None:
        """Writes the first `length` positions of a block that `read` returned to a slot, from `start` on."""
        ...


class Slot(SequenceState):
    """One sequence's place in the cache's tensors; `index` changes when the cache is compacted."""

    def __init__(self, index: int) -> None:
        self.index = index


class KVCache:
    """`tensors`, as `layout` allocates them, hold `slots` sequences of up to `capacity` positions.

    `memory`: bytes. Beyond it the cache no longer doubles but grows to just what its sequences need.
    """

    def __init__(self, layout: Layout, memory: int) -> None:
        self._layout, self._limit = layout, memory // layout.position_bytes
        self._open: list[Slot] = []
        self.slots = self.capacity = 0
        self.tensors = layout.allocate(0, 0)

    @torch.inference_mode()
    def open(self, blocks: Sequence[KVBlock] = (), length: int = 0) -> Slot:
        """Takes a free slot and fills its first `length` positions from `blocks`."""
        used = {slot.index for slot in self._open}
        slot = Slot(next(index for index in range(len(used) + 1) if index not in used))
        self._open.append(slot)
        self.reserve(length)
        start = 0
        for block in blocks:
            taken = min(block.length, length - start)
            self._layout.write(self.tensors, slot.index, start, block, taken)
            start += taken
        assert start == length, (start, length)
        slot.length = length
        return slot

    def close(self, state: SequenceState) -> None:
        assert isinstance(state, Slot)
        self._open.remove(state)

    def read(self, state: SequenceState, start: int, end: int) -> KVBlock:
        assert isinstance(state, Slot) and end <= state.length, (end, state.length)
        return self._layout.read(self.tensors, state.index, start, end)

    def reserve(self, length: int) -> None:
        """Makes every open slot hold `length` positions. Growing moves the sequences to the first slots."""
        needed = max(slot.index for slot in self._open) + 1
        if needed <= self.slots and length <= self.capacity:
            return
        slots = doubled(self.slots, needed) if needed > self.slots else self.slots
        capacity = doubled(max(self.capacity, MIN_CAPACITY), length) if length > self.capacity else self.capacity
        if slots * capacity > self._limit:
            slots, capacity = len(self._open), max(length, *(slot.length for slot in self._open))
        before, self.tensors = self.tensors, self._layout.allocate(slots, capacity)
        for index, slot in enumerate(sorted(self._open, key=lambda slot: slot.index)):
            if slot.length:
                moved = self._layout.read(before, slot.index, 0, slot.length)
                self._layout.write(self.tensors, index, 0, moved, slot.length)
            slot.index = index
        self.slots, self.capacity = slots, capacity


def doubled(number: int, needed: int) -> int:
    """`number`, doubled until it is at least `needed`."""
    number = max(number, 1)
    while number < needed:
        number *= 2
    return number
