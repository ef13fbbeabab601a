"""The common decoder families without transformers' layers: fewer, larger products, and one cache for all requests.

Tokens of many requests, a piece of a prompt beside single tokens of replies, go through every product as one list of
rows; attention alone looks at one request, or at neighbours of like length, at a time. Knows no queue and no sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from swift.infer import products
from swift.infer.attention import Attention, Heads, Piece, Run
from swift.infer.lora import Lora
from swift.infer.products import Gate, Product, gate, product
from swift.infer.runner import Feed, Kept, Past, as_long

CLASSES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Phi3ForCausalLM",
    "SmolLM3ForCausalLM",
)
MOVING_ROPE = ("dynamic", "longrope")
"""Position encodings whose table depends on how long the row has become."""
LEAST = 256
"""Positions that the cache has room for at first; it doubles."""
WASTE = 1.5
"""Requests of different length share an attention product while padding makes it at most so many times larger."""
Made = TypeVar("Made")
Low = tuple[Tensor | None, Tensor, Tensor]
"""Which rows (None: all), A' (in, rank), B' (rank, out)."""


def why_not(model: Any) -> str:
    """Why `model` has to go through transformers' own layers; empty if it need not."""
    if type(model).__name__ not in CLASSES or not type(model).__module__.startswith("transformers."):
        return f"{type(model).__name__} is not one of {', '.join(CLASSES)}"
    kind = model.config.rope_parameters["rope_type"]
    if kind in MOVING_ROPE:
        return f"its position encoding, {kind}, moves with the length"
    if any(_is_changed(part) for part in model.modules()):
        return "something was put into its layers"
    kinds = {(tensor.device, tensor.dtype) for tensor in model.parameters()}
    if len(kinds) != 1 or not next(iter(kinds))[1].is_floating_point:
        return "its weights have several dtypes or devices"
    return ""


def _is_changed(part: nn.Module) -> bool:
    """Whether a module is not as transformers made it: of another library, or with a say in how it runs."""
    foreign = not type(part).__module__.startswith(("transformers.", "torch.nn."))
    wrapped = isinstance(part, (nn.Linear, nn.Embedding)) and type(part) not in (nn.Linear, nn.Embedding)
    return foreign or wrapped or bool(part._forward_hooks or part._forward_pre_hooks) or "forward" in vars(part)


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


class _Spot(Past):
    """A row of the cache."""

    def __init__(self, slot: int) -> None:
        self.slot = slot


class Decoder:
    """A runner (see runner.py) for models of CLASSES.

    `keep` False: the model's own weights are dropped where these here are copies, so that memory holds one of each.
    `memory`: bytes of keys and values beyond which the cache is made no larger than it must be.
    """

    def __init__(self, model: Any, bits: int = 0, keep: bool = True, memory: int = 1 << 62) -> None:
        reason = why_not(model) or products.why_not(bits, model.device)
        assert not reason, reason
        config, inner = model.config, model.model
        self._device, self._dtype = model.device, model.dtype
        self._H, self._K = config.num_attention_heads, config.num_key_value_heads
        self._D: int = inner.layers[0].self_attn.head_dim
        self._eps = torch.tensor(config.rms_norm_eps, device=self._device)
        self._heads = Heads(self._H, self._K, self._D, inner.layers[0].self_attn.scaling)
        name = config.hidden_act
        self._act: Callable[[Tensor], Tensor] = functional.silu if name in ("silu", "swish") else ACT2FN[name]
        self._embedding: Tensor = inner.embed_tokens.weight.detach()
        self._rotary = inner.rotary_emb
        self._cos = self._sin = torch.empty(0)
        self._layers = [self._layer(layer, index, config, bits, keep) for index, layer in enumerate(inner.layers)]
        self._norm: Tensor = inner.norm.weight.detach()
        # The largest product, once a token: 4 bits would save little and cost answers.
        head_bits = 8 if bits else 0
        self._head = product(model.lm_head.weight, model.lm_head.bias, head_bits)
        if not keep and not config.tie_word_embeddings:
            _drop(model.lm_head)
        self._adapters: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
        self._spots: list[_Spot] = []
        self._keys, self._values = self._empty(0, 0)
        self.position_bytes = len(self._layers) * 2 * self._K * self._D * self._dtype.itemsize
        self._limit = memory // self.position_bytes

    # pasts

    @torch.inference_mode()
    def open(self, kept: Sequence[Kept] = (), length: int = 0) -> Past:
        taken = {spot.slot for spot in self._spots}
        spot = _Spot(next(slot for slot in range(len(taken) + 1) if slot not in taken))
        self._spots.append(spot)
        self._hold(length)
        start = 0
        for keys, values in kept:
            end = min(start + keys.shape[-1], length)
            self._keys[:, spot.slot, :, :, start:end] = keys[..., : end - start]
            self._values[:, spot.slot, :, start:end] = values[..., : end - start, :]
            start = end
        assert start == length, (start, length)
        spot.length = length
        return spot

    def close(self, past: Past) -> None:
        assert isinstance(past, _Spot)
        self._spots.remove(past)

    def read(self, past: Past, start: int, end: int) -> Kept:
        assert isinstance(past, _Spot) and end <= past.length, (end, past.length)
        keys, values = self._keys[:, past.slot, :, :, start:end], self._values[:, past.slot, :, start:end]
        return [keys.clone(), values.clone()]

    def _hold(self, length: int) -> None:
        """Makes room for `length` positions in each slot that is taken. The rows move to the first slots then."""
        slots, room = self._keys.shape[1], self._keys.shape[4]
        needed = max(spot.slot for spot in self._spots) + 1
        if needed <= slots and length <= room:
            return
        slots = _doubled(slots, needed) if needed > slots else slots
        room = _doubled(max(room, LEAST), length) if length > room else room
        if slots * room > self._limit:
            slots, room = len(self._spots), max(length, *(spot.length for spot in self._spots))
        keys, values = self._empty(slots, room)
        for slot, spot in enumerate(sorted(self._spots, key=lambda spot: spot.slot)):
            if held := spot.length:
                keys[:, slot, :, :, :held] = self._keys[:, spot.slot, :, :, :held]
                values[:, slot, :, :held] = self._values[:, spot.slot, :, :held]
            spot.slot = slot
        self._keys, self._values = keys, values

    def _empty(self, slots: int, room: int) -> list[Tensor]:
        return self._heads.empty(len(self._layers), slots, room, self._dtype, self._device)

    # adapters

    def why_not(self, adapter: Lora) -> str:
        try:
            self._fused(adapter)
        except ValueError as error:
            return str(error)
        return ""

    def add(self, name: str, adapter: Lora) -> None:
        self._adapters = {**self._adapters, name: self._fused(adapter)}

    def remove(self, name: str) -> None:
        self._adapters = {other: pairs for other, pairs in self._adapters.items() if other != name}

    def _fused(self, adapter: Lora) -> dict[str, tuple[Tensor, Tensor]]:
        """Product of this model -> A', B': those of joined products lie side by side."""
        pairs, sides = adapter.pairs(), self._sides
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for index in range(len(self._layers)):
            for joined, (width, parts) in sides.items():
                there = {part: pairs.pop(f"model.layers.{index}.{part}", None) for part in parts}
                given = {part: pair for part, pair in there.items() if pair}
                if not given:
                    continue
                A_IR = torch.cat([A for A, _ in given.values()]).t()
                B_RO = torch.zeros(A_IR.shape[1], sum(parts.values()))
                row = column = 0
                for part, size in parts.items():
                    if part in given:
                        A_RI, B_OR = given[part]
                        if A_RI.shape[1] != width or B_OR.shape[0] != size:
                            shape = f"{B_OR.shape[0]} x {A_RI.shape[1]}"
                            raise ValueError(
                                f"the adapter is of another model: {part} is {shape}, not {size} x {width}"
                            )
                        B_RO[row : row + len(A_RI), column : column + size] = B_OR.t()
                        row += len(A_RI)
                    column += size
                found[f"{index}.{joined}"] = (
                    A_IR.to(self._device, self._dtype).contiguous(),
                    B_RO.to(self._device, self._dtype),
                )
        if pairs:
            raise ValueError(f"the adapter is on {min(pairs)}, which is no product of this model's layers")
        return found

    def _lows(self, feeds: Sequence[Feed], rows: Sequence[int]) -> dict[str, list[Low]]:
        """Product -> which rows get which adapter. `rows`: how many each feed has."""
        names = {feed.adapter for feed in feeds if feed.adapter}
        found: dict[str, list[Low]] = {}
        owners = [feed.adapter for feed, count in zip(feeds, rows, strict=True) for _ in range(count)]
        for name in sorted(names):
            mine = [row for row, owner in enumerate(owners) if owner == name]
            which = None if len(mine) == len(owners) else as_long(mine, self._device)
            for place, (A_IR, B_RO) in self._adapters[name].items():
                found.setdefault(place, []).append((which, A_IR, B_RO))
        return found

    # computing

    @torch.inference_mode()
    def step(self, feeds: Sequence[Feed]) -> Tensor:
        spots: list[_Spot] = [feed.past for feed in feeds]  # type: ignore[misc]  # our own open() made them
        self._hold(max(spot.length + len(feed.tokens) for spot, feed in zip(spots, feeds, strict=True)))
        order = sorted(range(len(feeds)), key=lambda index: (len(feeds[index].tokens) > 1, spots[index].slot))
        ordered = [feeds[index] for index in order]
        parts, positions = _parts(ordered)
        self._reach(max(positions) + 1)
        at_N = as_long(positions, self._device)
        tokens_N = as_long([token for feed in ordered for token in feed.tokens], self._device)
        rope = self._cos[at_N, None], self._sin[at_N, None]
        lows = self._lows(ordered, [len(feed.tokens) for feed in ordered])
        attend = Attention(self._heads, parts, self._dtype, self._device)
        x_NC = functional.embedding(tokens_N, self._embedding)
        for index, layer in enumerate(self._layers):
            join = partial(_joined, lows=lows, index=index) if lows else _alone
            keys, values = self._keys[index], self._values[index]
            qkv_NHD = join(layer.qkv, self._normed(x_NC, layer.norm), "qkv").view(len(x_NC), -1, self._D)
            self._place(qkv_NHD, layer, rope)
            attend.store(qkv_NHD[:, self._H :], keys, values)
            x_NC = join(layer.out, attend(qkv_NHD[:, : self._H], keys, values, layer.window), "out", x_NC)
            normed_NC = self._normed(x_NC, layer.norm_mlp)
            if lows:
                gate_NF, up_NF = join(layer.gate_up.both, normed_NC, "gate_up").chunk(2, -1)
                inner_NF = self._act(gate_NF).mul_(up_NF)
            else:
                inner_NF = layer.gate_up(normed_NC)
            x_NC = join(layer.down, inner_NF, "down", x_NC)
        for spot, feed in zip(spots, feeds, strict=True):
            spot.length += len(feed.tokens)
        ends, row = {}, 0
        for index in order:
            row += len(feeds[index].tokens)
            ends[index] = row - 1
        wanted = as_long([ends[index] for index, feed in enumerate(feeds) if feed.wants], self._device)
        return self._head(self._normed(x_NC[wanted], self._norm)) if len(wanted) else x_NC[:0]

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        # torch's own rms_norm is twice as many operations, to the same numbers (arXiv 1910.07467)
        wide = x.to(torch.float32, copy=True)
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = torch.addcmul(self._eps, size, size, value=1 / x.shape[-1]).rsqrt_()
        return wide.mul_(scale).mul_(weight).to(x.dtype)

    def _place(self, qkv_NHD: Tensor, layer: _Layer, rope: tuple[Tensor, Tensor]) -> None:
        """Norms of heads and rotary positions (arXiv 2104.09864) on queries and keys, in place."""
        if layer.head_norms:
            for part, weight in zip(self._queries_keys(qkv_NHD), layer.head_norms, strict=True):
                part.copy_(self._normed(part, weight))
        if layer.rope:
            cos, sin = rope
            turned = qkv_NHD[:, : self._H + self._K, : cos.shape[-1]]  # some families leave a part of a head as it is
            turned.copy_(torch.addcmul(turned * cos, turned.roll(cos.shape[-1] // 2, -1), sin))

    def _queries_keys(self, qkv_NHD: Tensor) -> tuple[Tensor, Tensor]:
        return qkv_NHD[:, : self._H], qkv_NHD[:, self._H : self._H + self._K]

    def _reach(self, length: int) -> None:
        """The table of positions, long enough."""
        if length <= len(self._cos):
            return
        positions = torch.arange(_doubled(max(LEAST, len(self._cos)), length), device=self._device)
        cos, sin = self._rotary(torch.empty(0, dtype=self._dtype, device=self._device), positions[None])
        half = cos.shape[-1] // 2
        # roll() brings the second half to the first: its sign there is minus
        self._cos, self._sin = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)

    # weights

    @property
    def _sides(self) -> Mapping[str, tuple[int, dict[str, int]]]:
        """Product -> its inputs, and which modules of the model it joins with how many outputs each."""
        width, heads, keys = self._embedding.shape[1], self._H * self._D, self._K * self._D
        qkv = {"self_attn.q_proj": heads, "self_attn.k_proj": keys, "self_attn.v_proj": keys}
        both = {"mlp.gate_proj": self._inner, "mlp.up_proj": self._inner}
        if self._joined:
            qkv, both = {"self_attn.qkv_proj": heads + 2 * keys}, {"mlp.gate_up_proj": 2 * self._inner}
        return {
            "qkv": (width, qkv),
            "out": (heads, {"self_attn.o_proj": width}),
            "gate_up": (width, both),
            "down": (self._inner, {"mlp.down_proj": width}),
        }

    def _layer(self, layer: Any, index: int, config: Any, bits: int, keep: bool) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        self._inner: int = mlp.down_proj.in_features
        self._joined = config.model_type == "phi3"  # comes with joined products
        make = partial(_made, partial(product, bits=bits), keep=keep)
        make_gate = partial(_made, partial(gate, act=self._act, bits=bits), keep=keep)
        kinds = getattr(config, "layer_types", None)  # not every family has them
        slides = kinds[index] == "sliding_attention" if kinds else True
        window = getattr(config, "sliding_window", None)
        return _Layer(
            norm=layer.input_layernorm.weight.detach(),
            qkv=make([attention.qkv_proj] if self._joined else [attention.q_proj, attention.k_proj, attention.v_proj]),
            head_norms=(
                (attention.q_norm.weight.detach(), attention.k_norm.weight.detach())
                if config.model_type == "qwen3"
                else None
            ),
            out=make([attention.o_proj]),
            norm_mlp=layer.post_attention_layernorm.weight.detach(),
            gate_up=make_gate([mlp.gate_up_proj] if self._joined else [mlp.gate_proj, mlp.up_proj]),
            down=make([mlp.down_proj]),
            rope=config.model_type != "smollm3" or bool(attention.use_rope),
            window=window if slides else None,
        )


def _made(make: Callable[[Tensor, Tensor | None], Made], parts: Sequence[nn.Linear], keep: bool) -> Made:
    """One product of several modules, whose outputs lie side by side."""
    weight = torch.cat([part.weight.detach() for part in parts]) if len(parts) > 1 else parts[0].weight
    bias = None if parts[0].bias is None else torch.cat([part.bias.detach() for part in parts])
    made = make(weight, bias)
    for part in parts if not keep else ():
        _drop(part)
    return made


def _drop(part: nn.Linear) -> None:
    part.weight = nn.Parameter(part.weight.detach().to("meta"), requires_grad=False)


def _alone(product: Product, x: Tensor, _: str, add: Tensor | None = None) -> Tensor:
    return product(x, add)


def _joined(
    product: Product,
    x: Tensor,
    name: str,
    add: Tensor | None = None,
    *,
    lows: Mapping[str, list[Low]],
    index: int,
) -> Tensor:
    """The product, and those of adapters (arXiv 2106.09685) for the rows that have one."""
    y = product(x, add)
    for which, A_IR, B_RO in lows.get(f"{index}.{name}", ()):
        y = y + x @ A_IR @ B_RO if which is None else y.index_add(0, which, x[which] @ A_IR @ B_RO)
    return y


def _parts(feeds: Sequence[Feed]) -> tuple[list[Run | Piece], list[int]]:
    """How attention takes the rows, and each row's position. `feeds`: single tokens first, by slot."""
    parts: list[Run | Piece] = []
    positions: list[int] = []
    for feed in feeds:
        spot = feed.past
        assert isinstance(spot, _Spot)
        start, length = len(positions), spot.length + len(feed.tokens)
        positions += range(spot.length, length)
        before = parts[-1] if parts else None
        if len(feed.tokens) > 1:
            parts.append(Piece(start, len(positions), spot.slot, length))
        elif isinstance(before, Run) and _fits(before, spot.slot, length):
            parts[-1] = before._replace(end=start + 1, lengths=(*before.lengths, length))
        else:
            parts.append(Run(start, start + 1, spot.slot, (length,)))
    return parts, positions


def _fits(run: Run, slot: int, length: int) -> bool:
    lengths = (*run.lengths, length)
    return slot == run.slot + len(run.lengths) and max(lengths) * len(lengths) <= WASTE * sum(lengths)


def _doubled(number: int, needed: int) -> int:
    number = max(number, 1)
    while number < needed:
        number *= 2
    return number
