"""Dropout masks of one batch, cut from a single random sequence. Knows no layer and no adapter."""

from __future__ import annotations

import random
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from swift.tuner.cpu.block import Mask
from swift.tuner.cpu.panels import SIDE


class DropoutMasks:
    """Cheap masks: each input gets a slice of one random sequence, at an offset of its own.

    Elements are independent within a mask; two masks may overlap in the sequence at different offsets. The probability
    is rounded to a multiple of 1/256, and what is kept is scaled by the rounded one. The same `seed` makes the same
    masks.
    """

    LENGTH = 2
    """Of the random sequence, in masks of the widest input."""

    def __init__(self, tokens: int, width: int, probability: float, dtype: torch.dtype, seed: int) -> None:
        """`width`: features of the widest input."""
        self._tokens, self._dtype, self._seed = tokens, dtype, seed
        steps = -(-tokens * width * self.LENGTH // SIDE) * SIDE // 8
        generator = torch.Generator().manual_seed(seed)
        noise = torch.empty(steps, dtype=torch.int64).random_(-(2**63), None, generator=generator).view(torch.uint8)
        threshold = max(1, round(probability * 256))
        self._kept = noise >= threshold
        self._scale = 256 / (256 - threshold)

    def take(self, index: int, width: int) -> Tensor:
        """The mask (T, width) of input `index` of the batch: 0, or the scale of what is kept."""
        start, stop = self._slice(index, width)
        return self._sequence[start:stop].view(self._tokens, width)

    def bits(self, index: int, width: int) -> Mask:
        """The same as bits, for a width that is a multiple of SIDE."""
        start, stop = self._slice(index, width)
        return Mask(self._words[start // SIDE : stop // SIDE], self._scale)

    def _slice(self, index: int, width: int) -> tuple[int, int]:
        size = self._tokens * width
        start = random.Random(self._seed + index).randrange((len(self._kept) - size) // SIDE + 1) * SIDE
        return start, start + size

    @cached_property
    def _sequence(self) -> Tensor:
        return self._kept.to(self._dtype).mul_(self._scale)

    @cached_property
    def _words(self) -> Tensor:
        return torch.from_numpy(np.packbits(self._kept.numpy(), bitorder="little")).view(torch.int32)
