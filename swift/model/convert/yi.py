"""Yi as first published -> Llama, which its later revisions are. Knows no template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import LlamaConfig, PreTrainedTokenizerBase

from swift.model.convert import Original, Tensors, _llama, _sentencepiece, named

TARGETS: Mapping[str, tuple[str, ...]] = {}
SAVES = "Saved as Llama (LlamaForCausalLM), as Yi's later revisions are; its first Python code does not read it."


def matches(original: Original) -> bool:
    return named(original, "YiForCausalLM")


def config(original: Original) -> LlamaConfig:
    return LlamaConfig(**_llama.settings(original, "rms_norm_eps"))


def weights(name: str, tensor: torch.Tensor, original: Original) -> Tensors:
    name = name.replace(".ln1.", ".input_layernorm.").replace(".ln2.", ".post_attention_layernorm.")
    return _llama.kept(name, tensor)


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return _sentencepiece.tokenizer(folder, bos="<|startoftext|>", eos="<|endoftext|>")
