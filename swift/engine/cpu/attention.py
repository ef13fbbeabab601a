"""Attention of the rows of many sequences over one layer's keys and values. Knows no weights and no queue.

Keys are (slots, heads, width, positions), values (slots, heads, positions, width), with one slot for each sequence.
Keys are contiguous along positions for matrix products, along the width for SDPA, which is faster on CPUs with tiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from swift.engine.cpu.products import has_tiles
from swift.engine.runner import KVBlock, as_long

SCORES = 1 << 25
"""The largest number of attention scores of a prompt chunk that is stored; SDPA, which stores none, computes more."""
BLOCK = 128
"""Rows of a prompt chunk that go through SDPA together."""


class Decoding(NamedTuple):
    """Rows `start` to `end` of the step: one token each of sequences in consecutive slots, `slot` the first.

    `lengths`: positions of each sequence, the new one included.
    """

    start: int
    end: int
    slot: int
    lengths: tuple[int, ...]


class Prefill(NamedTuple):
    """Rows `start` to `end` of the step, all of one sequence, which has `length` positions including them."""

    start: int
    end: int
    slot: int
    length: int


class Heads(NamedTuple):
    """H query heads share K key heads, each of width D. `scale`: of the attention scores."""

    H: int
    K: int
    D: int
    scale: float

    def layout(self, layers: int, dtype: torch.dtype, device: torch.device) -> _Layout:
        return _Layout(self, layers, dtype, device)


class _Layout:
    """The layout of keys and values that this module reads (a Layout of kv_cache.py)."""

    def __init__(self, heads: Heads, layers: int, dtype: torch.dtype, device: torch.device) -> None:
        self._sides, self._D, self._layers = heads.K, heads.D, layers
        self._options: Any = {"dtype": dtype, "device": device}
        self._by_position = has_tiles(device, dtype)
        self.position_bytes = layers * 2 * heads.K * heads.D * dtype.itemsize

    def allocate(self, slots: int, capacity: int) -> list[Tensor]:
        sides = self._layers, slots, self._sides
        values = torch.zeros(*sides, capacity, self._D, **self._options)
        if self._by_position:
            return [torch.zeros(*sides, capacity, self._D, **self._options).transpose(-1, -2), values]
        return [torch.zeros(*sides, self._D, capacity, **self._options), values]

    def read(self, tensors: Sequence[Tensor], slot: int, start: int, end: int) -> KVBlock:
        keys, values = tensors
        return KVBlock(end - start, [keys[:, slot, :, :, start:end].clone(), values[:, slot, :, start:end].clone()])

    def write(self, tensors: Sequence[Tensor], slot: int, start: int, block: KVBlock, length: int) -> None:
        (keys, values), (k_LKDS, v_LKSD) = tensors, block.tensors
        keys[:, slot, :, :, start : start + length] = k_LKDS[..., :length]
        values[:, slot, :, start : start + length] = v_LKSD[..., :length, :]


class Attention:
    """The attention of one step, for every layer. `parts`: decoding ones first, then prefill."""

    def __init__(
        self, heads: Heads, parts: Sequence[Decoding | Prefill], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._heads, self._dtype, self._device = heads, dtype, device
        self._tiles = has_tiles(device, dtype)
        self._decoding = [part for part in parts if isinstance(part, Decoding)]
        self._prefill = [part for part in parts if isinstance(part, Prefill)]
        self._blocks = [block for chunk in self._prefill for block in self._split(chunk)]
        self._single = self._decoding[-1].end if self._decoding else 0
        self._slots = as_long([run.slot + i for run in self._decoding for i in range(len(run.lengths))], device)
        self._at = as_long([length - 1 for run in self._decoding for length in run.lengths], device)
        self._masks: dict[tuple[Decoding | Prefill, int | None], Tensor | None] = {}

    def store(self, new_NKD: Tensor, keys: Tensor, values: Tensor) -> None:
        """Writes the rows' keys and values, concatenated along the heads in `new_NKD`, to a layer's cache."""
        k_NKD, v_NKD = new_NKD.chunk(2, 1)
        if self._single:
            keys[self._slots, :, :, self._at] = k_NKD[: self._single]
            values[self._slots, :, self._at] = v_NKD[: self._single]
        for start, end, slot, length in self._prefill:
            at = slice(length - (end - start), length)
            keys[slot, :, :, at] = k_NKD[start:end].permute(1, 2, 0)
            values[slot, :, at] = v_NKD[start:end].transpose(0, 1)

    def __call__(self, q_NHD: Tensor, keys: Tensor, values: Tensor, window: int | None) -> Tensor:
        """The output of all heads, (rows, heads x width), over a layer's keys and values."""
        outputs = []
        for run in self._decoding:
            slots, longest = slice(run.slot, run.slot + len(run.lengths)), max(run.lengths)
            attend = self._by_sdpa if self._tiles else self._by_products
            q_BTHD, mask = q_NHD[run.start : run.end, None], self._mask(run, window)
            outputs.append(attend(q_BTHD, keys[slots, ..., :longest], values[slots, :, :longest], mask))
        for chunk in self._blocks:
            slots = slice(chunk.slot, chunk.slot + 1)
            q_BTHD, mask = q_NHD[None, chunk.start : chunk.end], self._mask(chunk, window)
            stores_scores = q_BTHD.shape[1] * chunk.length * self._heads.H <= SCORES
            attend = self._by_products if stores_scores and not self._tiles else self._by_sdpa
            outputs.append(attend(q_BTHD, keys[slots, ..., : chunk.length], values[slots, :, : chunk.length], mask))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _by_sdpa(self, q_BTHD: Tensor, k_BKDS: Tensor, v_BKSD: Tensor, mask: Tensor | None) -> Tensor:
        k_BKSD = k_BKDS.transpose(-1, -2)
        out_BHTD = functional.scaled_dot_product_attention(
            q_BTHD.transpose(1, 2),
            k_BKSD if k_BKSD.stride(-1) == 1 else k_BKSD.contiguous(),
            v_BKSD,
            attn_mask=mask,
            scale=self._heads.scale,
            enable_gqa=True,
        )
        return out_BHTD.transpose(1, 2).reshape(q_BTHD.shape[0] * q_BTHD.shape[1], -1)

    def _by_products(self, q_BTHD: Tensor, k_BKDS: Tensor, v_BKSD: Tensor, mask: Tensor | None) -> Tensor:
        H, K, D, scale = self._heads
        B, T, S = *q_BTHD.shape[:2], k_BKDS.shape[-1]
        # Query heads that share a key head are rows of one product.
        q_BKGTD = (q_BTHD * scale).view(B, T, K, H // K, D).permute(0, 2, 3, 1, 4)
        scores = (q_BKGTD.reshape(B, K, -1, D) @ k_BKDS).view(B, H, T, S)
        probabilities = (scores if mask is None else scores.add_(mask)).softmax(-1).view(B, K, -1, S)
        return (probabilities @ v_BKSD).view(B, H, T, D).transpose(1, 2).reshape(B * T, -1)

    def _split(self, chunk: Prefill) -> list[Prefill]:
        """Splits a prompt chunk for SDPA, which reads masked keys too: earlier rows then read fewer keys."""
        if not self._tiles:
            return [chunk]
        start, end, slot, length = chunk
        return [
            Prefill(at, min(at + BLOCK, end), slot, length - max(end - at - BLOCK, 0))
            for at in range(start, end, BLOCK)
        ]

    def _mask(self, part: Decoding | Prefill, window: int | None) -> Tensor | None:
        """0 for visible keys, -inf for the others; None if all are visible."""
        if (part, window) not in self._masks:
            self._masks[part, window] = self._new_mask(part, window)
        return self._masks[part, window]

    def _new_mask(self, part: Decoding | Prefill, window: int | None) -> Tensor | None:
        if isinstance(part, Decoding):
            longest = max(part.lengths)
            if min(part.lengths) == longest and (window is None or longest <= window):
                return None
            last = as_long(part.lengths, self._device)[:, None, None, None] - 1
        else:
            longest = part.length
            last = torch.arange(longest - (part.end - part.start), longest, device=self._device)[:, None]
        key = torch.arange(longest, device=self._device)
        hidden = key > last if window is None else (key > last) | (key <= last - window)
        return torch.zeros(hidden.shape, dtype=self._dtype, device=self._device).masked_fill_(hidden, -math.inf)
