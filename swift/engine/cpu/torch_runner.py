"""The common decoder families in torch operations: fewer, larger matrix products and one KV cache for all sequences.

The tokens of all chunks of a step, decoding or prefill, go through every matrix product as rows of one matrix. Only
attention works on one prompt, or on decoding sequences of similar length, at a time. Knows no queue and no sampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from swift.engine.cpu import products
from swift.engine.cpu.attention import Attention, Decoding, Heads, Prefill
from swift.engine.cpu.products import Gate, Product, gate, product
from swift.engine.decoder import Decoder, free_weights, joined_weight, why_not
from swift.engine.joined_lora import joined_pairs, why_not_adapter
from swift.engine.kv_cache import MIN_CAPACITY, KVCache, Slot, doubled
from swift.engine.lora import Lora
from swift.engine.runner import Chunk, as_long
from swift.engine.sampling import argmax
from swift.model.decoder_layers import DecoderLayer

MAX_PADDING = 1.5
"""Decoding sequences of different length share an attention product if padding enlarges it at most by this factor."""
LoraProduct = tuple[Tensor | None, Tensor, Tensor]
"""The rows that an adapter applies to (None: all), A' (in, rank), B' (rank, out)."""


class _Layer(NamedTuple):
    norm: Tensor
    qkv: Product
    head_norms: tuple[Tensor, Tensor] | None  # of queries, of keys
    out: Product
    norm_mlp: Tensor
    gate_up: Gate
    down: Product
    rotary: bool
    window: int | None


class TorchRunner:
    """A runner (see runner.py) for models that `decoder.why_not` does not object to.

    `bits` 8 or 4 quantises the weights (see products.py). `keep_weights` False: frees those weights of the model that
    were copied into another layout. `memory`: as in KVCache.
    """

    def __init__(self, model: Any, bits: int = 0, keep_weights: bool = True, memory: int = 1 << 62) -> None:
        reason = why_not(model) or products.why_not(bits, model.device)
        assert not reason, reason
        self._decoder = decoder = Decoder(model)
        self._eps = torch.tensor(decoder.eps, device=decoder.device)
        self._heads = Heads(*decoder.heads)
        self._cos = self._sin = torch.empty(0)
        self._layers = [_laid_out(layer, decoder, bits, keep_weights) for layer in decoder.layers]
        # The largest matrix, used once a token: 4 bits would save little time and lose accuracy.
        self._head = product(*joined_weight([model.lm_head]), 8 if bits else 0)
        if not keep_weights and not decoder.tied:
            free_weights([model.lm_head])
        self._adapters: dict[str, dict[tuple[int, str], tuple[Tensor, Tensor]]] = {}
        layout = self._heads.layout(len(self._layers), decoder.dtype, decoder.device)
        self._cache = KVCache(layout, memory)
        self.open, self.close, self.read = self._cache.open, self._cache.close, self._cache.read
        self.why_not = partial(why_not_adapter, decoder)
        self.position_bytes = layout.position_bytes
        self.shares_prefixes = True

    argmax = staticmethod(argmax)

    # adapters

    def add_lora(self, name: str, adapter: Lora) -> None:
        pairs = joined_pairs(self._decoder, adapter).items()
        self._adapters = {**self._adapters, name: {at: (A_RI.t().contiguous(), B_RO) for at, (A_RI, B_RO) in pairs}}

    def remove_lora(self, name: str) -> None:
        self._adapters = {other: pairs for other, pairs in self._adapters.items() if other != name}

    def _lora_products(self, chunks: Sequence[Chunk]) -> dict[tuple[int, str], list[LoraProduct]]:
        """(layer, projection) -> the LoRA products of this step's adapters."""
        found: dict[tuple[int, str], list[LoraProduct]] = {}
        owners = [chunk.adapter for chunk in chunks for _ in chunk.tokens]
        for name in sorted({chunk.adapter for chunk in chunks if chunk.adapter}):
            own = [row for row, owner in enumerate(owners) if owner == name]
            rows = None if len(own) == len(owners) else as_long(own, self._decoder.device)
            for place, (lora_a_IR, lora_b_RO) in self._adapters[name].items():
                found.setdefault(place, []).append((rows, lora_a_IR, lora_b_RO))
        return found

    # computing

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        decoder, device = self._decoder, self._decoder.device
        slots: list[Slot] = [chunk.state for chunk in chunks]  # type: ignore[misc]  # our own open() made them
        self._cache.reserve(max(slot.length + len(chunk.tokens) for slot, chunk in zip(slots, chunks, strict=True)))
        order = sorted(range(len(chunks)), key=lambda index: (len(chunks[index].tokens) > 1, slots[index].index))
        ordered = [chunks[index] for index in order]
        parts, positions = _parts(ordered)
        self._extend_rotary(max(positions) + 1)
        at_N = as_long(positions, device)
        tokens_N = as_long([token for chunk in ordered for token in chunk.tokens], device)
        rotary = self._cos[at_N, None], self._sin[at_N, None]
        lora = self._lora_products(ordered)
        attend = Attention(self._heads, parts, decoder.dtype, device)
        x_NC = functional.embedding(tokens_N, decoder.embedding)
        for index, layer in enumerate(self._layers):
            project = partial(_with_lora, lora=lora, index=index) if lora else _without_lora
            keys, values = (tensor[index] for tensor in self._cache.tensors)
            qkv_NHD = project(layer.qkv, self._normed(x_NC, layer.norm), "qkv").view(len(x_NC), -1, decoder.D)
            self._norm_and_rotate(qkv_NHD, layer, rotary)
            attend.store(qkv_NHD[:, decoder.H :], keys, values)
            x_NC = project(layer.out, attend(qkv_NHD[:, : decoder.H], keys, values, layer.window), "out", x_NC)
            normed_NC = self._normed(x_NC, layer.norm_mlp)
            if lora:
                gate_NF, up_NF = project(layer.gate_up.both, normed_NC, "gate_up").chunk(2, -1)
                gated_NF = decoder.act(gate_NF).mul_(up_NF)
            else:
                gated_NF = layer.gate_up(normed_NC)
            x_NC = project(layer.down, gated_NF, "down", x_NC)
        for slot, chunk in zip(slots, chunks, strict=True):
            slot.length += len(chunk.tokens)
        ends, row = {}, 0
        for index in order:
            row += len(chunks[index].tokens)
            ends[index] = row - 1
        wanted = as_long([ends[index] for index, chunk in enumerate(chunks) if chunk.needs_logits], device)
        return self._head(self._normed(x_NC[wanted], decoder.norm)) if len(wanted) else x_NC[:0]

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        # RMSNorm (arXiv 1910.07467). torch's rms_norm takes twice as many operations for the same numbers.
        x_fp32 = x.to(torch.float32, copy=True)
        size = torch.linalg.vector_norm(x_fp32, dim=-1, keepdim=True)
        scale = torch.addcmul(self._eps, size, size, value=1 / x.shape[-1]).rsqrt_()
        return x_fp32.mul_(scale).mul_(weight).to(x.dtype)

    def _norm_and_rotate(self, qkv_NHD: Tensor, layer: _Layer, rotary: tuple[Tensor, Tensor]) -> None:
        """Head norms and rotary embedding (arXiv 2104.09864) of queries and keys, in place."""
        H, K = self._decoder.H, self._decoder.K
        if layer.head_norms:
            for part, weight in zip((qkv_NHD[:, :H], qkv_NHD[:, H : H + K]), layer.head_norms, strict=True):
                part.copy_(self._normed(part, weight))
        if layer.rotary:
            cos, sin = rotary
            rotary_NHR = qkv_NHD[:, : H + K, : cos.shape[-1]]  # some families rotate only a part of each head
            rotary_NHR.copy_(torch.addcmul(rotary_NHR * cos, rotary_NHR.roll(cos.shape[-1] // 2, -1), sin))

    def _extend_rotary(self, length: int) -> None:
        """Makes the tables of cosines and sines cover `length` positions."""
        if length > len(self._cos):
            positions = doubled(max(MIN_CAPACITY, len(self._cos)), length)
            self._cos, sin = self._decoder.rotary(positions, self._decoder.dtype)
            half = sin.shape[-1] // 2
            # roll() moves the second half to the first, where its sign is minus
            self._sin = torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)


def _laid_out(layer: DecoderLayer, decoder: Decoder, bits: int, keep_weights: bool) -> _Layer:
    """A layer with its weights in the layout that is fastest on this device."""
    norms = layer.head_norms and (layer.head_norms[0].weight.detach(), layer.head_norms[1].weight.detach())
    made = _Layer(
        norm=layer.norm.weight.detach(),
        qkv=product(*joined_weight(layer.qkv), bits),
        head_norms=norms,
        out=product(*joined_weight(layer.out), bits),
        norm_mlp=layer.norm_mlp.weight.detach(),
        gate_up=gate(*joined_weight(layer.gate_up), decoder.act, bits),
        down=product(*joined_weight(layer.down), bits),
        rotary=layer.rotary,
        window=layer.window,
    )
    if not keep_weights:
        free_weights(layer.projections)
    return made


def _without_lora(product: Product, x: Tensor, _: str, add: Tensor | None = None) -> Tensor:
    return product(x, add)


def _with_lora(
    product: Product,
    x: Tensor,
    name: str,
    add: Tensor | None = None,
    *,
    lora: Mapping[tuple[int, str], list[LoraProduct]],
    index: int,
) -> Tensor:
    """The product, plus LoRA (arXiv 2106.09685) for the rows that have an adapter."""
    y = product(x, add)
    for which, A_IR, B_RO in lora.get((index, name), ()):
        y = y + x @ A_IR @ B_RO if which is None else y.index_add(0, which, x[which] @ A_IR @ B_RO)
    return y


def _parts(chunks: Sequence[Chunk]) -> tuple[list[Decoding | Prefill], list[int]]:
    """How attention groups the rows, and the position of each row. `chunks`: single tokens first, in order of slots."""
    parts: list[Decoding | Prefill] = []
    positions: list[int] = []
    for chunk in chunks:
        slot = chunk.state
        assert isinstance(slot, Slot)
        start, length = len(positions), slot.length + len(chunk.tokens)
        positions += range(slot.length, length)
        before = parts[-1] if parts else None
        if len(chunk.tokens) > 1:
            parts.append(Prefill(start, len(positions), slot.index, length))
        elif isinstance(before, Decoding) and _fits(before, slot.index, length):
            parts[-1] = before._replace(end=start + 1, lengths=(*before.lengths, length))
        else:
            parts.append(Decoding(start, start + 1, slot.index, (length,)))
    return parts, positions


def _fits(run: Decoding, slot: int, length: int) -> bool:
    """Whether a sequence in the next slot can share the product of `run`."""
    lengths = (*run.lengths, length)
    return slot == run.slot + len(run.lengths) and max(lengths) * len(lengths) <= MAX_PADDING * sum(lengths)
