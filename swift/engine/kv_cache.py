"""Room for the keys and values of many requests, which grows with what it holds. Knows no model and no layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from swift.engine.runner import Kept, Past

LEAST = 256
"""Positions that there is room for at first; it doubles."""


class Layout(Protocol):
    """How keys and values of all layers lie in memory: `slots` requests with room for `room` positions each."""

    position_bytes: int

    def empty(self, slots: int, room: int) -> list[Tensor]:
        """Zero, because what padding hides is multiplied by 0 all the same."""
        ...

    def read(self, held: Sequence[Tensor], slot: int, start: int, end: int) -> Kept:
        """A copy of some positions."""
        ...

    def write(self, held: Sequence[Tensor], slot: int, start: int, kept: Kept, length: int) -> None:
        """Puts the first `length` positions of what `read` gave behind `start` others."""
        ...


class Spot(Past):
    """A request's place."""

    def __init__(self, slot: int) -> None:
        self.slot = slot


class Pasts:
    """`memory`: bytes beyond which the room is made no larger than it must be."""

    def __init__(self, layout: Layout, memory: int) -> None:
        self._layout, self._limit = layout, memory // layout.position_bytes
        self._spots: list[Spot] = []
        self.slots = self.room = 0
        self.held = layout.empty(0, 0)

    @torch.inference_mode()
    def open(self, kept: Sequence[Kept] = (), length: int = 0) -> Spot:
        used = {spot.slot for spot in self._spots}
        spot = Spot(next(slot for slot in range(len(used) + 1) if slot not in used))
        self._spots.append(spot)
        self.hold(length)
        start = 0
        for piece in kept:
            taken = min(piece.length, length - start)
            self._layout.write(self.held, spot.slot, start, piece, taken)
            start += taken
        assert start == length, (start, length)
        spot.length = length
        return spot

    def close(self, past: Past) -> None:
        assert isinstance(past, Spot)
        self._spots.remove(past)

    def read(self, past: Past, start: int, end: int) -> Kept:
        assert isinstance(past, Spot) and end <= past.length, (end, past.length)
        return self._layout.read(self.held, past.slot, start, end)

    def hold(self, length: int) -> None:
        """Makes room for `length` positions in each slot that is taken. The rows move to the first slots then."""
        needed = max(spot.slot for spot in self._spots) + 1
        if needed <= self.slots and length <= self.room:
            return
        slots = doubled(self.slots, needed) if needed > self.slots else self.slots
        room = doubled(max(self.room, LEAST), length) if length > self.room else self.room
        if slots * room > self._limit:
            slots, room = len(self._spots), max(length, *(spot.length for spot in self._spots))
        before, self.held = self.held, self._layout.empty(slots, room)
        for slot, spot in enumerate(sorted(self._spots, key=lambda spot: spot.slot)):
            if spot.length:
                moved = self._layout.read(before, spot.slot, 0, spot.length)
                self._layout.write(self.held, slot, 0, moved, spot.length)
            spot.slot = slot
        self.slots, self.room = slots, room


def doubled(number: int, needed: int) -> int:
    number = max(number, 1)
    while number < needed:
        number *= 2
    return number
