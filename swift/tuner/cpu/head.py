"""A frozen output head with its negative log-likelihood in C++ (`head.cpp`). Knows hidden states and targets.

Its weight is packed, as those of blocks are.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_double, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from swift import native
from swift.tuner.cpu.block import DTYPES, Memory, planes
from swift.tuner.cpu.panels import SIDE


class _Head(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("weight", "panels", "bias")),
        *((name, c_int64) for name in ("words", "width", "planes")),
        ("scale", c_double),
        *((name, c_int64) for name in ("tokens", "threads", "memory_bytes")),
        *((name, c_void_p) for name in ("x", "target", "nll", "hit", "dx", "memory")),
    ]


def library(dtype: torch.dtype, kernels: str = "") -> ctypes.CDLL:
    """The functions of `head.cpp` for a dtype and an instruction set (see native.load).

    Raises native.Unavailable.
    """
    return _library(dtype, kernels or native.default())


@cache
def _library(dtype: torch.dtype, kernels: str) -> ctypes.CDLL:
    source = Path(__file__).with_suffix(".cpp")
    functions = native.load(source, kernels, (_Head,), FP32=int(dtype is torch.float32))
    native.declare(
        functions,
        pack_head=[c_void_p, c_int64, c_int64, c_int, c_void_p],
        head_bytes=[POINTER(_Head), POINTER(c_int64)],
        negative_log_likelihood=[POINTER(_Head)],
    )
    return functions


def why_not(head: nn.Module, kernels: str = "") -> str:
    """Why this head is computed by torch's functions; empty where C++ computes it."""
    if type(head) is not nn.Linear or head.weight.requires_grad:
        return "it is not a frozen linear layer"
    if head.weight.dtype not in DTYPES or head.in_features % SIDE:
        return f"it is for bf16 or fp32 and widths that are multiples of {SIDE}"
    try:
        library(head.weight.dtype, kernels)
    except native.Unavailable as error:
        return str(error)
    return ""


class Head(nn.Linear):
    """Replaces a frozen `nn.Linear` that `why_not` accepts, and shares its parameters."""

    def __init__(self, head: nn.Linear, kernels: str = "") -> None:
        nn.Module.__init__(self)
        self._kernels = kernels or native.default()
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight, self.bias = head.weight, head.bias
        weight = head.weight.detach().contiguous()
        rows = -(-self.out_features // SIDE) * SIDE
        self._constants = made = _Head()
        made.words, made.width, made.planes = *weight.shape, planes(weight, self._kernels)
        self._panels = torch.empty(made.planes * rows * self.in_features, dtype=torch.bfloat16)
        made.panels = self._panels.data_ptr()
        functions = library(weight.dtype, self._kernels)
        functions.pack_head(weight.data_ptr(), *weight.shape, made.planes, made.panels)
        self._bias = torch.zeros(rows)
        if head.bias is not None:
            self._bias[: self.out_features] = head.bias.detach()
            made.bias = self._bias.data_ptr()
        self._memory = Memory()

    def nll(
        self, hidden_NI: Tensor, scale: float, targets_N: Tensor, hits: bool, _sums: object = None
    ) -> tuple[Tensor, Tensor]:
        """The negative log-likelihood of each target, (N), of logits times `scale`; whether it is the argmax, (N)."""
        found: tuple[Tensor, Tensor] = _Nll.apply(hidden_NI, self, scale, targets_N, hits)  # type: ignore[no-untyped-call]
        return found

    def compute(
        self, x_NI: Tensor, scale: float, targets_N: Tensor, hits: bool, gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if x_NI.dtype != self.weight.dtype:
            raise TypeError(f"hidden states are {x_NI.dtype}, the head is {self.weight.dtype}")
        nll_N = torch.empty(len(targets_N))
        hit_N = torch.empty(len(targets_N) if hits else 0, dtype=torch.bool)
        dx_NI = torch.empty_like(x_NI) if gradient else None
        made = _Head.from_buffer_copy(self._constants)
        made.scale, made.tokens, made.threads = scale, len(x_NI), torch.get_num_threads()
        weight = self.weight.detach().contiguous()
        made.weight, made.x, made.target, made.nll = (each.data_ptr() for each in (weight, x_NI, targets_N, nll_N))
        made.hit, made.dx = hit_N.data_ptr() if hits else None, None if dx_NI is None else dx_NI.data_ptr()
        functions = library(weight.dtype, self._kernels)
        needed = c_int64()
        functions.head_bytes(made, needed)
        memory = self._memory.take(needed.value)
        made.memory, made.memory_bytes = memory.data_ptr(), needed.value
        functions.negative_log_likelihood(made)
        return nll_N, hit_N, dx_NI


class _Nll(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NI: Tensor, head: Head, scale: float, targets_N: Tensor, hits: bool
    ) -> tuple[Tensor, Tensor]:
        made = head.compute(hidden_NI.contiguous(), scale, targets_N.contiguous(), hits, ctx.needs_input_grad[0])
        nll_N, hit_N, gradient_NI = made
        ctx.save_for_backward(gradient_NI)
        ctx.mark_non_differentiable(hit_N)
        return nll_N, hit_N

    @staticmethod
    def backward(ctx: Any, dnll_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_NI,) = ctx.saved_tensors
        return (gradient_NI * dnll_N[:, None]).to(gradient_NI.dtype), None, None, None, None
