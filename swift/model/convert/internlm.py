"""InternLM (the first) and InternLM3 -> Llama, whose names they use; they differ in which projections have a bias."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import LlamaConfig, PreTrainedTokenizerBase

from swift.model.convert import _llama, _sentencepiece

if TYPE_CHECKING:
    from swift.model.convert import Original, Tensors

TARGETS: Mapping[str, tuple[str, ...]] = {}
SAVES = "Saved as Llama (LlamaForCausalLM) which transformers and vLLM read; InternLM's own Python code does not."


def matches(original: Original) -> bool:
    return not {"InternLMForCausalLM", "InternLM3ForCausalLM"}.isdisjoint(original.get("architectures") or ())


def config(original: Original) -> LlamaConfig:
    settings = _llama.settings(original, "rms_norm_eps", "head_dim")
    first = "InternLMForCausalLM" in original["architectures"]
    if not first:
        _llama.require(original, bias=False, qkv_bias=False)
    rotary = original.get("rotary") or {}  # the first InternLM's later revisions
    if "base" in rotary:
        settings["rope_theta"] = float(rotary["base"])
    if rotary.get("type") == "dynamic":
        settings["rope_scaling"] = {"type": "dynamic", "factor": float(rotary.get("scaling_factor", 1.0))}
    return LlamaConfig(**settings, attention_bias=bool(original.get("bias", first)))


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    return _llama.kept(name, tensor)


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return _sentencepiece.tokenizer(folder, pad="</s>", add_bos=True)
