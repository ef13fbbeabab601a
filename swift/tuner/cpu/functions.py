"""The sums of a decoder's block with their gradients written out, for LoRA and for weights. Knows no model.

Tensors hold the tokens of several rows one behind the other, without padding: (T tokens, width). Weights that are not
trained get no gradient, and what is cheap is computed again in the backward pass rather than kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from swift.tuner.cpu.compiled import kernel

BLOCK = 128
"""Queries that attend together. Smaller blocks multiply less of what the causal mask takes away again."""
KEPT = 1024
"""Tokens of a row up to which attention's shares are kept for the backward pass: below 1 MiB a head and block."""


class Part(NamedTuple):
    """Where one adapter of several that share an input adds to their joint output, and by what factor."""

    start: int
    stop: int
    scale: float


class Span(NamedTuple):
    """The rows of a joint weight that are one layer's, and whether that layer has a bias."""

    start: int
    stop: int
    biased: bool


class Sums(Protocol):
    """Where gradients of parameters go that are not given to torch's autograd, which would keep all of a batch."""

    def of(self, parameter: Tensor) -> Tensor:
        """The sum so far, to be added to."""


def add_product(sum_: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds a @ b, whose dtype can be another than that of the sum."""
    if sum_.dtype == a.dtype:
        sum_.addmm_(a, b)
    else:
        sum_.add_(a @ b)


class Embed(Function):
    """Rows of an embedding. Only those that a batch has get a gradient, none is made for the others."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight_VI: Tensor, padding: int | None, sums: Sums) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.weight, ctx.padding, ctx.sums = weight_VI, padding, sums
        return weight_VI[tokens]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (tokens,) = ctx.saved_tensors
        if ctx.padding is not None:
            dy = dy.masked_fill((tokens == ctx.padding)[..., None], 0)
        sum_VI = ctx.sums.of(ctx.weight)
        sum_VI.index_add_(0, tokens.flatten(), dy.flatten(0, -2).to(sum_VI.dtype))
        return None, None, None, None


class Linear(Function):
    """x W' + b + sum over the parts of scale x (dropped A') B', with the gradients of what is trained.

    All linear layers with the input x at once, LoRA (arXiv 2106.09685) beside them: W holds their weights below each
    other, in the dtype of x. `tensors` are the adapters' A, their B, and the parameters that W and b are made of: the
    weight of each span, then the bias of each that has one. These are not read, they only get gradients, in their own
    dtype, where they are trained; in `sums`, where these are given. `dropped` is x under a dropout mask, None where
    there is none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        dropped_TI: Tensor | None,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        parts: Sequence[Part],
        spans: Sequence[Span],
        sums: Sums | None,
        *tensors: Tensor,
    ) -> Tensor:
        y_TO = torch.nn.functional.linear(x_TI, weight_OI, bias_O)
        count = len(parts)
        downs, ups = tensors[:count], tensors[count : 2 * count]
        ranks = [len(down) for down in downs]
        seen_TI = inner_TR = down_RI = up_OR = None
        if parts:
            down_RI = torch.cat(downs).to(x_TI.dtype)
            up_OR = x_TI.new_zeros(len(weight_OI), sum(ranks))
            for part, up, columns in zip(parts, ups, up_OR.split(ranks, dim=1), strict=True):
                columns[part.start : part.stop] = up * part.scale
            seen_TI = x_TI if dropped_TI is None else dropped_TI
            inner_TR = seen_TI @ down_RI.T
            y_TO.addmm_(inner_TR, up_OR.T)
        own = ctx.needs_input_grad[FIRST + 2 * count :]
        ctx.save_for_backward(x_TI if any(own) else None, weight_OI, seen_TI, inner_TR, down_RI, up_OR)
        ctx.parts, ctx.ranks, ctx.spans, ctx.own, ctx.drops = parts, ranks, spans, own, dropped_TI is not None
        ctx.sums, ctx.tensors = sums, tensors[2 * count :]
        ctx.dtypes = [each.dtype for each in tensors]
        return y_TO

    @staticmethod
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, weight_OI, seen_TI, inner_TR, down_RI, up_OR = ctx.saved_tensors
        dx_TI = dy_TO @ weight_OI if ctx.needs_input_grad[0] else None
        ddropped_TI, adapters = None, []
        if ctx.parts:
            dinner_TR = dy_TO @ up_OR
            dups = zip(ctx.parts, (inner_TR.T @ dy_TO).split(ctx.ranks), strict=True)
            adapters = [
                *(dinner_TR.T @ seen_TI).split(ctx.ranks),
                *(rows[:, part.start : part.stop].T * part.scale for part, rows in dups),
            ]
            if dx_TI is not None and ctx.drops:
                ddropped_TI = dinner_TR @ down_RI
            elif dx_TI is not None:
                dx_TI.addmm_(dinner_TR, down_RI)
        found = [*adapters, *_own_gradients(ctx, dy_TO, x_TI)]
        gradients = [None if each is None else each.to(dtype) for each, dtype in zip(found, ctx.dtypes, strict=True)]
        return (dx_TI, ddropped_TI, None, None, None, None, None, *gradients)


FIRST = 7
"""The place of the first of the `tensors` among the arguments of `Linear`."""


def _own_gradients(ctx: Any, dy_TO: Tensor, x_TI: Tensor | None) -> list[Tensor | None]:
    """Those of the spans' weights, then of their biases, where they are wanted; None each where sums get them."""
    spans: Sequence[Span] = ctx.spans
    places = [*spans, *(span for span in spans if span.biased)]
    found: list[Tensor | None] = []
    for at, (span, parameter, wanted) in enumerate(zip(places, ctx.tensors, ctx.own, strict=True)):
        if not wanted:
            found.append(None)
            continue
        dy, sum_ = dy_TO[:, span.start : span.stop], _sum_of(parameter, ctx.sums)
        if at < len(spans):
            assert x_TI is not None
            add_product(sum_, dy.T, x_TI)
        else:
            sum_ += dy.sum(0, dtype=torch.float32)
        found.append(sum_ if ctx.sums is None else None)
    return found


def _sum_of(parameter: Tensor, sums: Sums | None) -> Tensor:
    return torch.zeros_like(parameter) if sums is None else sums.of(parameter)


class AddNorm(Function):
    """x + factor x delta, the RMS norm of it (arXiv 1910.07467), and that norm under a dropout mask.

    Without `delta` the first is x, without `mask` the last is None. The norm's statistics are in fp32; its weight can
    have another dtype than x.
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
    """silu(gate) x up of a tensor that holds both beside each other (arXiv 2002.05202), and that under a mask."""

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
    scaled, wide = (dy * weight).float(), total.float()
    along = (scaled * wide).sum(-1, keepdim=True) * inverse**3 / -total.shape[-1]
    dx = (scaled * inverse).addcmul(wide, along).to(dy.dtype)
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
        ctx: Any,
        qkv: Tensor,
        turn: tuple[Tensor, Tensor] | None,
        lengths: Sequence[int],
        heads: Heads,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        cos, sin = turn or (None, None)
        q_KXD, k_KTD, v_KTD = _apart(qkv, cos, sin, heads.queries, heads.keys, heads.width, heads.scale)
        out_KXD = torch.empty_like(q_KXD)
        kept = []
        for q, k, v, out in zip(*_rows(lengths, q_KXD, k_KTD, v_KTD, out_KXD), strict=True):
            for at, seen in _blocks(k.shape[1], heads.window):
                shares = _shares(q, k, at, seen, heads)
                out[:, _of(at, heads)] = shares @ v[:, seen]
                if k.shape[1] <= KEPT and ctx.needs_input_grad[0]:
                    kept.append(shares)
        ctx.save_for_backward(q_KXD, k_KTD, v_KTD, cos, sin, mask, *kept)
        ctx.lengths, ctx.heads = lengths, heads
        y_TI = _by_token(out_KXD, heads.queries // heads.keys).flatten(1)
        return y_TI, None if mask is None else y_TI * mask

    @staticmethod
    def backward(ctx: Any, dy_TI: Tensor, ddropped_TI: Tensor | None) -> tuple[Tensor | None, ...]:
        heads: Heads = ctx.heads
        q_KXD, k_KTD, v_KTD, cos, sin, mask, *kept = ctx.saved_tensors
        dout_KXD = _by_key(dy_TI, ddropped_TI, mask, heads.keys, heads.width)
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
        dqkv = _together(dq_KXD, dk_KTD, dv_KTD, cos, sin, heads.queries, heads.scale)
        return dqkv, None, None, None, None


@kernel
def _apart(
    qkv: Tensor, cos: Tensor | None, sin: Tensor | None, queries: int, keys: int, width: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, scaled, (K, T x G, D), keys and values, (K, T, D); queries and keys turned."""
    q, k, v = qkv.unflatten(1, (-1, width)).split([queries, keys, keys], dim=1)
    q, k = _turned(q, cos, sin) * scale, _turned(k, cos, sin)
    # the queries of a key head below each other, those of one token together, so a block of tokens is a slice
    q_KXD = q.unflatten(1, (keys, -1)).transpose(0, 1).flatten(1, 2)
    return q_KXD, k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous()


@kernel
def _together(
    dq_KXD: Tensor,
    dk_KTD: Tensor,
    dv_KTD: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    queries: int,
    scale: float,
) -> Tensor:
    """The gradient of qkv from those of what `_apart` makes of it."""
    back = None if sin is None else -sin
    dq = _turned(_by_token(dq_KXD, queries // len(dk_KTD)) * scale, cos, back)
    dk, dv = (each.transpose(0, 1).to(dq.dtype) for each in (dk_KTD, dv_KTD))
    return torch.cat([dq, _turned(dk, cos, back), dv], dim=1).flatten(1)


@kernel
def _by_key(dy_TI: Tensor, ddropped_TI: Tensor | None, mask: Tensor | None, keys: int, width: int) -> Tensor:
    """The gradient of what attention gives, with dropout and without, laid out as `_apart` lays out queries."""
    if ddropped_TI is not None and mask is not None:
        dy_TI = dy_TI.addcmul(ddropped_TI, mask)
    dy_KTGD: Tensor = dy_TI.unflatten(1, (keys, -1, width)).transpose(0, 1)
    return dy_KTGD.flatten(1, 2)


def _by_token(x_KXD: Tensor, group: int) -> Tensor:
    """(T, H, D) again of what `_apart` lays out."""
    x_TKGD: Tensor = x_KXD.unflatten(1, (-1, group)).transpose(0, 1)
    return x_TKGD.flatten(1, 2)


def _of(at: slice, heads: Heads) -> slice:
    """The places of these tokens' queries."""
    group = heads.queries // heads.keys
    return slice(at.start * group, at.stop * group)


def _rows(lengths: Sequence[int], *tensors: Tensor) -> list[Sequence[Tensor]]:
    """Each tensor as one for every row."""
    total = sum(lengths)
    return [each.split([length * (each.shape[1] // total) for length in lengths], dim=1) for each in tensors]


def _turned(x_TND: Tensor, cos_TR: Tensor | None, sin_TR: Tensor | None) -> Tensor:
    """The first R features of each head turned (RoPE); both halves of R share their angles."""
    if cos_TR is None or sin_TR is None:
        return x_TND
    half = cos_TR.shape[-1] // 2
    cos, sin = cos_TR[:, None, :half], sin_TR[:, None, :half]
    before, after, rest = x_TND[..., :half], x_TND[..., half : 2 * half], x_TND[..., 2 * half :]
    return torch.cat([before * cos - after * sin, after * cos + before * sin, rest], dim=-1)


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
