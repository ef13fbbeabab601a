"""ChatGLM2, ChatGLM3, CodeGeeX2 and the first GLM-4 checkpoints -> GLM. Knows no template.

As in GLM, rotary embedding covers the first half of each head, in pairs of neighbouring features; one matrix packs
q, k and v, another gate and up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GlmConfig, PreTrainedTokenizerBase

from swift.model.convert import Original, Tensors, _llama, _sentencepiece, _tiktoken

TARGETS = {
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "dense": ("o_proj",),
    "dense_h_to_4h": ("gate_up_proj",),
    "dense_4h_to_h": ("down_proj",),
}
SAVES = "Saved as GLM (GlmForCausalLM), which transformers and vLLM read; ChatGLM's own Python code does not."

MARKS = ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
"""Special tokens in the order of their ids, which follow the vocabulary (64789 to 64797 in published checkpoints).

ChatGLM2 and 3 name two of them `sop` and `eop`. Without GLM-4's brackets, every such syllable in a text would become a
special token.
"""
GLM4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)

NAMES = {
    "transformer.embedding.word_embeddings": "model.embed_tokens",
    "transformer.encoder.final_layernorm": "model.norm",
    "transformer.output_layer": "lm_head",
}
LAYERS = ("transformer.encoder.layers.", "model.layers.")
PARTS = {
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_attention_layernorm",
    "self_attention.dense": "self_attn.o_proj",
    "mlp.dense_h_to_4h": "mlp.gate_up_proj",
    "mlp.dense_4h_to_h": "mlp.down_proj",
}


def matches(original: Original) -> bool:
    """Not the first ChatGLM (two-dimensional positions) and GLM-4V, which share the name but not the layout."""
    return (
        original.get("model_type") == "chatglm"
        and "multi_query_group_num" in original
        and "vision_config" not in original
    )


def config(original: Original) -> GlmConfig:
    _llama.require(
        original,
        multi_query_attention=True,
        rmsnorm=True,
        post_layer_norm=True,
        original_rope=True,
        add_bias_linear=False,
        apply_residual_connection_post_layernorm=False,
        quantization_bit=0,
        pre_seq_len=None,
    )
    return GlmConfig(
        vocab_size=original["padded_vocab_size"],
        hidden_size=original["hidden_size"],
        intermediate_size=original["ffn_hidden_size"],
        num_hidden_layers=original["num_layers"],
        num_attention_heads=original["num_attention_heads"],
        num_key_value_heads=original["multi_query_group_num"],
        head_dim=original["kv_channels"],
        max_position_embeddings=original["seq_length"],
        rms_norm_eps=original["layernorm_epsilon"],
        attention_bias=original.get("add_qkv_bias", False) or original.get("add_bias_linear", False),
        attention_dropout=original.get("attention_dropout", 0.0),
        tie_word_embeddings=original.get("tie_word_embeddings", False),
        rope_parameters=_rope(original),
        eos_token_id=original.get("eos_token_id", 2),
        pad_token_id=original.get("pad_token_id", 0),
    )


def _rope(original: Original) -> dict[str, Any]:
    """`rope_ratio` scales the base, except in ChatGLM2-6B-32K, where it divides the positions.

    Only that checkpoint's Python code and its name distinguish the two.
    """
    ratio = float(original.get("rope_ratio", 1))
    shared = {"partial_rotary_factor": 0.5}
    if ratio != 1 and "chatglm2" in str(original.get("_name_or_path")).lower():
        return {"rope_type": "linear", "factor": ratio, "rope_theta": 10000.0, **shared}
    return {"rope_type": "default", "rope_theta": 10000.0 * ratio, **shared}


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    module, _, kind = name.rpartition(".")
    if module in NAMES:
        return [(f"{NAMES[module]}.{kind}", tensor)]
    if name.endswith("rotary_pos_emb.inv_freq") or not name.startswith(LAYERS[0]):
        return [] if name.endswith("inv_freq") else [(name, tensor)]
    layer, _, part = module.removeprefix(LAYERS[0]).partition(".")
    layer = LAYERS[1] + layer
    if part == "self_attention.query_key_value":
        queries = original["num_attention_heads"] * original["kv_channels"]
        others = original["multi_query_group_num"] * original["kv_channels"]
        split = zip("qkv", torch.split(tensor, [queries, others, others]), strict=True)
        return [(f"{layer}.self_attn.{letter}_proj.{kind}", rows) for letter, rows in split]
    return [(f"{layer}.{PARTS.get(part, part)}.{kind}", tensor)]


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    file = folder / "tokenizer.model"
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    settings = _sentencepiece.json_object(folder / "tokenizer_config.json")
    with file.open("rb") as opened:
        if opened.read(1) != b"\n":  # the first byte of a SentencePiece model; GLM-4's file is tiktoken's
            return _glm4(folder, settings)
    vocabulary = _sentencepiece.read(file)
    fast = _sentencepiece.convert(vocabulary, {mark: at for at, mark in enumerate(MARKS, len(vocabulary.pieces))})
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    return _sentencepiece.wrap(fast, {"padding_side": "left", **settings}, names)


def _glm4(folder: Path, settings: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    ranks = _tiktoken.read(folder / "tokenizer.model")
    listed = _sentencepiece.added_tokens(folder)
    marks = sorted(listed, key=listed.__getitem__) or ["<|endoftext|>", *MARKS]
    fast = _tiktoken.convert(ranks, GLM4_SPLIT, marks)
    for mark, index in listed.items():
        if fast.token_to_id(mark) != index:
            raise ValueError(f"{folder}: the special token {mark} should have id {index}, after the vocabulary's last")
    return _sentencepiece.wrap(fast, settings, {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})
