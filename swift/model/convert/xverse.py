"""XVERSE -> Llama: the same layers under the same names. Knows no template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import LlamaConfig, PreTrainedTokenizerBase

from swift.model.convert import Original, Tensors, _llama, _tokenizer_json, named

TARGETS: Mapping[str, tuple[str, ...]] = {}
SAVES = (
    "Saved as Llama (LlamaForCausalLM) with XVERSE's own weight names, which transformers and vLLM read; "
    "XVERSE's own Python code reads the weights, with the original config.json beside them."
)
LONG = {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
"""Rotary settings of XVERSE-13B-256K, from its Python code: its config.json lacks them. Others go up to 8192."""


def matches(original: Original) -> bool:
    return named(original, "XverseForCausalLM")


def config(original: Original) -> LlamaConfig:
    long = original["max_position_embeddings"] > 8192 or "256k" in str(original.get("_name_or_path")).lower()
    missing = LONG if long and "rope_theta" not in original else {}
    return LlamaConfig(**{**_llama.settings(original, "rms_norm_eps"), **missing})


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    return _llama.kept(name, tensor)


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return _tokenizer_json.tokenizer(folder)
