"""Quantisation to 4 or 8 bits with calibration examples (GPTQ, AWQ), by llmcompressor. Knows no text.

The saved folder is in the compressed-tensors format, which vLLM reads, and transformers with the package of that name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from math import gcd
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

METHODS = {"gptq": "GPTQ (arXiv 2210.17323)", "awq": "AWQ (arXiv 2306.00978)"}
GROUP = 128
"""The most weights that share a scale."""


def check(method: str) -> None:
    """Raises ValueError if the package or the GPU it needs is missing."""
    if find_spec("llmcompressor") is None:
        raise ValueError(
            f"--quant_method {method} needs the package llmcompressor: pip install 'swift-agents[gptq]', "
            "or use bnb or torchao"
        )
    if method == "awq" and not torch.accelerator.is_available():
        raise ValueError("--quant_method awq needs a GPU: use gptq, bnb or torchao here")


def group_size(model: PreTrainedModel) -> int:
    """The largest power of two up to GROUP that divides the inputs of every quantised layer."""
    head = model.get_output_embeddings()
    inputs = [layer.in_features for layer in model.modules() if isinstance(layer, nn.Linear) and layer is not head]
    size = gcd(GROUP, *inputs)
    if size < 16:
        raise ValueError(f"gptq and awq need layers whose inputs are a multiple of 16, not {min(inputs)}")
    return size


def calibrate(model: PreTrainedModel, method: str, bits: int, examples: Sequence[Sequence[int]]) -> None:
    """Quantises every linear layer but the head in place. `examples`: token ids of typical inputs."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.awq import AWQModifier
    from llmcompressor.modifiers.gptq import GPTQModifier
    from loguru import logger

    logger.disable("llmcompressor")
    head = model.get_output_embeddings()
    names = [name for name, layer in model.named_modules() if layer is head]
    numbers = QuantizationArgs(
        num_bits=bits, type="int", strategy="group", group_size=group_size(model), symmetric=method == "gptq"
    )
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=numbers)}
    modifier: Any = GPTQModifier if method == "gptq" else AWQModifier
    print(f"{METHODS[method]} on {len(examples)} examples, a layer at a time", file=sys.stderr)
    oneshot(
        model=model,
        dataset=Dataset.from_dict(
            {"input_ids": list(map(list, examples)), "attention_mask": [[1] * len(each) for each in examples]}
        ),
        recipe=modifier(config_groups=groups, ignore=names),
        max_seq_length=max(map(len, examples)),
        num_calibration_samples=len(examples),
    )
