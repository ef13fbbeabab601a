"""Frozen weights that exist only in the packed layout of the C++ products. Knows linear layers; no block, no adapter.

A layer whose weight was freed still computes: its weight is unpacked from the panels when it is first read, and then
kept. Until then `parameters()` and a state dict hold a tensor of its shape and dtype on the device `meta`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

SIDE = 32
"""Rows of a weight in a panel; in and out features are multiples of it."""


class Panels:
    """Frozen weights with one dtype and input, concatenated along their rows and packed.

    `planes`: how many bf16 hold one number. `functions`: a library with pack_weight and unpack_weight for the dtype.
    Each weight has a multiple of SIDE rows.
    """

    def __init__(self, weights: Sequence[Tensor], planes: int, functions: ctypes.CDLL) -> None:
        self.outputs, self.inputs = sum(map(len, weights)), weights[0].shape[1]
        self.dtype, self.planes, self._functions = weights[0].dtype, planes, functions
        self.data = torch.empty(planes * self.outputs * self.inputs, dtype=torch.bfloat16)
        start = 0
        for each in weights:
            plain = each.detach().contiguous()
            functions.pack_weight(plain.data_ptr(), *plain.shape, planes, self._at(start))
            start += len(plain)

    def _at(self, row: int) -> int:
        return self.data.data_ptr() + row * self.inputs * self.planes * self.data.itemsize

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the weight, unpacked; both are multiples of SIDE."""
        weight_OI = torch.empty(stop - start, self.inputs, dtype=self.dtype)
        self._functions.unpack_weight(self._at(start), *weight_OI.shape, self.planes, weight_OI.data_ptr())
        return weight_OI


class PackedLinear(nn.Linear):
    """A frozen linear layer whose weight is unpacked when it is first read."""

    _read: Callable[[], Tensor]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        kept = self._parameters["weight"]
        assert kept is not None
        if kept.is_meta:
            self._parameters["weight"] = kept = nn.Parameter(self._read(), requires_grad=False)
        return kept

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLinear:
        """Called by `nn.Module.to` and its like: leaves a packed weight alone if device and dtype stay the same."""
        kept = self._parameters["weight"]
        assert kept is not None
        moved = fn(torch.empty(0, dtype=kept.dtype))
        if not kept.is_meta or (moved.device.type, moved.dtype) != ("cpu", kept.dtype):
            _ = self.weight
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]
        self._parameters["weight"] = None
        try:
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]
        finally:
            self._parameters["weight"] = kept


def free_packed(layers: Sequence[nn.Linear], panels: Panels) -> None:
    """Frees the weights of frozen layers, which `panels` holds in the same order."""
    start = 0
    for each in layers:
        stop = start + each.out_features
        shape = torch.empty_like(each.weight, device="meta")
        each.__class__ = PackedLinear
        each._read = lambda start=start, stop=stop: panels.rows(start, stop)  # type: ignore[assignment]
        each._parameters["weight"] = nn.Parameter(shape, requires_grad=False)
        start = stop
