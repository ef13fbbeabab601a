"""Random two-layer checkpoints of families that think, with their published chat templates. Knows nothing of swift."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from published_templates import tokenizer
from tiny import SIZES
from tiny_classes import SETTINGS
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig


class Family(NamedTuple):
    """A `model_type` of transformers, a chat template, and `ends`: the tokens that the published
    generation_config.json names as `eos_token_id`."""

    model_type: str
    template: str
    ends: tuple[str, ...]


FAMILIES = {
    "Qwen3.5": Family("qwen3_5_text", "qwen3_5_think", ("<|im_end|>", "<|endoftext|>")),
    "GLM-4.5": Family("glm4_moe", "glm4moe", ("<|endoftext|>", "<|user|>", "<|observation|>")),
    "gpt-oss": Family("gpt_oss", "gptoss", ("<|return|>", "<|endoftext|>", "<|call|>")),
    "DeepSeek V3": Family("deepseek_v3", "deepseekv3", ("<｜end▁of▁sentence｜>",)),
    "DeepSeek R1": Family("deepseek_v3", "deepseek_r1_distill", ("<｜end▁of▁sentence｜>",)),
    "Nemotron 3": Family("nemotron_h", "nemotron_3_nano", ("<|im_end|>",)),
    "Llama": Family("llama", "qwen3_5_think", ("<|im_end|>", "<|endoftext|>")),
}
"""The last is a model that the fast path trains, with a template that it was not published with."""


def published_folder(path: Path, family: Family) -> Path:
    """Saves a checkpoint under `path`: random weights, tokenizer, chat template and what ends a reply."""
    torch.manual_seed(0)
    made = tokenizer(family.template)
    own: dict[str, Any] = SETTINGS.get(family.model_type.removesuffix("_text"), {})
    own = {**own.get("text_config", own), "max_position_embeddings": 8192, "vocab_size": len(made)}
    ids = {"bos_token_id": made.bos_token_id, "eos_token_id": made.eos_token_id, "pad_token_id": made.pad_token_id}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family.model_type, **{**SIZES, **own, **ids}))
    ends = made.convert_tokens_to_ids(list(family.ends))
    model.generation_config = GenerationConfig(**{**ids, "eos_token_id": ends})
    model.save_pretrained(path)
    made.save_pretrained(path)
    return path
