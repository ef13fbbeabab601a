"""A weight -> the product of rows with it, laid out as the processor likes it. Knows no layer and no model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Product(Protocol):
    def __call__(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        """y_NO, with `add_NO` added."""
        ...


class Gate(Protocol):
    """The first half of an MLP, F wide."""

    @property
    def both(self) -> Product:
        """x_NI -> gate and up side by side, (N, 2 F)."""
        ...

    def __call__(self, x_NI: Tensor) -> Tensor:
        """act(gate) * up, (N, F)."""
        ...


BITS = (0, 4, 8)
GROUP = 32
"""Neighbouring 4-bit weights that share a scale and a zero."""
MANY = 64
"""From so many rows on it is quicker to make numbers of 4-bit weights first."""
HALF = 32
"""Outputs whose 4-bit weights lie side by side."""
PACKED_ROWS = 32
"""The number of rows that oneDNN lays a weight out for; any other number works too, as fast."""


def product(weight_OI: Tensor, bias_O: Tensor | None = None, bits: int = 0) -> Product:
    """x @ W' + b. `bits` 8 and 4 round the weight, for CPUs alone; the other numbers stay in their dtype."""
    if bits == 8 or (bits == 4 and not _can_be_int4(weight_OI)):
        return (_Int8Tiles if torch.cpu._is_amx_tile_supported() else _Int8)(weight_OI, bias_O)
    if bits == 4:
        return _Int4(weight_OI, bias_O)
    if _is_packed(weight_OI):
        return _Packed(weight_OI, bias_O)
    return _Plain(weight_OI, bias_O)


def gate(weight_OI: Tensor, bias_O: Tensor | None, act: Callable[[Tensor], Tensor], bits: int = 0) -> Gate:
    """`weight_OI`: the gate's outputs, then as many of up."""
    tiles = has_tiles(weight_OI.device, weight_OI.dtype) and _is_packed(weight_OI)
    if tiles and not bits and act is functional.silu:
        return _PackedGate(weight_OI, bias_O)
    return _JoinedGate(product(weight_OI, bias_O, bits), act)


def why_not(bits: int, device: torch.device) -> str:
    """Why weights of so few bits cannot be had here; empty if they can."""
    if bits not in BITS:
        return f"weights can have 4 or 8 bits, not {bits}"
    if bits and device.type != "cpu":
        return f"weights of {bits} bits are for CPUs; this model is on {device}"
    return ""


def has_tiles(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the CPU multiplies tiles of such numbers, as those with AMX do: several times as many a second."""
    return device.type == "cpu" and dtype is torch.bfloat16 and bool(torch.cpu._is_amx_tile_supported())


def _is_packed(weight_OI: Tensor) -> bool:
    if weight_OI.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight_OI.dtype is torch.bfloat16:  # oneDNN wants AVX-512 for it
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight_OI.dtype is torch.float32


class _Plain:
    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self._weight, self._bias = weight_OI.detach(), bias_O

    def __call__(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        return _plus(functional.linear(x_NI, self._weight, self._bias), add_NO)


class _Packed:
    """The weight in oneDNN's blocked layout: `linear` makes that layout anew at every call."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), PACKED_ROWS)
        self._bias = bias_O

    def __call__(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        return self.then("none", x_NI) if add_NO is None else self.with_other("add", x_NI, add_NO)

    def then(self, name: str, x_NI: Tensor) -> Tensor:
        """The product, and oneDNN's function of that name on each number while it is at hand."""
        y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, self._weight, self._bias, name, [], "")
        return y_NO

    def with_other(self, name: str, x_NI: Tensor, other_NO: Tensor) -> Tensor:
        """The product, added to or multiplied with other numbers likewise."""
        y_NO: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_NI, other_NO, self._weight, self._bias, name)
        return y_NO


class _JoinedGate:
    """One product, and the rest by torch."""

    def __init__(self, joined: Product, act: Callable[[Tensor], Tensor]) -> None:
        self.both = joined
        self._act = act

    def __call__(self, x_NI: Tensor) -> Tensor:
        gate_NF, up_NF = self.both(x_NI).chunk(2, -1)
        return self._act(gate_NF).mul_(up_NF)


class _PackedGate:
    """SwiGLU (arXiv 2002.05202) within two products: with tiles these take less time than what is done between."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        biases = (None, None) if bias_O is None else bias_O.chunk(2)
        self._gate, self._up = (_Packed(*half) for half in zip(weight_OI.chunk(2), biases, strict=True))

    def __call__(self, x_NI: Tensor) -> Tensor:
        return self._up.with_other("mul", x_NI, self._gate.then("swish", x_NI))

    def both(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        return _plus(torch.cat([self._gate(x_NI), self._up(x_NI)], -1), add_NO)


class _Int8:
    """Integer products: a scale for each row of the weight, and for each row of x one found as it comes."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        rounded_OI, scale_O = rounded(weight_OI)
        zeros = torch.zeros(len(scale_O), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*")
            whole = torch._make_per_channel_quantized_tensor(rounded_OI, scale_O, zeros, 0)
        self._weight = torch.ops.quantized.linear_prepack(whole, None)
        self._bias = bias_O
        # Without VNNI the sum of two products of 8 bits overflows the 16 it is kept in.
        self._seven_bits = not torch.cpu._is_vnni_supported()

    def __call__(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        return _plus(self._alone(x_NI), add_NO)

    def _alone(self, x_NI: Tensor) -> Tensor:
        if len(x_NI) == 1:
            return self._finish(torch.ops.quantized.linear_dynamic(x_NI.float(), self._weight, self._seven_bits), x_NI)
        # The kernel has one scale for all of x: with rows of like size, no row's rounding depends on its neighbours.
        size_N = x_NI.abs().amax(-1, keepdim=True).float().clamp_min(torch.finfo(torch.float32).tiny)
        y_NO = torch.ops.quantized.linear_dynamic(x_NI / size_N, self._weight, self._seven_bits)
        return self._finish(y_NO.mul_(size_N), x_NI)

    def _finish(self, y_NO: Tensor, x_NI: Tensor) -> Tensor:
        return (y_NO if self._bias is None else y_NO + self._bias).to(x_NI.dtype)


class _Int8Tiles:
    """The same through oneDNN, whose products of several rows are those of AMX."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        rounded_OI, scale_O = rounded(weight_OI)
        self._weight = torch.ops.onednn.qlinear_prepack(rounded_OI, [PACKED_ROWS, rounded_OI.shape[1]])
        self._scale, self._zeros = scale_O / 127, torch.zeros(len(scale_O), dtype=torch.long)
        self._bias = bias_O

    def __call__(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        size_N = x_NI.abs().amax(-1, keepdim=True).clamp_min_(torch.finfo(x_NI.dtype).tiny)
        rounded_NI = x_NI.to(torch.float32, copy=True).mul_(127 / size_N.float()).round_().to(torch.int8)
        y_NO: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded_NI, 1.0, 0, self._weight, self._scale, self._zeros, None, 1.0, 0, x_NI.dtype, "none", [], ""
        )
        y_NO.mul_(size_N)
        return _plus(y_NO if self._bias is None else y_NO.add_(self._bias), add_NO)


class _Int4:
    """Weights of 4 bits in groups, x as it is. The kernel's time grows with the rows, so that many go another way."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        levels, scale, low = in_groups(weight_OI)
        levels = levels.to(torch.int32)
        self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        # The kernel reads (level - 8) x scale + zero.
        self._scales = torch.stack([scale, low + 8 * scale], dim=-1).transpose(0, 1).contiguous().to(weight_OI.dtype)
        self._bias = bias_O
        self._opens = (
            has_tiles(weight_OI.device, weight_OI.dtype)
            and len(levels) % (2 * HALF) == 0
            and torch.equal(self._levels(torch.int32), levels.t())
        )

    def __call__(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        y_NO: Tensor
        if self._opens and len(x_NI) >= MANY:
            y_NO = x_NI @ self._opened()
        else:
            y_NO = torch.ops.aten._weight_int4pack_mm_for_cpu(x_NI, self._weight, GROUP, self._scales)
        return _plus(y_NO if self._bias is None else y_NO + self._bias, add_NO)

    def _opened(self) -> Tensor:
        """The weight as plain numbers, (I, O)."""
        scale, zero = self._scales.unbind(-1)
        levels = self._levels(self._scales.dtype)
        grouped = levels.view(len(scale), GROUP, -1)
        grouped.mul_(scale.contiguous()[:, None]).add_((zero - 8 * scale)[:, None])
        return levels

    def _levels(self, dtype: torch.dtype) -> Tensor:
        """What the kernel has packed where vectors hold 512 bits, (I, O).

        Of each 64 outputs the first 32 lie in the low halves of bytes and the others in the high ones.
        """
        outputs, inputs = self._weight.shape[0], self._weight.shape[1] * 2
        eights, low = self._weight.view(torch.int64), 0x0F0F0F0F0F0F0F0F
        levels = torch.empty(inputs, outputs // (2 * HALF), 2, HALF, dtype=dtype)
        for half, bits in enumerate((eights & low, (eights >> 4) & low)):
            levels[:, :, half] = bits.view(torch.uint8).view(-1, inputs, HALF).transpose(0, 1)
        return levels.view(inputs, outputs)


def rounded(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """The weight in 8 bits, and the scale of each of its rows."""
    weight_OI = weight_OI.detach().float()
    scale_O = (weight_OI.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (weight_OI / scale_O[:, None]).round().to(torch.int8), scale_O


def in_groups(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Levels from 0 to 15, (O, I); the scale of each `GROUP` of neighbours and what is added, (O, groups)."""
    groups = weight_OI.detach().float().reshape(len(weight_OI), -1, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).clamp_min(torch.finfo(torch.bfloat16).tiny)
    levels = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15)
    return levels.to(torch.uint8).flatten(1), scale, low


def _can_be_int4(weight_OI: Tensor) -> bool:
    return weight_OI.shape[1] % GROUP == 0 and weight_OI.shape[0] % 16 == 0


def _plus(y_NO: Tensor, add_NO: Tensor | None) -> Tensor:
    return y_NO if add_NO is None else y_NO.add_(add_NO)
