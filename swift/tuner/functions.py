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
KEPT = 1024
"""Tokens of a row up to which attention's shares are kept for the backward pass: below 1 MiB a head and block."""


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
            lora_TI = dinner_TR @ down_RI
            dx_TI = dx_TI.add_(lora_TI) if mask_TI is None else dx_TI.addcmul_(lora_TI, mask_TI)
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
        scaled, wide = (dy * weight).float(), x.float()
        along = (scaled * wide).sum(-1, keepdim=True).mul_(inverse**3).div_(-x.shape[-1])
        return scaled.mul_(inverse).addcmul_(wide, along).to(x.dtype), None, None


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

    `qkv` is (T, (H + 2K) x D), `lengths` the rows' tokens, in order. Queries attend a block at a time: of rows up to
    `KEPT` tokens the shares are kept for the backward pass, of longer ones they are computed again there, so memory
    grows with the row and not with its square.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, turn: tuple[Tensor, Tensor] | None, lengths: Sequence[int], heads: Heads
    ) -> Tensor:
        q_KXD, k_KTD, v_KTD = _apart(qkv, turn, heads)
        out_KXD = torch.empty_like(q_KXD)
        kept = []
        for q, k, v, out in zip(*_rows(lengths, q_KXD, k_KTD, v_KTD, out_KXD), strict=True):
            for at, seen in _blocks(k.shape[1], heads.window):
                shares = _shares(q, k, at, seen, heads)
                out[:, _of(at, heads)] = shares @ v[:, seen]
                if k.shape[1] <= KEPT and ctx.needs_input_grad[0]:
                    kept.append(shares)
        ctx.save_for_backward(q_KXD, k_KTD, v_KTD, *(turn or ()), *kept)
        ctx.lengths, ctx.heads, ctx.turned = lengths, heads, turn is not None
        return _by_token(out_KXD, heads).flatten(1)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        heads: Heads = ctx.heads
        q_KXD, k_KTD, v_KTD, *others = ctx.saved_tensors
        turn, kept = (others[:2], others[2:]) if ctx.turned else (None, others)
        dout_KXD = _by_key(dout.unflatten(1, (-1, heads.width)), heads)
        dq_KXD = torch.empty_like(q_KXD)
        dk_KTD, dv_KTD = (torch.zeros_like(each, dtype=torch.float32) for each in (k_KTD, v_KTD))
        known = iter(kept)
        rows = _rows(ctx.lengths, q_KXD, k_KTD, v_KTD, dout_KXD, dq_KXD, dk_KTD, dv_KTD)
        for q, k, v, drow, dq, dk, dv in zip(*rows, strict=True):
            for at, seen in _blocks(k.shape[1], heads.window):
                shares = next(known) if k.shape[1] <= KEPT else _shares(q, k, at, seen, heads)
                here = _of(at, heads)
                dv[:, seen] += shares.transpose(1, 2) @ drow[:, here]
                dshares = drow[:, here] @ v[:, seen].transpose(1, 2)
                dscores = torch._softmax_backward_data(dshares, shares, -1, shares.dtype)
                dk[:, seen] += dscores.transpose(1, 2) @ q[:, here]
                dq[:, here] = dscores @ k[:, seen]
        return _together(dq_KXD, dk_KTD, dv_KTD, turn, heads), None, None, None


def _by_key(x_THD: Tensor, heads: Heads) -> Tensor:
    """(K, T x G, D): the queries of a key head below each other, those of one token together, so a block is a slice."""
    x_KTGD: Tensor = x_THD.unflatten(1, (heads.keys, -1)).transpose(0, 1)
    return x_KTGD.flatten(1, 2)


def _by_token(x_KXD: Tensor, heads: Heads) -> Tensor:
    """Back to (T, H, D)."""
    x_TKGD: Tensor = x_KXD.unflatten(1, (-1, heads.queries // heads.keys)).transpose(0, 1)
    return x_TKGD.flatten(1, 2)


def _of(at: slice, heads: Heads) -> slice:
    """The places of these tokens' queries."""
    group = heads.queries // heads.keys
    return slice(at.start * group, at.stop * group)


def _rows(lengths: Sequence[int], *tensors: Tensor) -> list[Sequence[Tensor]]:
    """Each tensor as one for every row."""
    total = sum(lengths)
    return [each.split([length * (each.shape[1] // total) for length in lengths], dim=1) for each in tensors]


def _apart(qkv: Tensor, turn: tuple[Tensor, Tensor] | None, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, scaled, (K, T x G, D), keys and values, (K, T, D); queries and keys turned."""
    x_TND = qkv.unflatten(1, (-1, heads.width))
    if turn:
        x_TND = _turned(x_TND, *turn, heads.queries + heads.keys)
    q, k, v = x_TND.split([heads.queries, heads.keys, heads.keys], dim=1)
    return _by_key(q * heads.scale, heads), k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous()


def _together(dq_KXD: Tensor, dk_KTD: Tensor, dv_KTD: Tensor, turn: Sequence[Tensor] | None, heads: Heads) -> Tensor:
    """The gradient of qkv from those of what `_apart` makes of it."""
    dq_THD = _by_token(dq_KXD.mul_(heads.scale), heads)
    gradient = torch.cat([dq_THD, *(each.transpose(0, 1).to(dq_THD.dtype) for each in (dk_KTD, dv_KTD))], dim=1)
    if turn:
        cos, sin = turn
        gradient = _turned(gradient, cos, -sin, heads.queries + heads.keys)
    return gradient.flatten(1)


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


def _blocks(length: int, window: int | None) -> list[tuple[slice, slice]]:
    """Blocks of queries, and the keys that any of them sees."""
    starts = range(0, length, BLOCK)
    stops = [min(start + BLOCK, length) for start in starts]
    firsts = [max(0, start + 1 - window) if window else 0 for start in starts]
    return [(slice(start, stop), slice(first, stop)) for start, stop, first in zip(starts, stops, firsts, strict=True)]


def _shares(q_KXD: Tensor, k_KTD: Tensor, at: slice, seen: slice, heads: Heads) -> Tensor:
    """softmax of a block's scores, (K, block x G, seen)."""
    count, first = at.stop - at.start, at.start - seen.start
    scores = q_KXD[:, _of(at, heads)] @ k_KTD[:, seen].transpose(1, 2)
    by_query = scores.unflatten(1, (count, -1))
    later = scores.new_full((count, count), float("-inf")).triu_(1)[:, None]
    by_query[..., first:] += later
    if heads.window and at.stop > heads.window:
        past = torch.ones(count, seen.stop - seen.start, dtype=torch.bool, device=scores.device)
        by_query.masked_fill_(past.tril_(first - heads.window)[:, None], float("-inf"))
    return torch.softmax(scores, -1, out=scores)
