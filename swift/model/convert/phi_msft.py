"""Phi-2 as first published -> Phi, which its later revisions are. Knows no template."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PhiConfig, PreTrainedTokenizerBase

from swift.model.convert import Original, Tensors, _llama, _tokenizer_json

TARGETS = {"Wqkv": ("q_proj", "k_proj", "v_proj"), "out_proj": ("dense",)}
SAVES = "Saved as Phi (PhiForCausalLM), as Phi-2's later revisions are; its first Python code does not read it."

NAMES = {
    "transformer.embd.wte": "model.embed_tokens",
    "lm_head.ln": "model.final_layernorm",
    "lm_head.linear": "lm_head",
}
LAYERS = ("transformer.h.", "model.layers.")
PARTS = {"ln": "input_layernorm", "mixer.out_proj": "self_attn.dense"}


def matches(original: Original) -> bool:
    return original.get("model_type") == "phi-msft"


def config(original: Original) -> PhiConfig:
    _llama.require(original, n_head_kv=None, tie_word_embeddings=False)
    width = original["n_embd"]
    return PhiConfig(
        vocab_size=original["vocab_size"],
        hidden_size=width,
        intermediate_size=original.get("n_inner") or 4 * width,
        num_hidden_layers=original["n_layer"],
        num_attention_heads=original["n_head"],
        hidden_act=original.get("activation_function", "gelu_new"),
        max_position_embeddings=original["n_positions"],
        layer_norm_eps=original.get("layer_norm_epsilon", 1e-5),
        partial_rotary_factor=original["rotary_dim"] / (width // original["n_head"]),
        attention_dropout=original.get("attn_pdrop", 0.0),
        embd_pdrop=original.get("embd_pdrop", 0.0),
        resid_pdrop=original.get("resid_pdrop", 0.0),
        # the code published with it knows no such tokens; the tokenizer's only one ends a text
        bos_token_id=original.get("bos_token_id", 50256),
        eos_token_id=original.get("eos_token_id", 50256),
    )


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    module, _, kind = name.rpartition(".")
    if module in NAMES:
        return [(f"{NAMES[module]}.{kind}", tensor)]
    if not name.startswith(LAYERS[0]):
        return [(name, tensor)]
    layer, _, part = module.removeprefix(LAYERS[0]).partition(".")
    layer = LAYERS[1] + layer
    if part == "mixer.Wqkv":
        split = zip("qkv", tensor.chunk(3), strict=True)
        return [(f"{layer}.self_attn.{letter}_proj.{kind}", rows) for letter, rows in split]
    if part.startswith("mixer.rotary_emb") or kind == "inv_freq":
        return []
    return [(f"{layer}.{PARTS.get(part, part)}.{kind}", tensor)]


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return _tokenizer_json.tokenizer(folder)
