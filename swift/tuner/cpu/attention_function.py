"""Causal attention of rows without padding, with its gradient written out. Knows no model.

Tensors hold the tokens of several rows one after another: (T tokens, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from swift.tuner.cpu.compiled import kernel

BLOCK = 128
"""Queries that attend together. Smaller blocks compute fewer scores that the causal mask discards."""
KEPT = 1024
"""Tokens of a row up to which probabilities are kept for the backward pass: at most 1 MiB a head and block."""


class Heads(NamedTuple):
    """Query heads over key heads (arXiv 2305.13245), each `width` wide; a token sees `window` tokens back, or all."""

    queries: int
    keys: int
    width: int
    scale: float
    window: int | None = None


class Attention(Function):
    """softmax(Q K') V within each row, with rotary embedding (arXiv 2104.09864); also under a dropout mask.

    `qkv` is (T, (H + 2 K) x D), `lengths` the rows' tokens in order, `rotary` cosines and sines (T, rotary_dim).
    `branches` (1, T): a token does not see those of its row with another number, but for those with 0; None: it sees
    all before it. Queries attend a block at a time. Rows of up to `KEPT` tokens keep their probabilities for the
    backward pass, longer ones compute them again there, so memory grows linearly with the row.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        lengths: Sequence[int],
        branches: Tensor | None,
        heads: Heads,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        cos, sin = rotary or (None, None)
        q_KXD, k_KTD, v_KTD = _split_heads(qkv, cos, sin, heads.queries, heads.keys, heads.width, heads.scale)
        out_KXD = torch.empty_like(q_KXD)
        kept = []
        rows = _split_rows(lengths, q_KXD, k_KTD, v_KTD, out_KXD)
        for q, k, v, out, branch in zip(*rows, _branches_of_rows(branches, lengths), strict=True):
            for at, seen in _blocks(k.shape[1], heads.window):
                probabilities = _probabilities(q, k, at, seen, heads, branch)
                out[:, _query_slice(at, heads)] = probabilities @ v[:, seen]
                if k.shape[1] <= KEPT and ctx.needs_input_grad[0]:
                    kept.append(probabilities)
        ctx.save_for_backward(q_KXD, k_KTD, v_KTD, cos, sin, mask, branches, *kept)
        ctx.lengths, ctx.heads = lengths, heads
        y_TI = _ungroup(out_KXD, heads.queries // heads.keys).flatten(1)
        return y_TI, None if mask is None else y_TI * mask

    @staticmethod
    def backward(ctx: Any, dy_TI: Tensor, ddropped_TI: Tensor | None) -> tuple[Tensor | None, ...]:
        heads: Heads = ctx.heads
        q_KXD, k_KTD, v_KTD, cos, sin, mask, branches, *kept = ctx.saved_tensors
        dout_KXD = _group_by_key(dy_TI, ddropped_TI, mask, heads.keys, heads.width)
        dq_KXD = torch.empty_like(q_KXD)
        dk_KTD, dv_KTD = (torch.zeros_like(each, dtype=torch.float32) for each in (k_KTD, v_KTD))
        known = iter(kept)
        rows = _split_rows(ctx.lengths, q_KXD, k_KTD, v_KTD, dout_KXD, dq_KXD, dk_KTD, dv_KTD)
        for q, k, v, drow, dq, dk, dv, branch in zip(*rows, _branches_of_rows(branches, ctx.lengths), strict=True):
            for at, seen in _blocks(k.shape[1], heads.window):
                probabilities = next(known) if k.shape[1] <= KEPT else _probabilities(q, k, at, seen, heads, branch)
                here = _query_slice(at, heads)
                dv[:, seen] += probabilities.transpose(1, 2) @ drow[:, here]
                dprobabilities = drow[:, here] @ v[:, seen].transpose(1, 2)
                dscores = torch._softmax_backward_data(dprobabilities, probabilities, -1, probabilities.dtype)
                dk[:, seen] += dscores.transpose(1, 2) @ q[:, here]
                dq[:, here] = dscores @ k[:, seen]
        dqkv = _join_gradients(dq_KXD, dk_KTD, dv_KTD, cos, sin, heads.queries, heads.scale)
        return dqkv, None, None, None, None, None


@kernel
def _split_heads(
    qkv: Tensor, cos: Tensor | None, sin: Tensor | None, queries: int, keys: int, width: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries (K, T x G, D) and keys (K, T, D), both rotated, and values (K, T, D); G queries share a key."""
    q, k, v = qkv.unflatten(1, (-1, width)).split([queries, keys, keys], dim=1)
    q, k = _rotate(q, cos, sin) * scale, _rotate(k, cos, sin)
    # the queries of a key head follow each other token by token, so that a block of tokens is a slice
    q_KXD = q.unflatten(1, (keys, -1)).transpose(0, 1).flatten(1, 2)
    return q_KXD, k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous()


@kernel
def _join_gradients(
    dq_KXD: Tensor,
    dk_KTD: Tensor,
    dv_KTD: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    queries: int,
    scale: float,
) -> Tensor:
    """The gradient of qkv from those of what `_split_heads` returns."""
    back = None if sin is None else -sin
    dq = _rotate(_ungroup(dq_KXD, queries // len(dk_KTD)) * scale, cos, back)
    dk, dv = (each.transpose(0, 1).to(dq.dtype) for each in (dk_KTD, dv_KTD))
    return torch.cat([dq, _rotate(dk, cos, back), dv], dim=1).flatten(1)


@kernel
def _group_by_key(dy_TI: Tensor, ddropped_TI: Tensor | None, mask: Tensor | None, keys: int, width: int) -> Tensor:
    """The gradient of attention's output and of its masked copy, in the layout of `_split_heads`' queries."""
    if ddropped_TI is not None and mask is not None:
        dy_TI = dy_TI.addcmul(ddropped_TI, mask)
    dy_KTGD: Tensor = dy_TI.unflatten(1, (keys, -1, width)).transpose(0, 1)
    return dy_KTGD.flatten(1, 2)


def _ungroup(x_KXD: Tensor, group: int) -> Tensor:
    """(K, T x G, D) -> (T, H, D)."""
    x_TKGD: Tensor = x_KXD.unflatten(1, (-1, group)).transpose(0, 1)
    return x_TKGD.flatten(1, 2)


def _query_slice(at: slice, heads: Heads) -> slice:
    """The queries of these tokens."""
    group = heads.queries // heads.keys
    return slice(at.start * group, at.stop * group)


def _split_rows(lengths: Sequence[int], *tensors: Tensor) -> list[Sequence[Tensor]]:
    """Each tensor, (K, a multiple of T, D), split into rows."""
    total = sum(lengths)
    return [each.split([length * (each.shape[1] // total) for length in lengths], dim=1) for each in tensors]


def _branches_of_rows(branches: Tensor | None, lengths: Sequence[int]) -> Sequence[Tensor | None]:
    return [None] * len(lengths) if branches is None else branches[0].split(list(lengths))


def _rotate(x_TND: Tensor, cos_TR: Tensor | None, sin_TR: Tensor | None) -> Tensor:
    """Rotary embedding of the first R features of each head; both branches of R have the same angles."""
    if cos_TR is None or sin_TR is None:
        return x_TND
    half = cos_TR.shape[-1] // 2
    cos, sin = cos_TR[:, None, :half], sin_TR[:, None, :half]
    first, second, rest = x_TND[..., :half], x_TND[..., half : 2 * half], x_TND[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def _blocks(length: int, window: int | None) -> list[tuple[slice, slice]]:
    """Blocks of queries, and for each the keys that any of them sees."""
    starts = range(0, length, BLOCK)
    stops = [min(start + BLOCK, length) for start in starts]
    firsts = [max(0, start + 1 - window) if window else 0 for start in starts]
    return [(slice(start, stop), slice(first, stop)) for start, stop, first in zip(starts, stops, firsts, strict=True)]


def _probabilities(
    q_KXD: Tensor, k_KTD: Tensor, at: slice, seen: slice, heads: Heads, branch_T: Tensor | None
) -> Tensor:
    """softmax of the scores of a block of queries, (K, block x G, seen)."""
    count, first = at.stop - at.start, at.start - seen.start
    scores = q_KXD[:, _query_slice(at, heads)] @ k_KTD[:, seen].transpose(1, 2)
    by_query = scores.unflatten(1, (count, -1))
    later = scores.new_full((count, count), float("-inf")).triu_(1)[:, None]
    by_query[..., first:] += later
    if heads.window and at.stop > heads.window:
        past = torch.ones(count, seen.stop - seen.start, dtype=torch.bool, device=scores.device)
        by_query.masked_fill_(past.tril_(first - heads.window)[:, None], float("-inf"))
    if branch_T is not None:
        of_key, of_query = branch_T[None, seen], branch_T[at, None]
        by_query.masked_fill_(((of_key != 0) & (of_key != of_query))[:, None], float("-inf"))
    return torch.softmax(scores, -1, out=scores)
