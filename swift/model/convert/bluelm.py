"""BlueLM -> Llama, with the LayerNorm after its embeddings folded into them. Knows no template."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import layer_norm
from transformers import LlamaConfig, PreTrainedTokenizerBase

from swift.model.convert import Original, Tensors, _llama, _sentencepiece, named

TARGETS: Mapping[str, tuple[str, ...]] = {}
SAVES = (
    "Saved as Llama (LlamaForCausalLM), which transformers and vLLM read; BlueLM's own Python code does not, for the "
    "LayerNorm after the embeddings has become part of them."
)
EMBEDDING, NORM = "model.embed_tokens.weight", "model.embed_layer_norm"


def matches(original: Original) -> bool:
    return named(original, "BlueLMForCausalLM")


def config(original: Original) -> LlamaConfig:
    _llama.require(
        original, use_stable_embedding=True, tie_word_embeddings=False
    )  # the output head keeps the original embeddings
    settings = _llama.settings(original, "rms_norm_eps")
    scaling = settings.pop("rope_scaling", None)
    if scaling:
        _llama.require(scaling, type="ntkmixed")
        settings.update(_mixed(original, scaling))
    return LlamaConfig(**settings)


def _mixed(original: Original, scaling: Mapping[str, Any]) -> dict[str, Any]:
    """NTK-mixed (kexue.fm/archives/9706): frequency m of d / 2 is divided by exp(a m^b), the last one by `factor`."""
    half = original["hidden_size"] // original["num_attention_heads"] // 2
    factor, power = float(scaling["factor"]), float(scaling["power"])
    slope = math.log(factor) / half**power
    divisors = [math.exp(slope * m**power) for m in range(1, half + 1)]
    length = int(original["max_position_embeddings"] * factor)
    return {
        "max_position_embeddings": length,
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "factor": 1.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": length,
        },
    }


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    return _llama.kept(name, tensor)


def fold(tensors: dict[str, torch.Tensor], original: Original) -> dict[str, torch.Tensor]:
    """A LayerNorm right after the embeddings acts on each row separately, so it is folded into the table."""
    names = (EMBEDDING, f"{NORM}.weight", f"{NORM}.bias")
    if missing := [name for name in names if name not in tensors]:
        raise ValueError(f"the weight {missing[0]} is missing")
    rows, scale, shift = (tensors.pop(name) for name in names)
    normed = layer_norm(rows.float(), scale.shape, scale.float(), shift.float(), eps=original["rms_norm_eps"])
    return {**tensors, EMBEDDING: normed.to(rows.dtype)}


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return _sentencepiece.tokenizer(folder, add_bos=True)
