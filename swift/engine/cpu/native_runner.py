"""Runs the common decoder families in bf16, a step in one call of C++ (native_runner.cpp). Knows no scheduling.

Weights are stored in panels (docs/native.md), and the KV cache in blocks of 32 positions that are panels too, so one
set of kernels serves all products and attention. The numbers of a row do not depend on what else is in the step.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from array import array
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from swift import native
from swift.engine.cpu.products import in_groups, rounded
from swift.engine.decoder import Decoder, free_weights, joined_weight
from swift.engine.joined_lora import joined_pairs, why_not_adapter
from swift.engine.kv_cache import MIN_CAPACITY, KVCache, Slot, doubled
from swift.engine.lora import Lora
from swift.engine.runner import Chunk, KVBlock
from swift.engine.sampling import SampledToken
from swift.model.decoder_layers import PROJECTIONS, DecoderLayer

SOURCE = Path(__file__).with_suffix(".cpp")
PANEL, HALF = 32, 16
"""Columns of a panel, and of a tile. Blocks of the KV cache have as many positions."""
_BYTES = {16: 64, 8: 32, 4: 20}
"""Bytes of 32 neighbouring weights of a row, by their bits."""
MAX_GROUP = 32
"""Query heads that can share a key head; native_runner.cpp checks it too."""


def why_not(model: Any) -> str:
    """Why this runner does not serve a model that `decoder.why_not` accepts, whatever the machine; empty if it does."""
    decoder = Decoder(model)
    if decoder.device.type != "cpu" or decoder.dtype is not torch.bfloat16:
        return f"it is for bf16 on a CPU, not {decoder.dtype} on {decoder.device.type}".replace("torch.", "")
    if decoder.act is not functional.silu:
        return f"its activation is {model.config.hidden_act}"
    widths = decoder.hidden_size, decoder.intermediate_size, decoder.D
    if any(width % PANEL for width in widths):
        return f"its widths {widths} are not all multiples of {PANEL}"
    if decoder.H // decoder.K > MAX_GROUP:
        return f"{decoder.H // decoder.K} heads share a key head"
    return ""


def missing(kernels: str = "") -> str:
    """What this machine lacks for an instruction set (see native.load); empty if nothing."""
    try:
        _library(kernels)
    except native.Unavailable as reason:
        return str(reason)
    return ""


def _library(kernels: str) -> ctypes.CDLL:
    """The functions of native_runner.cpp. Raises native.Unavailable."""
    library = native.load(SOURCE, kernels, STRUCTURES)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    native.declare(
        library,
        decoder_new=[ctypes.POINTER(_Model), ctypes.POINTER(pointer)],
        decoder_step=[pointer, ctypes.POINTER(_Step)],
        argmax_rows=[pointer, number, number, number, number, pointer, pointer],
    )
    library.decoder_free.argtypes, library.decoder_free.restype = [pointer], None
    return library


# The structures of runner_abi.h, field by field. Addresses are those of tensors that the runner keeps.


class _PanelWeight(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("panels", "bias", "scale")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs", "bits")),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("norm", "norm_mlp", "norm_queries", "norm_keys")),
        *((name, _PanelWeight) for name in PROJECTIONS),
        ("rotary", ctypes.c_int64),
        ("window", ctypes.c_int64),
    ]


class _LoraPair(ctypes.Structure):
    _fields_ = [("a", ctypes.c_void_p), ("b", ctypes.c_void_p), ("rank", ctypes.c_int64)]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("layers", "hidden_size", "intermediate_size")),
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "head_dim", "rotary_dim", "vocabulary")),
        *((name, ctypes.c_float) for name in ("eps", "scale")),
        ("layer", ctypes.POINTER(_Layer)),
        ("norm", ctypes.c_void_p),
        ("head", _PanelWeight),
        ("embedding", ctypes.c_void_p),
    ]


class _Chunk(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("start", "end", "slot", "length")]


class _Step(ctypes.Structure):
    _fields_ = [
        ("chunks", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("chunk_count", "rows", "logit_count")),
        *((name, ctypes.c_int64) for name in ("slots", "capacity", "positions", "threads")),
        *((name, ctypes.c_void_p) for name in ("tokens", "logit_rows", "keys", "values", "cos", "sin")),
        *((name, ctypes.c_void_p) for name in ("adapters", "logits")),
    ]


STRUCTURES = (_PanelWeight, _Layer, _LoraPair, _Model, _Chunk, _Step)


class NativeRunner:
    """A runner (see runner.py) for models that `why_not` accepts.

    `bits` 8 or 4 quantizes the weights; activations stay bf16, but on processors without AMX 4-bit weights meet
    activations of 8 bits. `keep_weights` False drops the model's own weights, so that memory holds one copy. `memory`:
    bytes of keys and values up to which the KV cache grows by doubling. `kernels`: an instruction set (native.load).
    Raises native.Unavailable, and MemoryError; a step that runs out of memory raises MemoryError and can be repeated.
    """

    def __init__(
        self, model: Any, bits: int = 0, keep_weights: bool = True, memory: int = 1 << 62, kernels: str = ""
    ) -> None:
        self._decoder = decoder = Decoder(model)
        self._library = _library(kernels)
        head = _padded(model.lm_head.weight.detach())
        self._vocabulary, self._padded = len(model.lm_head.weight), len(head)
        numbers = sum(part.weight.numel() for layer in decoder.layers for part in layer.projections)
        head_bits = 8 if bits else 16  # the largest product, once a token: 4 bits would save little and cost answers
        self._bits = bits or 16
        self._weights = self._free = _huge(numbers * _BYTES[self._bits] // PANEL + head.numel() * head_bits // 8)
        self._small: list[Tensor] = []
        self._cos, self._sin = self._rotary_table(MIN_CAPACITY)
        embedding = decoder.embedding.contiguous()
        self._small.append(embedding)
        layers = (_Layer * len(decoder.layers))(*(self._layer(layer, keep_weights) for layer in decoder.layers))
        description = _Model(
            layers=len(decoder.layers),
            hidden_size=decoder.hidden_size,
            intermediate_size=decoder.intermediate_size,
            heads=decoder.H,
            kv_heads=decoder.K,
            head_dim=decoder.D,
            rotary_dim=2 * self._cos.shape[1],
            vocabulary=len(embedding),
            eps=decoder.eps,
            scale=decoder.scale,
            layer=layers,
            norm=self._numbers(decoder.norm),
            head=self._product(head, model.lm_head.bias, head_bits),
            embedding=embedding.data_ptr(),
        )
        if not keep_weights and not decoder.tied:
            free_weights([model.lm_head])
        self._handle = ctypes.c_void_p()
        self._library.decoder_new(description, self._handle)
        self._logits = torch.empty(0, self._padded)
        self._adapters: dict[str, _Adapter] = {}
        layout = _Layout(decoder)
        self._cache = KVCache(layout, memory)
        self.open, self.close, self.read = self._cache.open, self._cache.close, self._cache.read
        self.why_not = partial(why_not_adapter, decoder)
        self.position_bytes = layout.position_bytes
        self.shares_prefixes = True

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            self._library.decoder_free(handle)

    # adapters

    def add_lora(self, name: str, adapter: Lora) -> None:
        pairs = joined_pairs(self._decoder, adapter)
        for index in range(len(self._decoder.layers)):
            if pair := pairs.get((index, "gate_up")):
                pairs[index, "gate_up"] = pair[0], _interleaved(pair[1].t()).t().contiguous()
        self._adapters = {**self._adapters, name: _Adapter(pairs, len(self._decoder.layers))}

    def remove_lora(self, name: str) -> None:
        self._adapters = {other: adapter for other, adapter in self._adapters.items() if other != name}

    # computing

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        slots: list[Slot] = [chunk.state for chunk in chunks]  # type: ignore[misc]  # our own open() made them
        lengths = [slot.length + len(chunk.tokens) for slot, chunk in zip(slots, chunks, strict=True)]
        self._cache.reserve(max(lengths))
        if max(lengths) > len(self._cos):
            self._cos, self._sin = self._rotary_table(doubled(len(self._cos), max(lengths)))
        table, logit_rows, row = array("q"), array("q"), 0
        for slot, chunk, length in zip(slots, chunks, lengths, strict=True):
            table.extend((row, row + len(chunk.tokens), slot.index, length))
            row += len(chunk.tokens)
            if chunk.needs_logits:
                logit_rows.append(row - 1)
        tokens = array("q", [token for chunk in chunks for token in chunk.tokens])
        if len(self._logits) < len(logit_rows):  # kept between steps: fresh memory costs more than filling it
            self._logits = torch.empty(len(logit_rows), self._padded)
        keys, values = self._cache.tensors
        adapters = None
        if any(chunk.adapter for chunk in chunks):
            tables = [self._adapters[chunk.adapter].address if chunk.adapter else None for chunk in chunks]
            adapters = (ctypes.c_void_p * row)(
                *(table for table, chunk in zip(tables, chunks, strict=True) for _ in chunk.tokens)
            )
        self._library.decoder_step(
            self._handle,
            _Step(
                chunks=table.buffer_info()[0],
                chunk_count=len(chunks),
                rows=row,
                logit_count=len(logit_rows),
                slots=self._cache.slots,
                capacity=-(-self._cache.capacity // PANEL) * PANEL,
                positions=len(self._cos),
                threads=torch.get_num_threads(),
                tokens=tokens.buffer_info()[0],
                logit_rows=logit_rows.buffer_info()[0],
                keys=keys.data_ptr(),
                values=values.data_ptr(),
                cos=self._cos.data_ptr(),
                sin=self._sin.data_ptr(),
                adapters=ctypes.cast(adapters, ctypes.c_void_p) if adapters else None,
                logits=self._logits.data_ptr(),
            ),
        )
        for slot, length in zip(slots, lengths, strict=True):
            slot.length = length
        return self._logits[: len(logit_rows), : self._vocabulary]

    def argmax(self, logits_NV: Tensor) -> list[SampledToken]:
        tokens, logprobs = (ctypes.c_int64 * len(logits_NV))(), (ctypes.c_float * len(logits_NV))()
        sizes = *logits_NV.shape, logits_NV.stride(0), torch.get_num_threads()
        self._library.argmax_rows(logits_NV.data_ptr(), *sizes, tokens, logprobs)
        return [SampledToken(token, logprob) for token, logprob in zip(tokens, logprobs, strict=True)]

    def _rotary_table(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions, (length, rotary_dim / 2) each."""
        cos, sin = self._decoder.rotary(length, torch.float32)
        half = cos.shape[1] // 2
        return cos[:, :half].contiguous(), sin[:, :half].contiguous()

    # weights

    def _layer(self, layer: DecoderLayer, keep_weights: bool) -> _Layer:
        queries, keys = (norm.weight for norm in layer.head_norms) if layer.head_norms else (None, None)
        both, both_bias = joined_weight(layer.gate_up)
        made = _Layer(
            norm=self._numbers(layer.norm.weight),
            norm_mlp=self._numbers(layer.norm_mlp.weight),
            norm_queries=self._numbers(queries),
            norm_keys=self._numbers(keys),
            qkv=self._product(*joined_weight(layer.qkv)),
            out=self._product(*joined_weight(layer.out)),
            gate_up=self._product(_interleaved(both), None if both_bias is None else _interleaved(both_bias)),
            down=self._product(*joined_weight(layer.down)),
            rotary=layer.rotary,
            window=layer.window or 0,
        )
        if not keep_weights:
            free_weights(layer.projections)
        return made

    def _product(self, weight_OI: Tensor, bias_O: Tensor | None, bits: int = 0) -> _PanelWeight:
        """A weight in panels, at the next free place."""
        weight_OI, bits = _padded(weight_OI), bits or self._bits
        outputs, inputs = weight_OI.shape
        size = weight_OI.numel() * _BYTES[bits] // PANEL
        place, self._free = self._free.split([size, len(self._free) - size])
        scale = None
        if bits == 4:
            levels_OI, scale_OG, offset_OG = in_groups(weight_OI)
            blocks = place.view(-1, PANEL * _BYTES[bits])
            first, second = _in_panels(levels_OI).flatten(2).flatten(0, 1).view(torch.uint8).chunk(2, dim=1)
            blocks[:, : first.shape[1]] = first | second << 4
            groups = torch.stack([scale_OG, offset_OG], dim=-1).bfloat16().unflatten(0, (-1, PANEL))
            blocks[:, first.shape[1] :].view(torch.bfloat16).copy_(groups.permute(0, 2, 3, 1).flatten(2).flatten(0, 1))
        else:
            if bits == 8:
                weight_OI, scale = rounded(weight_OI)
            panels = _in_panels(weight_OI)
            place.view(panels.dtype).view(panels.shape).copy_(panels)
        bias = None if bias_O is None else _padded(bias_O)
        return _PanelWeight(place.data_ptr(), self._numbers(bias), self._numbers(scale), inputs, outputs, bits)

    def _numbers(self, values: Tensor | None) -> int | None:
        """The address of a copy in fp32, which the runner keeps."""
        if values is None:
            return None
        self._small.append(values.detach().float().contiguous())
        return self._small[-1].data_ptr()


class _Adapter:
    """LoRA pairs of a model, and the table of their addresses for C++, (layers, products)."""

    def __init__(self, pairs: dict[tuple[int, str], tuple[Tensor, Tensor]], layers: int) -> None:
        self._pairs = pairs
        table = []
        for place in ((index, product) for index in range(layers) for product in PROJECTIONS):
            pair = pairs.get(place)
            table.append(_LoraPair(pair[0].data_ptr(), pair[1].data_ptr(), len(pair[0])) if pair else _LoraPair())
        self._table = (_LoraPair * len(table))(*table)
        self.address = ctypes.addressof(self._table)


class _Layout:
    """The KV cache in panels (a Layout of kv_cache.py): (layers, slots, key heads, blocks of 32 positions, ...)."""

    def __init__(self, decoder: Decoder) -> None:
        self._sides, self._D = (len(decoder.layers), decoder.K), decoder.D
        self.position_bytes = 2 * self._sides[0] * decoder.K * decoder.D * 2

    def allocate(self, slots: int, capacity: int) -> list[Tensor]:
        layers, heads = self._sides
        blocks, parts = -(-capacity // PANEL), self._D // PANEL
        sizes = layers, slots, heads, blocks, parts, 2, HALF, HALF, 2
        count = math.prod(sizes)
        return [_huge(2 * count).view(torch.bfloat16).view(sizes) for _ in ("keys", "values")]

    def read(self, tensors: Sequence[Tensor], slot: int, start: int, end: int) -> KVBlock:
        within = slice(start % PANEL, start % PANEL + end - start)
        blocks = [each[:, slot, :, start // PANEL : -(-end // PANEL)] for each in tensors]
        if within.start == 0:  # whole blocks need no conversion
            return KVBlock(end - start, [each.clone() for each in blocks])
        plain = self._plain(blocks)
        return KVBlock(end - start, [each[:, :, within].clone() for each in plain])

    def write(self, tensors: Sequence[Tensor], slot: int, start: int, block: KVBlock, length: int) -> None:
        within = slice(start % PANEL, start % PANEL + length)
        there = [each[:, slot, :, start // PANEL : -(-(start + length) // PANEL)] for each in tensors]
        in_panels = block.tensors[0].dim() == there[0].dim()
        if in_panels and within.start == 0:
            for panels, piece in zip(there, block.tensors, strict=True):
                panels.copy_(piece[:, :, : panels.shape[2]])
            return
        pieces = self._plain(block.tensors) if in_panels else block.tensors
        for panels, plain, order, piece in zip(there, self._plain(there), self._orders, pieces, strict=True):
            plain[:, :, within] = piece[:, :, :length]
            back = [order.index(side) for side in range(len(order))]
            panels.copy_(plain.view([panels.shape[side] for side in order]).permute(back))

    # the axes of keys, and of values, in the order layers, heads, those of the position, those of the head's width
    _orders = (0, 1, 2, 4, 6, 3, 5, 7), (0, 1, 2, 5, 7, 3, 4, 6)

    def _plain(self, blocks: Sequence[Tensor]) -> list[Tensor]:
        """Whole blocks as (layers, heads, positions, head width)."""
        return [
            block.permute(order).reshape(*self._sides, -1, self._D)
            for block, order in zip(blocks, self._orders, strict=True)
        ]


def _in_panels(weight_OI: Tensor) -> Tensor:
    """A weight as (panel, block of inputs, tile, pair of inputs, column); a pair is one number of twice the size."""
    pairs_OI = weight_OI.contiguous().view(torch.int16 if weight_OI.itemsize == 1 else torch.int32)
    panels: Tensor = pairs_OI.unflatten(0, (-1, 2, HALF)).unflatten(-1, (-1, HALF)).permute(0, 3, 1, 4, 2)
    return panels


def _interleaved(rows: Tensor) -> Tensor:
    """Rows of gate and of up, 16 of each by turns, so that one panel has both factors of the SwiGLU product."""
    gate, up = rows.unflatten(0, (2, -1, HALF))
    return torch.stack([gate, up], dim=1).flatten(0, 2)


def _padded(rows: Tensor) -> Tensor:
    """Rows padded with zeros to whole panels."""
    missing = -len(rows) % PANEL
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows


def _huge(count: int) -> Tensor:
    """So many bytes of zeros, in pages of 2 MB where Linux has them. Raises MemoryError."""
    if not count:
        return torch.empty(0, dtype=torch.uint8)
    try:
        pages = mmap.mmap(-1, count)
    except OSError as error:
        raise MemoryError(f"{count / 2**30:.2f} GiB cannot be allocated: {error.strerror}") from error
    pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)
