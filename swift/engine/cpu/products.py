"""A weight matrix -> a function that multiplies rows with it, packed for the processor. Knows no layer and no model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Product(Protocol):
    def __call__(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        """y_NO = x_NI W' + b, plus `add_NO`."""
        ...


class Gate(Protocol):
    """The first half of an MLP with intermediate size F."""

    @property
    def both(self) -> Product:
        """x_NI -> the outputs of gate and up, concatenated, (N, 2 F)."""
        ...

    def __call__(self, x_NI: Tensor) -> Tensor:
        """act(gate) * up, (N, F)."""
        ...


BITS = (0, 4, 8)
GROUP = 32
"""Consecutive 4-bit weights of a row that share a scale and a zero point."""
MANY_ROWS = 64
"""The number of rows from which it is faster to dequantise 4-bit weights first."""
HALF = 32
"""Outputs whose 4-bit weights are adjacent in the packed layout."""
PACKED_ROWS = 32
"""The number of rows that oneDNN packs a weight for; other numbers work too, and as fast."""


def product(weight_OI: Tensor, bias_O: Tensor | None = None, bits: int = 0) -> Product:
    """x W' + b. `bits` 8 and 4 quantise the weight, on CPUs; activations keep their dtype."""
    if bits == 8 or (bits == 4 and not _can_be_int4(weight_OI)):
        return (_Int8Tiles if torch.cpu._is_amx_tile_supported() else _Int8)(weight_OI, bias_O)
    if bits == 4:
        return _Int4(weight_OI, bias_O)
    if _is_packed(weight_OI):
        return _Packed(weight_OI, bias_O)
    return _Plain(weight_OI, bias_O)


def gate(weight_OI: Tensor, bias_O: Tensor | None, act: Callable[[Tensor], Tensor], bits: int = 0) -> Gate:
    """act(gate(x)) * up(x). `weight_OI`: the rows of gate, then those of up."""
    tiles = has_tiles(weight_OI.device, weight_OI.dtype) and _is_packed(weight_OI)
    if tiles and not bits and act is functional.silu:
        return _PackedGate(weight_OI, bias_O)
    return _JoinedGate(product(weight_OI, bias_O, bits), act)


def why_not(bits: int, device: torch.device) -> str:
    """Why weights of `bits` bits are not available on `device`; empty if they are."""
    if bits not in BITS:
        return f"weights can have 4 or 8 bits, not {bits}"
    if bits and device.type != "cpu":
        return f"weights of {bits} bits are for CPUs; this model is on {device}"
    return ""


def has_tiles(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the CPU has matrix units (AMX) for this dtype, which are several times faster."""
    return device.type == "cpu" and dtype is torch.bfloat16 and bool(torch.cpu._is_amx_tile_supported())


def _is_packed(weight_OI: Tensor) -> bool:
    if weight_OI.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight_OI.dtype is torch.bfloat16:  # oneDNN needs AVX-512 for it
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight_OI.dtype is torch.float32


class _Plain:
    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self._weight, self._bias = weight_OI.detach(), bias_O

    def __call__(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        return _plus(functional.linear(x_NI, self._weight, self._bias), add_NO)


class _Packed:
    """The weight in oneDNN's blocked layout, which torch's `linear` would create at every call."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), PACKED_ROWS)
        self._bias = bias_O

    def __call__(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        return self.then("none", x_NI) if add_NO is None else self.with_other("add", x_NI, add_NO)

    def then(self, name: str, x_NI: Tensor) -> Tensor:
        """The product with oneDNN's elementwise function `name` as its epilogue."""
        y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, self._weight, self._bias, name, [], "")
        return y_NO

    def with_other(self, name: str, x_NI: Tensor, other_NO: Tensor) -> Tensor:
        """The product with an epilogue that adds (`add`) or multiplies (`mul`) `other_NO`."""
        y_NO: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_NI, other_NO, self._weight, self._bias, name)
        return y_NO


class _JoinedGate:
    """One product for gate and up; torch computes the rest."""

    def __init__(self, joined: Product, act: Callable[[Tensor], Tensor]) -> None:
        self.both = joined
        self._act = act

    def __call__(self, x_NI: Tensor) -> Tensor:
        gate_NF, up_NF = self.both(x_NI).chunk(2, -1)
        return self._act(gate_NF).mul_(up_NF)


class _PackedGate:
    """SwiGLU (arXiv 2002.05202) as the epilogues of two products: with tiles, separate operations would cost more."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        biases = (None, None) if bias_O is None else bias_O.chunk(2)
        self._gate, self._up = (_Packed(*half) for half in zip(weight_OI.chunk(2), biases, strict=True))

    def __call__(self, x_NI: Tensor) -> Tensor:
        return self._up.with_other("mul", x_NI, self._gate.then("swish", x_NI))

    def both(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        return _plus(torch.cat([self._gate(x_NI), self._up(x_NI)], -1), add_NO)


class _Int8:
    """8-bit integer products: a scale for each row of the weight, and a dynamic one for each row of x."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        rounded_OI, scale_O = rounded(weight_OI)
        zeros = torch.zeros(len(scale_O), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*")
            quantised = torch._make_per_channel_quantized_tensor(rounded_OI, scale_O, zeros, 0)
        self._weight = torch.ops.quantized.linear_prepack(quantised, None)
        self._bias = bias_O
        # Without VNNI, the sum of two 8-bit products overflows its 16 bits.
        self._seven_bits = not torch.cpu._is_vnni_supported()

    def __call__(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        return _plus(self._product(x_NI), add_NO)

    def _product(self, x_NI: Tensor) -> Tensor:
        if len(x_NI) == 1:
            return self._finish(torch.ops.quantized.linear_dynamic(x_NI.float(), self._weight, self._seven_bits), x_NI)
        # The kernel has one scale for all of x: normalised rows are rounded independently of each other.
        size_N = x_NI.abs().amax(-1, keepdim=True).float().clamp_min(torch.finfo(torch.float32).tiny)
        y_NO = torch.ops.quantized.linear_dynamic(x_NI / size_N, self._weight, self._seven_bits)
        return self._finish(y_NO.mul_(size_N), x_NI)

    def _finish(self, y_NO: Tensor, x_NI: Tensor) -> Tensor:
        return (y_NO if self._bias is None else y_NO + self._bias).to(x_NI.dtype)


class _Int8Tiles:
    """The same with oneDNN, which uses AMX for several rows."""

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
    """Groupwise 4-bit weights, x unquantised. For many rows the weight is dequantised first (see MANY_ROWS)."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        levels, scale, low = in_groups(weight_OI)
        levels = levels.to(torch.int32)
        self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        # The kernel computes (level - 8) * scale + zero.
        self._scales = torch.stack([scale, low + 8 * scale], dim=-1).transpose(0, 1).contiguous().to(weight_OI.dtype)
        self._bias = bias_O
        self._can_dequantise = (
            has_tiles(weight_OI.device, weight_OI.dtype)
            and len(levels) % (2 * HALF) == 0
            and torch.equal(self._levels(torch.int32), levels.t())
        )

    def __call__(self, x_NI: Tensor, add_NO: Tensor | None = None) -> Tensor:
        y_NO: Tensor
        if self._can_dequantise and len(x_NI) >= MANY_ROWS:
            y_NO = x_NI @ self._dequantised()
        else:
            y_NO = torch.ops.aten._weight_int4pack_mm_for_cpu(x_NI, self._weight, GROUP, self._scales)
        return _plus(y_NO if self._bias is None else y_NO + self._bias, add_NO)

    def _dequantised(self) -> Tensor:
        """The weight, (I, O)."""
        scale, zero = self._scales.unbind(-1)
        levels = self._levels(self._scales.dtype)
        grouped = levels.view(len(scale), GROUP, -1)
        grouped.mul_(scale.contiguous()[:, None]).add_((zero - 8 * scale)[:, None])
        return levels

    def _levels(self, dtype: torch.dtype) -> Tensor:
        """The levels in the kernel's packed layout for 512-bit vectors, (I, O).

        Of each 64 outputs, the first 32 are in the low nibbles of the bytes and the others in the high ones.
        """
        outputs, inputs = self._weight.shape[0], self._weight.shape[1] * 2
        eights, low = self._weight.view(torch.int64), 0x0F0F0F0F0F0F0F0F
        levels = torch.empty(inputs, outputs // (2 * HALF), 2, HALF, dtype=dtype)
        for half, bits in enumerate((eights & low, (eights >> 4) & low)):
            levels[:, :, half] = bits.view(torch.uint8).view(-1, inputs, HALF).transpose(0, 1)
        return levels.view(inputs, outputs)


def rounded(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """The weight in int8, and the scale of each row."""
    weight_OI = weight_OI.detach().float()
    scale_O = (weight_OI.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (weight_OI / scale_O[:, None]).round().to(torch.int8), scale_O


def in_groups(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Levels from 0 to 15, (O, I), and scale and offset of each group, (O, groups): weight = level * scale + offset."""
    groups = weight_OI.detach().float().reshape(len(weight_OI), -1, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).clamp_min(torch.finfo(torch.bfloat16).tiny)
    levels = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15)
    return levels.to(torch.uint8).flatten(1), scale, low


def _can_be_int4(weight_OI: Tensor) -> bool:
    return weight_OI.shape[1] % GROUP == 0 and weight_OI.shape[0] % 16 == 0


def _plus(y_NO: Tensor, add_NO: Tensor | None) -> Tensor:
    return y_NO if add_NO is None else y_NO.add_(add_NO)
