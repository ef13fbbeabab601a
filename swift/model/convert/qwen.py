"""Qwen (the first) -> Qwen2, which differs only in names up to its training length. Knows no template.

Beyond that length the original uses dynamic NTK and log-n attention, which are not implemented: the context is the
training length, `seq_length`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config

from swift.model.convert import _llama, _sentencepiece, _tiktoken

if TYPE_CHECKING:
    from swift.model.convert import Original, Tensors

TARGETS = {
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "attn.c_proj": ("o_proj",),
    "mlp.c_proj": ("down_proj",),
    "w1": ("up_proj",),
    "w2": ("gate_proj",),
    "wte": ("embed_tokens",),
    "ln_1": ("input_layernorm",),
    "ln_2": ("post_attention_layernorm",),
    "ln_f": ("norm",),
}
SAVES = "Saved as Qwen2 (Qwen2ForCausalLM) which transformers and vLLM read; Qwen's first Python code does not."

NAMES = {
    "transformer.wte": "model.embed_tokens",
    "transformer.ln_f": "model.norm",
    "lm_head": "lm_head",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.up_proj",  # the original computes w1(x) * silu(w2(x))
    "mlp.w2": "mlp.gate_proj",
    "mlp.c_proj": "mlp.down_proj",
}
ENDOFTEXT = "<|endoftext|>"
SPECIAL = (ENDOFTEXT, "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))


def matches(original: Original) -> bool:
    """Not Qwen-VL and Qwen-Audio, whose class has the same name."""
    named = "QWenLMHeadModel" in (original.get("architectures") or ())
    return named and "visual" not in original and "audio" not in original


def config(original: Original) -> Qwen2Config:
    _llama.require(original, no_bias=True, rotary_pct=1.0, scale_attn_weights=True)
    return Qwen2Config(
        vocab_size=original["vocab_size"],
        hidden_size=original["hidden_size"],
        intermediate_size=original["intermediate_size"] // 2,  # the original counts both halves
        num_hidden_layers=original["num_hidden_layers"],
        num_attention_heads=original["num_attention_heads"],
        num_key_value_heads=original["num_attention_heads"],
        head_dim=original.get("kv_channels", original["hidden_size"] // original["num_attention_heads"]),
        max_position_embeddings=original.get("seq_length", original.get("max_position_embeddings", 8192)),
        rms_norm_eps=original.get("layer_norm_epsilon", 1e-6),
        rope_theta=float(original.get("rotary_emb_base", 10000)),
        initializer_range=original.get("initializer_range", 0.02),
        attention_dropout=original.get("attn_dropout_prob", 0.0),
        tie_word_embeddings=original.get("tie_word_embeddings", False),
        use_sliding_window=False,
    )


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    layer, inner, kind = _split(name)
    if inner == "attn.c_attn":
        return [
            (f"{layer}self_attn.{new}_proj.{kind}", part)
            for new, part in zip("qkv", _thirds(kind, tensor), strict=True)
        ]
    if (inner.startswith("attn.") and inner not in NAMES) or inner.endswith("rotary_emb"):
        return []  # attn.masked_bias, attn.rotary_emb.inv_freq: buffers
    return [(f"{layer}{NAMES.get(inner, inner)}.{kind}", tensor)]


def _split(name: str) -> tuple[str, str, str]:
    """`transformer.h.3.attn.c_attn.bias` -> `model.layers.3.`, `attn.c_attn`, `bias`; outside the layers "" first."""
    found = re.fullmatch(r"transformer\.h\.(\d+)\.(.+)", name)
    inner, _, kind = (found[2] if found else name).rpartition(".")
    return (f"model.layers.{found[1]}." if found else ""), inner, kind


def _thirds(kind: str, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """The parts of q, k and v. GPTQ stores outputs in columns and shares the groups of inputs (`g_idx`)."""
    if kind == "g_idx":
        return [tensor] * 3
    return tensor.chunk(3, dim=1 if kind in ("qweight", "qzeros", "scales") else 0)


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    fast = _tiktoken.convert(_tiktoken.read(folder / "qwen.tiktoken"), _tiktoken.CL100K, SPECIAL, nfc=True)
    settings = _sentencepiece.json_object(folder / "tokenizer_config.json")
    return _sentencepiece.wrap(fast, settings, {"eos_token": ENDOFTEXT, "pad_token": ENDOFTEXT})
