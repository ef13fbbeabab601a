"""A decoder of a common family as the fast runners read it: sizes, weights, rotary table. Computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from swift.model.decoder_layers import FAMILIES, DecoderLayer, Heads, causal_lm_class, decoder_layer

DYNAMIC_ROTARY = ("dynamic", "longrope")
"""Rotary embeddings whose angles depend on the length of the sequence."""


def why_not(model: Any) -> str:
    """Why transformers' own layers have to compute `model`; empty if a fast runner can."""
    if reason := why_not_type(model.config.model_type, type(model).__name__):
        return reason
    if not type(model).__module__.startswith("transformers."):
        return f"{type(model).__name__} is not a class of transformers"
    kind = model.config.rope_parameters["rope_type"]
    if kind in DYNAMIC_ROTARY:
        return f"its rotary embedding, {kind}, depends on the length of the sequence"
    if any(_is_changed(part) for part in model.modules()):
        return "a module of it is wrapped, hooked or replaced"
    if any(type(tensor) is not nn.Parameter for tensor in model.parameters()):
        return "its weights are tensors of a library's own class"
    kinds = {(tensor.device, tensor.dtype) for tensor in model.parameters()}
    if len(kinds) != 1 or not next(iter(kinds))[1].is_floating_point:
        return "its weights have several dtypes or devices"
    return ""


def why_not_type(model_type: str, name: str) -> str:
    """Why the fast runners have no layers for a model of this type and class; empty if they have."""
    served = [kind for kind, family in FAMILIES.items() if not family.multipliers]
    if model_type not in served or name != causal_lm_class(model_type):
        return f"{name} is not one of {', '.join(map(causal_lm_class, served))}"
    return ""


def _is_changed(part: nn.Module) -> bool:
    """Whether a module is not as transformers made it: another library's class, a hook or a replaced `forward`."""
    foreign = not type(part).__module__.startswith(("transformers.", "torch.nn."))
    wrapped = isinstance(part, (nn.Linear, nn.Embedding)) and type(part) not in (nn.Linear, nn.Embedding)
    return foreign or wrapped or bool(part._forward_hooks or part._forward_pre_hooks) or "forward" in vars(part)


class Decoder:
    """A model that `why_not` does not object to: H query heads over K key heads, each D wide."""

    def __init__(self, model: Any) -> None:
        config, inside = model.config, model.model
        self.model = model
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.layers: list[DecoderLayer] = [
            decoder_layer(block, config, index) for index, block in enumerate(inside.layers)
        ]
        self.heads: Heads = self.layers[0].heads
        self.H, self.K, self.D, self.scale = self.heads
        self.eps: float = config.rms_norm_eps
        self.hidden_size: int = config.hidden_size
        self.intermediate_size: int = self.layers[0].down[0].in_features
        name = config.hidden_act
        self.act: Callable[[Tensor], Tensor] = functional.silu if name in ("silu", "swish") else ACT2FN[name]
        self.embedding: Tensor = inside.embed_tokens.weight.detach()
        self.norm: Tensor = inside.norm.weight.detach()
        self.tied: bool = config.tie_word_embeddings

    def rotary(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions below `length`, (length, rotary_dim): the second half repeats the first."""
        positions = torch.arange(length, device=self.device)
        cos, sin = self.model.model.rotary_emb(torch.empty(0, dtype=dtype, device=self.device), positions[None])
        return cos[0], sin[0]


def joined_weight(modules: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """The weight (O, I) and bias (O) of several modules with one input, their outputs in order."""
    if len(modules) == 1:
        bias: Tensor | None = modules[0].bias
        return modules[0].weight.detach(), None if bias is None else bias.detach()
    biases = None if modules[0].bias is None else torch.cat([module.bias.detach() for module in modules])
    return torch.cat([module.weight.detach() for module in modules]), biases


def free_weights(modules: Sequence[nn.Linear]) -> None:
    """Frees weights that have been copied into another layout."""
    for module in modules:
        module.weight = nn.Parameter(module.weight.detach().to("meta"), requires_grad=False)
