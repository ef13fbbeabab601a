"""Skywork -> Llama, whose names and layers it has. Knows no template."""

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
SAVES = "Saved as Llama (LlamaForCausalLM) which transformers and vLLM read; Skywork's own Python code does not."


def matches(original: Original) -> bool:
    return "SkyworkForCausalLM" in (original.get("architectures") or ())


def config(original: Original) -> LlamaConfig:
    scaling = original.get("rope_scaling")
    if scaling and scaling.get("type") not in ("linear", "dynamic"):
        raise ValueError(f"config.json: rope_scaling {scaling} is not supported for this model")
    return LlamaConfig(**_llama.settings(original, "rms_norm_eps"))


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    return _llama.kept(name, tensor)


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return _sentencepiece.tokenizer(folder, add_bos=True)
