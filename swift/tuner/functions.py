"""The sums of a decoder's block with their gradients written out, for frozen weights beside LoRA. Knows no model.

Tensors hold the tokens of several rows one behind the other, without padding: (T tokens, width). Frozen weights get no
gradient, and what is cheap is computed again in the backward pass rather than kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

BLOCK = 128
"""Queries that attend together. Smaller blocks multiply less of what the causal mask takes away again."""


class Part(NamedTuple):
    """Where one adapter of several that share an input adds to their joint output, and by what factor."""

    start: int
    stop: int
    scale: float


class LowRank(Function):
    """x W' + b + sum over the parts of scale x ((x * mask) A') B', the adapters' A first, then their B.

    LoRA (arXiv 2106.09685) for all linear layers with the input x at once: W holds their weights below each other.
    `mask` is 0 or a constant; adapters compute in the dtype of x and get gradients in their own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        mask_TI: Tensor | None,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        parts: Sequence[Part],
        *adapters: Tensor,
    ) -> Tensor:
        y_TO = torch.nn.functional.linear(x_TI, weight_OI, bias_O)
        downs, ups = adapters[: len(parts)], adapters[len(parts) :]
        ranks = [len(down) for down in downs]
        down_RI = torch.cat(downs).to(x_TI.dtype)
        up_OR = x_TI.new_zeros(len(weight_OI), sum(ranks))
        for part, up, columns in zip(parts, ups, up_OR.split(ranks, dim=1), strict=True):
            columns[part.start : part.stop] = up * part.scale
        inner_TR = _masked(x_TI, mask_TI) @ down_RI.T
        y_TO.addmm_(inner_TR, up_OR.T)
        ctx.save_for_backward(x_TI, mask_TI, weight_OI, inner_TR, down_RI, up_OR)
        ctx.parts, ctx.ranks = parts, ranks
        ctx.dtypes = [each.dtype for each in adapters]
        return y_TO

    @staticmethod
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, mask_TI, weight_OI, inner_TR, down_RI, up_OR = ctx.saved_tensors
        dinner_TR = dy_TO @ up_OR
        ddowns = (dinner_TR.T @ _masked(x_TI, mask_TI)).split(ctx.ranks)
        inners = inner_TR.split(ctx.ranks, dim=1)
        dups = [
            (inner.T @ dy_TO[:, part.start : part.stop]).T * part.scale
            for part, inner in zip(ctx.parts, inners, strict=True)
        ]
        dx_TI = None
        if ctx.needs_input_grad[0]:
            dx_TI = dy_TO @ weight_OI
            dx_TI += _masked(dinner_TR @ down_RI, mask_TI)
        gradients = [each.to(dtype) for each, dtype in zip([*ddowns, *dups], ctx.dtypes, strict=True)]
        return (dx_TI, None, None, None, None, *gradients)


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


class RmsNorm(Function):
    """x / sqrt(mean(x^2) + eps) x weight over the last dimension (arXiv 1910.07467), its statistics in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        inverse = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        y: Tensor = (x * inverse).to(x.dtype).mul_(weight)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        scaled = dy * weight
        along = (scaled * x).sum(-1, keepdim=True, dtype=torch.float32) * inverse**3 / x.shape[-1]
        return (scaled * inverse).sub_(x * along).to(x.dtype), None, None


class SwiGlu(Function):
    """silu(gate) x up of a tensor that holds both beside each other (arXiv 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        gradient = torch.empty_like(gate_up)
        dgate, dup = gradient.chunk(2, dim=-1)
        torch.mul(dy, torch.nn.functional.silu(gate), out=dup)
        torch.ops.aten.silu_backward.grad_input(dy * up, gate, grad_input=dgate)
        return gradient


class Heads(NamedTuple):
    """The shape of attention: H query heads over K key heads (arXiv 2305.13245); a token sees `window` tokens back."""

    queries: int
    keys: int
    width: int
    scale: float
    window: int | None = None


class Attention(Function):
    """Causal attention within each row, queries and keys turned by their positions before (RoPE, arXiv 2104.09864).

    `qkv` is (T, (H + 2K) x D), `lengths` the rows' tokens, in order. Scores are computed again in the backward pass, a
    block of queries at a time, so memory grows with the row and not with its square.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, turn: tuple[Tensor, Tensor] | None, lengths: Sequence[int], heads: Heads
    ) -> Tensor:
        turned_TND = qkv.view(len(qkv), -1, heads.width)
        if turn:
            turned_TND = _turned(turned_TND, *turn, heads.queries + heads.keys)
        out_THD = qkv.new_empty(len(qkv), heads.queries, heads.width)
        for row, out in zip(turned_TND.split(lengths), out_THD.split(lengths), strict=True):
            q, k, v = _grouped(row, heads)
            out_KGTD = out.unflatten(1, (heads.keys, -1)).permute(1, 2, 0, 3)
            for at, seen in _blocks(len(row), heads.window):
                shares, _ = _shares(q, k, at, seen, heads)
                out_KGTD[:, :, at] = (shares @ v[:, seen]).unflatten(1, (-1, at.stop - at.start))
        ctx.save_for_backward(turned_TND, *(turn or ()))
        ctx.lengths, ctx.heads = lengths, heads
        return out_THD.flatten(1)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        turned_TND, *turn = ctx.saved_tensors
        heads: Heads = ctx.heads
        gradient_TND = torch.empty_like(turned_TND)
        dout_THD = dout.view(len(dout), heads.queries, heads.width)
        rows = zip(*(each.split(ctx.lengths) for each in (turned_TND, gradient_TND, dout_THD)), strict=True)
        for row, gradient, drow in rows:
            q, k, v = _grouped(row, heads)
            drow_KGTD = drow.unflatten(1, (heads.keys, -1)).permute(1, 2, 0, 3)
            dq_KGTD, dk_out, dv_out = _grouped_views(gradient, heads)
            dk, dv = (torch.zeros_like(each, dtype=torch.float32) for each in (k, v))
            for at, seen in _blocks(len(row), heads.window):
                shares, q_block = _shares(q, k, at, seen, heads)
                d_block = drow_KGTD[:, :, at].reshape(q_block.shape)
                dv[:, seen] += shares.transpose(1, 2) @ d_block
                dscores = torch._softmax_backward_data(d_block @ v[:, seen].transpose(1, 2), shares, -1, shares.dtype)
                dk[:, seen] += dscores.transpose(1, 2) @ q_block
                dq_block = (dscores @ k[:, seen]).mul_(heads.scale)
                dq_KGTD[:, :, at] = dq_block.unflatten(1, (-1, at.stop - at.start))
            dk_out.copy_(dk)
            dv_out.copy_(dv)
        if turn:
            cos, sin = turn
            gradient_TND = _turned(gradient_TND, cos, -sin, heads.queries + heads.keys)
        return gradient_TND.flatten(1), None, None, None


def _turned(x_TND: Tensor, cos_TR: Tensor, sin_TR: Tensor, heads: int) -> Tensor:
    """The first R features of the first `heads` heads turned; both halves of R share their angles."""
    width, half = cos_TR.shape[-1], cos_TR.shape[-1] // 2
    cos, sin = cos_TR[:, None], sin_TR[:, None, :half]
    out = x_TND.clone()
    before, after = x_TND[:, :heads], out[:, :heads]
    torch.mul(before[..., :width], cos, out=after[..., :width])
    after[..., :half].addcmul_(before[..., half:width], sin, value=-1)
    after[..., half:width].addcmul_(before[..., :half], sin)
    return out


def _grouped_views(row_TND: Tensor, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """(K, G, T, D) queries, G of them to a key head, and (K, T, D) keys and values."""
    q, k, v = row_TND.split([heads.queries, heads.keys, heads.keys], dim=1)
    return q.unflatten(1, (heads.keys, -1)).permute(1, 2, 0, 3), k.transpose(0, 1), v.transpose(0, 1)


def _grouped(row_TND: Tensor, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _grouped_views(row_TND, heads)
    return q, k.contiguous(), v.contiguous()


def _blocks(length: int, window: int | None) -> list[tuple[slice, slice]]:
    """Blocks of queries, and the keys that any of them sees."""
    starts = range(0, length, BLOCK)
    stops = [min(start + BLOCK, length) for start in starts]
    firsts = [max(0, start + 1 - window) if window else 0 for start in starts]
    return [(slice(start, stop), slice(first, stop)) for start, stop, first in zip(starts, stops, firsts, strict=True)]


def _shares(q_KGTD: Tensor, k_KTD: Tensor, at: slice, seen: slice, heads: Heads) -> tuple[Tensor, Tensor]:
    """softmax of a block's scores, (K, G x block, seen), and its queries, scaled."""
    count, first = at.stop - at.start, at.start - seen.start
    q = (q_KGTD[:, :, at] * heads.scale).flatten(1, 2)
    scores = q @ k_KTD[:, seen].transpose(1, 2)
    by_query = scores.unflatten(1, (-1, count))
    later = torch.full((count, count), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)
    by_query[..., first:] += later
    if heads.window and at.stop > heads.window:
        past = torch.ones(count, seen.stop - seen.start, dtype=torch.bool, device=q.device)
        by_query.masked_fill_(past.tril_(first - heads.window), float("-inf"))
    return scores.softmax(-1), q
