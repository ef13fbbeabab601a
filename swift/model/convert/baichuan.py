"""Baichuan 7B and Baichuan2 7B -> Llama: q, k and v are packed as `W_pack`.

Baichuan2 normalises the rows of its head to length 1. They are normalised once, when the checkpoint is read, and not
while the head itself is trained. The 13B models are in `baichuan_alibi`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import LlamaConfig, PreTrainedTokenizerBase

from swift.model.convert import _llama, _sentencepiece

if TYPE_CHECKING:
    from swift.model.convert import Original, Tensors

TARGETS = {"W_pack": ("q_proj", "k_proj", "v_proj")}
SAVES = "Saved as Llama (LlamaForCausalLM) which transformers and vLLM read; Baichuan's own Python code does not."


def matches(original: Original) -> bool:
    return named(original) and not alibi(original)


def named(original: Original) -> bool:
    return not {"BaiChuanForCausalLM", "BaichuanForCausalLM"}.isdisjoint(original.get("architectures") or ())


def alibi(original: Original) -> bool:
    """Whether it is a 13B, which uses ALiBi. Only the 7B models have max_position_embeddings."""
    thirteen = "BaichuanForCausalLM" in original["architectures"] and "max_position_embeddings" not in original
    return bool(original.get("alibi", thirteen))


def config(original: Original) -> LlamaConfig:
    settings = _llama.settings(original, "rms_norm_eps")
    return LlamaConfig(**{"max_position_embeddings": original.get("model_max_length", 4096), **settings})


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    if ".W_pack." in name:
        parts = zip("qkv", tensor.chunk(3), strict=True)
        return [(name.replace("W_pack", f"{new}_proj"), part) for new, part in parts]
    return head(name, tensor, original)


def head(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    """The weight unchanged, except the head of Baichuan2, recognised by a setting or by its vocabulary size."""
    second = "z_loss_weight" in original or original["vocab_size"] == 125696
    if name == "lm_head.weight" and second:
        return [(name, torch.nn.functional.normalize(tensor.float()).to(tensor.dtype))]
    return _llama.kept(name, tensor)


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return _sentencepiece.tokenizer(folder)
