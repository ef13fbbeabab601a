"""MiniCPM (1 and the dense 4) -> Granite, which has MiniCPM's three scales as settings. Knows no template.

Embeddings times `scale_emb`, each block's output times scale_depth / sqrt(layers), logits divided by
hidden_size / dim_model_base (arXiv:2404.06395, table 1 and appendix): the weights stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import GraniteConfig, PreTrainedTokenizerBase

from swift.model.convert import Original, Tensors, _llama, _sentencepiece, _tokenizer_json, named

TARGETS: Mapping[str, tuple[str, ...]] = {}
SAVES = (
    "Saved as Granite (GraniteForCausalLM) with MiniCPM's own weight names, which transformers and vLLM read; "
    "MiniCPM's own Python code reads the weights, with the original config.json beside them."
)


def matches(original: Original) -> bool:
    return named(original, "MiniCPMForCausalLM")


def config(original: Original) -> GraniteConfig:
    _llama.require(original, sparse_config=None, num_experts=0, attention_bias=False)
    width = original["hidden_size"]
    return GraniteConfig(
        **{"tie_word_embeddings": True, **_llama.settings(original, "rms_norm_eps")},
        embedding_multiplier=float(original.get("scale_emb", 1)),
        residual_multiplier=original.get("scale_depth", 1) / math.sqrt(original["num_hidden_layers"]),
        logits_scaling=width / original.get("dim_model_base", 1),
        attention_multiplier=(width // original["num_attention_heads"]) ** -0.5,
    )


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    if name == "lm_head.weight" and original.get("tie_word_embeddings", True):
        return []  # a copy of the embeddings
    return _llama.kept(name, tensor)


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if (folder / "tokenizer.json").is_file():
        return _tokenizer_json.tokenizer(folder)
    return _sentencepiece.tokenizer(folder, add_bos=True)
