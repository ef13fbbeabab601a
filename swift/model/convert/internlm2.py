"""InternLM2 and 2.5 -> Llama: `wqkv` holds, for each group of heads, its queries, its key and its value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import LlamaConfig, PreTrainedTokenizerBase

from swift.model.convert import _llama, _sentencepiece

if TYPE_CHECKING:
    from swift.model.convert import Original, Tensors

TARGETS = {
    "wqkv": ("q_proj", "k_proj", "v_proj"),
    "wo": ("o_proj",),
    "w1": ("gate_proj",),
    "w2": ("down_proj",),
    "w3": ("up_proj",),
    "tok_embeddings": ("embed_tokens",),
    "attention_norm": ("input_layernorm",),
    "ffn_norm": ("post_attention_layernorm",),
    "output": ("lm_head",),
}
SAVES = "Saved as Llama (LlamaForCausalLM) which transformers and vLLM read; InternLM2's own Python code does not."

NAMES = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "model.tok_embeddings": "model.embed_tokens",
    "output": "lm_head",
}


def matches(original: Original) -> bool:
    return "InternLM2ForCausalLM" in (original.get("architectures") or ())


def config(original: Original) -> LlamaConfig:
    return LlamaConfig(
        **_llama.settings(original, "rms_norm_eps"), attention_bias=original.get("bias", False), mlp_bias=False
    )


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
    layer = f"model.layers.{found[1]}." if found else ""
    inner, _, kind = (found[2] if found else name).rpartition(".")
    if inner == "attention.wqkv":
        return [
            (f"{layer}self_attn.{new}_proj.{kind}", part)
            for new, part in zip("qkv", _qkv(tensor, original), strict=True)
        ]
    if inner.endswith("rotary_emb"):
        return []
    return [(f"{layer}{NAMES.get(inner, inner)}.{kind}", tensor)]


def _qkv(fused: torch.Tensor, original: Original) -> list[torch.Tensor]:
    """(groups x (queries + 2) x width, ...) -> the queries, the keys and the values of all groups."""
    heads = original["num_attention_heads"]
    groups = original.get("num_key_value_heads") or heads
    queries = heads // groups
    parts = fused.reshape(groups, queries + 2, original["hidden_size"] // heads, *fused.shape[1:])
    return [part.flatten(0, 2) for part in (parts[:, :queries], parts[:, -2:-1], parts[:, -1:])]


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return _sentencepiece.tokenizer(folder, pad="</s>", add_bos=True)
