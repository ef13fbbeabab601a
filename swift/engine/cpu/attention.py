"""Attention of the rows of many requests over one layer's keys and values. Knows no weights and no queue.

Keys are (slots, heads, width, positions) and values (slots, heads, positions, width), a slot for each request. How keys
lie in memory is up to what reads them quickest: by width for products, by position for SDPA, which is the quicker of
the two where the CPU multiplies tiles.
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
"""Attention scores of one piece are written out up to so many numbers; beyond, SDPA, which keeps none."""
BLOCK = 128
"""Rows of a piece that go through SDPA together."""


class Run(NamedTuple):
    """Rows `start` to `end` of the list, single tokens of requests in neighbouring slots."""

    start: int
    end: int
    slot: int
    lengths: tuple[int, ...]


class Piece(NamedTuple):
    """Rows `start` to `end` of the list, all of one request, which has `length` positions with them."""

    start: int
    end: int
    slot: int
    length: int


class Heads(NamedTuple):
    """H query heads share K key heads, all D wide."""

    H: int
    K: int
    D: int
    scale: float

    def layout(self, layers: int, dtype: torch.dtype, device: torch.device) -> _Layout:
        return _Layout(self, layers, dtype, device)


class _Layout:
    """Keys and values as this module reads them (a Layout of kv_cache.py)."""

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
    """What one step does in every layer. `parts`: runs first, pieces behind them."""

    def __init__(self, heads: Heads, parts: Sequence[Run | Piece], dtype: torch.dtype, device: torch.device) -> None:
        self._heads, self._dtype, self._device = heads, dtype, device
        self._tiles = has_tiles(device, dtype)
        self._runs = [part for part in parts if isinstance(part, Run)]
        self._pieces = [part for part in parts if isinstance(part, Piece)]
        self._blocks = [block for piece in self._pieces for block in self._cut(piece)]
        self._single = self._runs[-1].end if self._runs else 0
        self._slots = as_long([run.slot + i for run in self._runs for i in range(len(run.lengths))], device)
        self._at = as_long([length - 1 for run in self._runs for length in run.lengths], device)
        self._masks: dict[tuple[Run | Piece, int | None], Tensor | None] = {}

    def store(self, new_NKD: Tensor, keys: Tensor, values: Tensor) -> None:
        """Puts the rows' keys and values, side by side in `new_NKD`, where they belong in a layer's."""
        k_NKD, v_NKD = new_NKD.chunk(2, 1)
        if self._single:
            keys[self._slots, :, :, self._at] = k_NKD[: self._single]
            values[self._slots, :, self._at] = v_NKD[: self._single]
        for start, end, slot, length in self._pieces:
            at = slice(length - (end - start), length)
            keys[slot, :, :, at] = k_NKD[start:end].permute(1, 2, 0)
            values[slot, :, at] = v_NKD[start:end].transpose(0, 1)

    def __call__(self, q_NHD: Tensor, keys: Tensor, values: Tensor, window: int | None) -> Tensor:
        """What the heads saw, (rows, heads x width), of a layer's keys and values."""
        seen = []
        for run in self._runs:
            slots, longest = slice(run.slot, run.slot + len(run.lengths)), max(run.lengths)
            within = self._by_sdpa if self._tiles else self._by_products
            q_BTHD, mask = q_NHD[run.start : run.end, None], self._mask(run, window)
            seen.append(within(q_BTHD, keys[slots, ..., :longest], values[slots, :, :longest], mask))
        for piece in self._blocks:
            slots = slice(piece.slot, piece.slot + 1)
            q_BTHD, mask = q_NHD[None, piece.start : piece.end], self._mask(piece, window)
            few = q_BTHD.shape[1] * piece.length * self._heads.H <= SCORES
            within = self._by_products if few and not self._tiles else self._by_sdpa
            seen.append(within(q_BTHD, keys[slots, ..., : piece.length], values[slots, :, : piece.length], mask))
        return seen[0] if len(seen) == 1 else torch.cat(seen)

    def _by_sdpa(self, q_BTHD: Tensor, k_BKDS: Tensor, v_BKSD: Tensor, mask: Tensor | None) -> Tensor:
        k_BKSD = k_BKDS.transpose(-1, -2)
        seen_BHTD = functional.scaled_dot_product_attention(
            q_BTHD.transpose(1, 2),
            k_BKSD if k_BKSD.stride(-1) == 1 else k_BKSD.contiguous(),
            v_BKSD,
            attn_mask=mask,
            scale=self._heads.scale,
            enable_gqa=True,
        )
        return seen_BHTD.transpose(1, 2).reshape(q_BTHD.shape[0] * q_BTHD.shape[1], -1)

    def _by_products(self, q_BTHD: Tensor, k_BKDS: Tensor, v_BKSD: Tensor, mask: Tensor | None) -> Tensor:
        H, K, D, scale = self._heads
        B, T, S = *q_BTHD.shape[:2], k_BKDS.shape[-1]
        # Query heads that share a key head stand where further positions would.
        q_BKGTD = (q_BTHD * scale).view(B, T, K, H // K, D).permute(0, 2, 3, 1, 4)
        scores = (q_BKGTD.reshape(B, K, -1, D) @ k_BKDS).view(B, H, T, S)
        shares = (scores if mask is None else scores.add_(mask)).softmax(-1).view(B, K, -1, S)
        return (shares @ v_BKSD).view(B, H, T, D).transpose(1, 2).reshape(B * T, -1)

    def _cut(self, piece: Piece) -> list[Piece]:
        """Parts of a piece for SDPA, which looks at all keys whatever the mask hides: fewer keys for earlier rows."""
        if not self._tiles:
            return [piece]
        start, end, slot, length = piece
        return [
            Piece(at, min(at + BLOCK, end), slot, length - max(end - at - BLOCK, 0)) for at in range(start, end, BLOCK)
        ]

    def _mask(self, part: Run | Piece, window: int | None) -> Tensor | None:
        """0 where a query may look, -inf elsewhere; None where all may be seen."""
        if (part, window) not in self._masks:
            self._masks[part, window] = self._made_mask(part, window)
        return self._masks[part, window]

    def _made_mask(self, part: Run | Piece, window: int | None) -> Tensor | None:
        if isinstance(part, Run):
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
