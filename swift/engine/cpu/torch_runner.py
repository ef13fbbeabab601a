"""The common decoder families without transformers' layers: fewer, larger products, and one cache for all requests.

Tokens of many requests, a piece of a prompt beside single tokens of replies, go through every product as one list of
rows; attention alone looks at one request, or at neighbours of like length, at a time. Knows no queue and no sampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from swift.engine import families
from swift.engine.cpu import products
from swift.engine.cpu.attention import Attention, Heads, Piece, Run
from swift.engine.cpu.products import Gate, Product, gate, product
from swift.engine.families import Family, drop, weight_bias
from swift.engine.kv_cache import MIN_CAPACITY, KVCache, Slot, doubled
from swift.engine.lora import Lora
from swift.engine.runner import Chunk, as_long
from swift.engine.sampling import argmax

WASTE = 1.5
"""Requests of different length share an attention product while padding makes it at most so many times larger."""
Low = tuple[Tensor | None, Tensor, Tensor]
"""Which rows (None: all), A' (in, rank), B' (rank, out)."""


class _Layer(NamedTuple):
    norm: Tensor
    qkv: Product
    head_norms: tuple[Tensor, Tensor] | None  # queries', keys'
    out: Product
    norm_mlp: Tensor
    gate_up: Gate
    down: Product
    rope: bool
    window: int | None


class TorchRunner:
    """A runner (see runner.py) for models that `families` knows.

    `keep_weights` False: the model's own weights are dropped where they were copied, so that memory holds one of each.
    `memory`: bytes of keys and values beyond which the cache is made no larger than it must be.
    """

    def __init__(self, model: Any, bits: int = 0, keep_weights: bool = True, memory: int = 1 << 62) -> None:
        reason = families.why_not(model) or products.why_not(bits, model.device)
        assert not reason, reason
        self._family = family = Family(model)
        self._eps = torch.tensor(family.eps, device=family.device)
        self._heads = Heads(family.H, family.K, family.D, family.scale)
        self._cos = self._sin = torch.empty(0)
        self._layers = [_laid_out(layer, family, bits, keep_weights) for layer in family.layers]
        # The largest product, once a token: 4 bits would save little and cost answers.
        self._head = product(*weight_bias([model.lm_head]), 8 if bits else 0)
        if not keep_weights and not family.tied:
            drop([model.lm_head])
        self._adapters: dict[str, dict[tuple[int, str], tuple[Tensor, Tensor]]] = {}
        layout = self._heads.layout(len(self._layers), family.dtype, family.device)
        self._cache = KVCache(layout, memory)
        self.open, self.close, self.read = self._cache.open, self._cache.close, self._cache.read
        self.why_not = family.why_not
        self.position_bytes = layout.position_bytes
        self.shares_prefixes = True

    argmax = staticmethod(argmax)

    # adapters

    def add_lora(self, name: str, adapter: Lora) -> None:
        pairs = self._family.joined(adapter).items()
        self._adapters = {**self._adapters, name: {at: (A_RI.t().contiguous(), B_RO) for at, (A_RI, B_RO) in pairs}}

    def remove_lora(self, name: str) -> None:
        self._adapters = {other: pairs for other, pairs in self._adapters.items() if other != name}

    def _lows(self, chunks: Sequence[Chunk]) -> dict[tuple[int, str], list[Low]]:
        """Product -> which rows get which adapter."""
        found: dict[tuple[int, str], list[Low]] = {}
        owners = [chunk.adapter for chunk in chunks for _ in chunk.tokens]
        for name in sorted({chunk.adapter for chunk in chunks if chunk.adapter}):
            mine = [row for row, owner in enumerate(owners) if owner == name]
            which = None if len(mine) == len(owners) else as_long(mine, self._family.device)
            for place, (A_IR, B_RO) in self._adapters[name].items():
                found.setdefault(place, []).append((which, A_IR, B_RO))
        return found

    # computing

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        family, device = self._family, self._family.device
        slots: list[Slot] = [chunk.state for chunk in chunks]  # type: ignore[misc]  # our own open() made them
        self._cache.reserve(max(slot.length + len(chunk.tokens) for slot, chunk in zip(slots, chunks, strict=True)))
        order = sorted(range(len(chunks)), key=lambda index: (len(chunks[index].tokens) > 1, slots[index].index))
        ordered = [chunks[index] for index in order]
        parts, positions = _parts(ordered)
        self._reach(max(positions) + 1)
        at_N = as_long(positions, device)
        tokens_N = as_long([token for chunk in ordered for token in chunk.tokens], device)
        rope = self._cos[at_N, None], self._sin[at_N, None]
        lows = self._lows(ordered)
        attend = Attention(self._heads, parts, family.dtype, device)
        x_NC = functional.embedding(tokens_N, family.embedding)
        for index, layer in enumerate(self._layers):
            join = partial(_joined, lows=lows, index=index) if lows else _alone
            keys, values = (held[index] for held in self._cache.tensors)
            qkv_NHD = join(layer.qkv, self._normed(x_NC, layer.norm), "qkv").view(len(x_NC), -1, family.D)
            self._place(qkv_NHD, layer, rope)
            attend.store(qkv_NHD[:, family.H :], keys, values)
            x_NC = join(layer.out, attend(qkv_NHD[:, : family.H], keys, values, layer.window), "out", x_NC)
            normed_NC = self._normed(x_NC, layer.norm_mlp)
            if lows:
                gate_NF, up_NF = join(layer.gate_up.both, normed_NC, "gate_up").chunk(2, -1)
                inner_NF = family.act(gate_NF).mul_(up_NF)
            else:
                inner_NF = layer.gate_up(normed_NC)
            x_NC = join(layer.down, inner_NF, "down", x_NC)
        for slot, chunk in zip(slots, chunks, strict=True):
            slot.length += len(chunk.tokens)
        ends, row = {}, 0
        for index in order:
            row += len(chunks[index].tokens)
            ends[index] = row - 1
        wanted = as_long([ends[index] for index, chunk in enumerate(chunks) if chunk.needs_logits], device)
        return self._head(self._normed(x_NC[wanted], family.norm)) if len(wanted) else x_NC[:0]

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        # torch's own rms_norm is twice as many operations, to the same numbers (arXiv 1910.07467)
        wide = x.to(torch.float32, copy=True)
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = torch.addcmul(self._eps, size, size, value=1 / x.shape[-1]).rsqrt_()
        return wide.mul_(scale).mul_(weight).to(x.dtype)

    def _place(self, qkv_NHD: Tensor, layer: _Layer, rope: tuple[Tensor, Tensor]) -> None:
        """Norms of heads and rotary positions (arXiv 2104.09864) on queries and keys, in place."""
        H, K = self._family.H, self._family.K
        if layer.head_norms:
            for part, weight in zip((qkv_NHD[:, :H], qkv_NHD[:, H : H + K]), layer.head_norms, strict=True):
                part.copy_(self._normed(part, weight))
        if layer.rope:
            cos, sin = rope
            turned = qkv_NHD[:, : H + K, : cos.shape[-1]]  # some families leave a part of a head as it is
            turned.copy_(torch.addcmul(turned * cos, turned.roll(cos.shape[-1] // 2, -1), sin))

    def _reach(self, length: int) -> None:
        """The table of positions, long enough."""
        if length > len(self._cos):
            room = doubled(max(MIN_CAPACITY, len(self._cos)), length)
            self._cos, sin = self._family.turns(room, self._family.dtype)
            half = sin.shape[-1] // 2
            # roll() brings the second half to the first: its sign there is minus
            self._sin = torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)


def _laid_out(layer: families.Layer, family: Family, bits: int, keep_weights: bool) -> _Layer:
    """A layer with its products as the processor likes them."""
    made = _Layer(
        norm=layer.norm,
        qkv=product(*weight_bias(layer.qkv), bits),
        head_norms=layer.head_norms,
        out=product(*weight_bias(layer.out), bits),
        norm_mlp=layer.norm_mlp,
        gate_up=gate(*weight_bias(layer.gate_up), family.act, bits),
        down=product(*weight_bias(layer.down), bits),
        rope=layer.rope,
        window=layer.window,
    )
    if not keep_weights:
        drop([*layer.qkv, *layer.out, *layer.gate_up, *layer.down])
    return made


def _alone(product: Product, x: Tensor, _: str, add: Tensor | None = None) -> Tensor:
    return product(x, add)


def _joined(
    product: Product,
    x: Tensor,
    name: str,
    add: Tensor | None = None,
    *,
    lows: Mapping[tuple[int, str], list[Low]],
    index: int,
) -> Tensor:
    """The product, and those of adapters (arXiv 2106.09685) for the rows that have one."""
    y = product(x, add)
    for which, A_IR, B_RO in lows.get((index, name), ()):
        y = y + x @ A_IR @ B_RO if which is None else y.index_add(0, which, x[which] @ A_IR @ B_RO)
    return y


def _parts(chunks: Sequence[Chunk]) -> tuple[list[Run | Piece], list[int]]:
    """How attention takes the rows, and each row's position. `chunks`: single tokens first, by slot."""
    parts: list[Run | Piece] = []
    positions: list[int] = []
    for chunk in chunks:
        slot = chunk.state
        assert isinstance(slot, Slot)
        start, length = len(positions), slot.length + len(chunk.tokens)
        positions += range(slot.length, length)
        before = parts[-1] if parts else None
        if len(chunk.tokens) > 1:
            parts.append(Piece(start, len(positions), slot.index, length))
        elif isinstance(before, Run) and _fits(before, slot.index, length):
            parts[-1] = before._replace(end=start + 1, lengths=(*before.lengths, length))
        else:
            parts.append(Run(start, start + 1, slot.index, (length,)))
    return parts, positions


def _fits(run: Run, slot: int, length: int) -> bool:
    lengths = (*run.lengths, length)
    return slot == run.slot + len(run.lengths) and max(lengths) * len(lengths) <= WASTE * sum(lengths)
