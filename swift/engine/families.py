"""The common decoder families: what their layers hold, whatever each calls it. Computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from swift.engine.lora import Lora

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
PRODUCTS = ("qkv", "out", "gate_up", "down")
"""Of a layer, in the order in which they are computed. Modules that share an input are one product."""


def why_not(model: Any) -> str:
    """Why `model` has to go through transformers' own layers; empty if it need not."""
    if type(model).__name__ not in CLASSES or not type(model).__module__.startswith("transformers."):
        return f"{type(model).__name__} is not one of {', '.join(CLASSES)}"
    kind = model.config.rope_parameters["rope_type"]
    if kind in MOVING_ROPE:
        return f"its position encoding, {kind}, moves with the length"
    if any(_is_changed(part) for part in model.modules()):
        return "something was put into its layers"
    if any(type(tensor) is not nn.Parameter for tensor in model.parameters()):
        return "its weights are a library's own kind of tensor"
    kinds = {(tensor.device, tensor.dtype) for tensor in model.parameters()}
    if len(kinds) != 1 or not next(iter(kinds))[1].is_floating_point:
        return "its weights have several dtypes or devices"
    return ""


def _is_changed(part: nn.Module) -> bool:
    """Whether a module is not as transformers made it: of another library, or with a say in how it runs."""
    foreign = not type(part).__module__.startswith(("transformers.", "torch.nn."))
    wrapped = isinstance(part, (nn.Linear, nn.Embedding)) and type(part) not in (nn.Linear, nn.Embedding)
    return foreign or wrapped or bool(part._forward_hooks or part._forward_pre_hooks) or "forward" in vars(part)


class Layer(NamedTuple):
    norm: Tensor
    qkv: Sequence[nn.Linear]
    head_norms: tuple[Tensor, Tensor] | None  # queries', keys'
    out: Sequence[nn.Linear]
    norm_mlp: Tensor
    gate_up: Sequence[nn.Linear]
    down: Sequence[nn.Linear]
    rope: bool
    window: int | None


class Family:
    """A model of CLASSES: H query heads over K key heads, each D wide; `inner` is how wide its MLPs are within."""

    def __init__(self, model: Any) -> None:
        config, inner = model.config, model.model
        first = inner.layers[0]
        self.model = model
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.H: int = config.num_attention_heads
        self.K: int = config.num_key_value_heads
        self.D: int = first.self_attn.head_dim
        self.scale: float = first.self_attn.scaling
        self.eps: float = config.rms_norm_eps
        self.width: int = config.hidden_size
        self.inner: int = first.mlp.down_proj.in_features
        name = config.hidden_act
        self.act: Callable[[Tensor], Tensor] = functional.silu if name in ("silu", "swish") else ACT2FN[name]
        self.embedding: Tensor = inner.embed_tokens.weight.detach()
        self.norm: Tensor = inner.norm.weight.detach()
        self.tied: bool = config.tie_word_embeddings
        self._joined = config.model_type == "phi3"  # comes with joined products
        self.layers = [self._layer(layer, index) for index, layer in enumerate(inner.layers)]

    def _layer(self, layer: Any, index: int) -> Layer:
        attention, mlp, config = layer.self_attn, layer.mlp, self.model.config
        kinds = getattr(config, "layer_types", None)  # not every family has them
        slides = kinds[index] == "sliding_attention" if kinds else True
        norms = (attention.q_norm.weight.detach(), attention.k_norm.weight.detach()) if _has_norms(config) else None
        return Layer(
            norm=layer.input_layernorm.weight.detach(),
            qkv=[attention.qkv_proj] if self._joined else [attention.q_proj, attention.k_proj, attention.v_proj],
            head_norms=norms,
            out=[attention.o_proj],
            norm_mlp=layer.post_attention_layernorm.weight.detach(),
            gate_up=[mlp.gate_up_proj] if self._joined else [mlp.gate_proj, mlp.up_proj],
            down=[mlp.down_proj],
            rope=config.model_type != "smollm3" or bool(attention.use_rope),
            window=getattr(config, "sliding_window", None) if slides else None,
        )

    def turns(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions up to `length`, (length, turned): the second half repeats the first."""
        positions = torch.arange(length, device=self.device)
        cos, sin = self.model.model.rotary_emb(torch.empty(0, dtype=dtype, device=self.device), positions[None])
        return cos[0], sin[0]

    # adapters

    @property
    def _sides(self) -> Mapping[str, tuple[int, dict[str, int]]]:
        """Product -> its inputs, and which modules of the model it joins with how many outputs each."""
        heads, keys = self.H * self.D, self.K * self.D
        qkv = {"self_attn.q_proj": heads, "self_attn.k_proj": keys, "self_attn.v_proj": keys}
        both = {"mlp.gate_proj": self.inner, "mlp.up_proj": self.inner}
        if self._joined:
            qkv, both = {"self_attn.qkv_proj": heads + 2 * keys}, {"mlp.gate_up_proj": 2 * self.inner}
        return {
            "qkv": (self.width, qkv),
            "out": (heads, {"self_attn.o_proj": self.width}),
            "gate_up": (self.width, both),
            "down": (self.inner, {"mlp.down_proj": self.width}),
        }

    def joined(self, adapter: Lora) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
        """(layer, product) -> A (rank, in), B' (rank, out) of an adapter: those of joined modules lie side by side.

        Raises ValueError for an adapter of another model.
        """
        pairs, sides = adapter.pairs(), self._sides
        found: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        for index in range(len(self.layers)):
            for product, (width, parts) in sides.items():
                there = {part: pairs.pop(f"model.layers.{index}.{part}", None) for part in parts}
                given = {part: pair for part, pair in there.items() if pair}
                if not given:
                    continue
                A_RI = torch.cat([A for A, _ in given.values()])
                B_RO = torch.zeros(len(A_RI), sum(parts.values()))
                row = column = 0
                for part, size in parts.items():
                    if part in given:
                        a_RI, b_OR = given[part]
                        if a_RI.shape[1] != width or b_OR.shape[0] != size:
                            shape = f"{b_OR.shape[0]} x {a_RI.shape[1]}"
                            raise ValueError(
                                f"the adapter is of another model: {part} is {shape}, not {size} x {width}"
                            )
                        B_RO[row : row + len(a_RI), column : column + size] = b_OR.t()
                        row += len(a_RI)
                    column += size
                found[index, product] = A_RI.to(self.device, self.dtype), B_RO.to(self.device, self.dtype)
        if pairs:
            raise ValueError(f"the adapter is on {min(pairs)}, which is no product of this model's layers")
        return found

    def why_not(self, adapter: Lora) -> str:
        """Why an adapter cannot be had with this model; empty if it can."""
        try:
            self.joined(adapter)
        except ValueError as error:
            return str(error)
        return ""


def _has_norms(config: Any) -> bool:
    return bool(config.model_type == "qwen3")


def weight_bias(parts: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Of several modules as one, whose outputs lie side by side."""
    if len(parts) == 1:
        bias: Tensor | None = parts[0].bias
        return parts[0].weight.detach(), None if bias is None else bias.detach()
    biases = None if parts[0].bias is None else torch.cat([part.bias.detach() for part in parts])
    return torch.cat([part.weight.detach() for part in parts]), biases


def drop(parts: Sequence[nn.Linear]) -> None:
    """Lets go of weights that were laid out elsewhere."""
    for part in parts:
        part.weight = nn.Parameter(part.weight.detach().to("meta"), requires_grad=False)
