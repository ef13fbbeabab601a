"""RMS norm with its residual addition and SwiGLU, with their gradients written out. Knows no model.

Each makes its result twice where a mask is given: plain, and under that dropout mask, as adapters read it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from swift.tuner.cpu.compiled import kernel


class AddNorm(Function):
    """x + factor x delta, its RMS norm (arXiv 1910.07467), and that norm under a dropout mask.

    Without `delta` the first is x; without `mask` the last is None. The mean square is computed in fp32; the norm's
    weight may have another dtype than x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor | None, factor: float, weight: Tensor, eps: float, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.dtype, weight = weight.dtype, weight.to(x.dtype)
        total, y, dropped, inverse = _add_norm(x, delta, factor, weight, eps, mask)
        ctx.save_for_backward(total, weight, inverse, mask)
        ctx.factor = None if delta is None else factor
        return total, y, dropped

    @staticmethod
    def backward(ctx: Any, dtotal: Tensor | None, dy: Tensor, ddropped: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight, inverse, mask = ctx.saved_tensors
        dx = _add_norm_gradient(dtotal, dy, ddropped, total, weight, inverse, mask)
        ddelta = None if ctx.factor is None else dx if ctx.factor == 1 else dx * ctx.factor
        dweight = None
        if ctx.needs_input_grad[3]:
            dweight = _norm_weight_gradient(dy, ddropped, total, inverse, mask).to(ctx.dtype)
        return dx, ddelta, None, dweight, None, None


class SwiGlu(Function):
    """silu(gate) x up (arXiv 2002.05202) of a tensor (T, gate and up), and that under a dropout mask."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gate_up, mask)
        answer: tuple[Tensor, Tensor | None] = _swiglu(gate_up, mask)
        return answer

    @staticmethod
    def backward(ctx: Any, dy: Tensor, ddropped: Tensor | None) -> tuple[Tensor | None, ...]:
        gate_up, mask = ctx.saved_tensors
        return _swiglu_gradient(dy, ddropped, gate_up, mask), None


@kernel
def _add_norm(
    x: Tensor, delta: Tensor | None, factor: float, weight: Tensor, eps: float, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    total = x if delta is None else x.add(delta, alpha=factor)
    square = torch.linalg.vector_norm(total, dim=-1, keepdim=True, dtype=torch.float32).square()
    inverse = square.div(total.shape[-1]).add(eps).rsqrt()
    y = (total * inverse).to(total.dtype) * weight
    return total, y, None if mask is None else y * mask, inverse


@kernel
def _add_norm_gradient(
    dtotal: Tensor | None,
    dy: Tensor,
    ddropped: Tensor | None,
    total: Tensor,
    weight: Tensor,
    inverse: Tensor,
    mask: Tensor | None,
) -> Tensor:
    if ddropped is not None and mask is not None:
        dy = dy.addcmul(ddropped, mask)
    scaled, total_fp32 = (dy * weight).float(), total.float()
    along = (scaled * total_fp32).sum(-1, keepdim=True) * inverse**3 / -total.shape[-1]
    dx = (scaled * inverse).addcmul(total_fp32, along).to(dy.dtype)
    return dx if dtotal is None else dx + dtotal


@kernel
def _norm_weight_gradient(
    dy: Tensor, ddropped: Tensor | None, total: Tensor, inverse: Tensor, mask: Tensor | None
) -> Tensor:
    if ddropped is not None and mask is not None:
        dy = dy.addcmul(ddropped, mask)
    return (dy.float() * (total * inverse)).sum(0)


@kernel
def _swiglu(gate_up: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    gate, up = gate_up.chunk(2, dim=-1)
    y = torch.nn.functional.silu(gate) * up
    return y, None if mask is None else y * mask


@kernel
def _swiglu_gradient(dy: Tensor, ddropped: Tensor | None, gate_up: Tensor, mask: Tensor | None) -> Tensor:
    if ddropped is not None and mask is not None:
        dy = dy.addcmul(ddropped, mask)
    gate, up = gate_up.chunk(2, dim=-1)
    dgate = torch.ops.aten.silu_backward(dy * up, gate)
    return torch.cat([dgate, dy * torch.nn.functional.silu(gate)], dim=-1)
