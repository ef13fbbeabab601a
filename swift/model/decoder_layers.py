"""The decoder families that fast paths compute, and where the parts of their layers are. Computes nothing.

Training, serving and attention on CPUs read a layer through `decoder_layer`. A new family is one row of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

PROJECTIONS = ("qkv", "out", "gate_up", "down")
"""The matrix products of a layer, in the order they are computed. Modules that share an input are one product."""


class Family(NamedTuple):
    """What a family adds to Llama's layer: RMS norm, attention, add, RMS norm, gated MLP, add.

    `packed`: q, k and v are one module, and so are gate and up. `head_norms`: an RMS norm over each head of queries and
    keys, before rotary embedding. `rotary_by_layer`: some layers have no rotary embedding. `multipliers`: settings of
    the configuration scale embeddings, what a layer adds to the residual stream, and logits.
    """

    packed: bool = False
    head_norms: bool = False
    rotary_by_layer: bool = False
    multipliers: bool = False

    @property
    def modules(self) -> Mapping[str, tuple[str, ...]]:
        """Each of `PROJECTIONS` -> the names of its modules within a layer."""
        qkv = ("qkv_proj",) if self.packed else ("q_proj", "k_proj", "v_proj")
        gate_up = ("gate_up_proj",) if self.packed else ("gate_proj", "up_proj")
        return {
            "qkv": tuple(f"self_attn.{name}" for name in qkv),
            "out": ("self_attn.o_proj",),
            "gate_up": tuple(f"mlp.{name}" for name in gate_up),
            "down": ("mlp.down_proj",),
        }


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(head_norms=True),
    "smollm3": Family(rotary_by_layer=True),
    "phi3": Family(packed=True),
    "granite": Family(multipliers=True),
}
"""A configuration's `model_type` -> its family."""


class Heads(NamedTuple):
    """H query heads over K key heads (arXiv 2305.13245), each D wide. `scale`: the factor of attention scores."""

    H: int
    K: int
    D: int
    scale: float


class DecoderLayer(NamedTuple):
    """The modules and settings of one layer, by what they do.

    The modules of a projection are in the order of their outputs; an adapter may wrap them.
    `head_norms`: of queries, of keys. `window`: how many positions back a token sees; None: all of them.
    """

    norm: Any
    qkv: tuple[Any, ...]
    head_norms: tuple[Any, Any] | None
    heads: Heads
    rotary: bool
    window: int | None
    out: tuple[Any, ...]
    norm_mlp: Any
    gate_up: tuple[Any, ...]
    down: tuple[Any, ...]
    residual_multiplier: float

    @property
    def projections(self) -> tuple[Any, ...]:
        """The modules of all products."""
        return (*self.qkv, *self.out, *self.gate_up, *self.down)


def decoder_layer(block: nn.Module, config: Any, index: int) -> DecoderLayer:
    """Reads layer `index` of a model with this configuration. Raises KeyError for a family that has no row."""
    family = FAMILIES[config.model_type]
    attention: Any = block.get_submodule("self_attn")
    modules = {name: tuple(map(block.get_submodule, names)) for name, names in family.modules.items()}
    return DecoderLayer(
        norm=block.get_submodule("input_layernorm"),
        head_norms=(attention.q_norm, attention.k_norm) if family.head_norms else None,
        heads=Heads(config.num_attention_heads, config.num_key_value_heads, attention.head_dim, attention.scaling),
        rotary=bool(attention.use_rope) if family.rotary_by_layer else True,
        window=window(config, index),
        norm_mlp=block.get_submodule("post_attention_layernorm"),
        residual_multiplier=float(config.residual_multiplier) if family.multipliers else 1.0,
        **modules,
    )


def window(config: Any, index: int) -> int | None:
    """How many positions back a token of layer `index` sees; None: all of them."""
    # not every family has these settings: without `layer_types` all layers are alike
    kinds = getattr(config, "layer_types", None)
    slides = kinds[index] == "sliding_attention" if kinds else True
    size: int | None = getattr(config, "sliding_window", None) if slides else None
    return size


def causal_lm_class(model_type: str) -> str:
    """The name of the family's class in transformers; empty for a family that has no row."""
    return str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]) if model_type in FAMILIES else ""
