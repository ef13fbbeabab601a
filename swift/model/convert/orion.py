"""Orion -> StableLM: Llama's layers with LayerNorms, under the same names. Knows no template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, StableLmConfig

from swift.model.convert import Original, Tensors, _llama, _sentencepiece, named

TARGETS: Mapping[str, tuple[str, ...]] = {}
SAVES = (
    "Saved as StableLM (StableLmForCausalLM) with Orion's own weight names, which transformers and vLLM read; "
    "Orion's own Python code reads the weights, with the original config.json beside them."
)


def matches(original: Original) -> bool:
    return named(original, "OrionForCausalLM")


def config(original: Original) -> StableLmConfig:
    _llama.require(original, attention_bias=False)
    heads = {"num_key_value_heads": original["num_attention_heads"]}
    return StableLmConfig(
        **{**heads, **_llama.settings(original)},
        layer_norm_eps=original["rms_norm_eps"],  # Orion kept Llama's name for it
        partial_rotary_factor=1.0,
        use_qkv_bias=False,
    )


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    return _llama.kept(name, tensor)


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return _sentencepiece.tokenizer(folder, add_bos=True)
