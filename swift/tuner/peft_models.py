"""Models with PEFT's adapters: making them, counting parameters, names and dtypes of tensors. Knows no flag."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from torch import nn
from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of a saved adapter, as PEFT names them."""


def wrap(model: PreTrainedModel, config: PeftConfig, dtype: torch.dtype = torch.float32) -> PeftModel:
    """The model with the adapters that `config` describes, in `dtype` unless they are copies of base layers."""
    with without_warnings():
        tuned = get_peft_model(model, config, autocast_adapter_dtype=False)
    if config.peft_type != "LN_TUNING":  # copies of layers, which compute in the model's dtype
        cast_adapter(tuned, dtype)
    return tuned


def trained_and_all(model: nn.Module) -> tuple[int, int]:
    """The number of trainable parameters, and of all."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, trains in counts if trains), sum(count for count, _ in counts)


def is_quantised(model: PreTrainedModel) -> bool:
    """Whether layers are quantised: transformers sets `hf_quantizer`; HQQ's layers are recognised by their class."""
    by_hqq = any(type(module).__name__ == "HQQLinear" for module in model.modules())
    return by_hqq or getattr(model, "hf_quantizer", None) is not None


def adapter_mark(model: PeftModel) -> str:
    """The text that the names of all tensors of the adapter contain."""
    config = model.active_peft_config
    if config.is_prompt_learning:
        return "prompt_"
    # VeRA's shared matrices must have the dtype of its vectors
    return "vera_" if config.peft_type == "VERA" else str(PEFT_TYPE_TO_PREFIX_MAPPING[config.peft_type])


def cast_adapter(model: PeftModel, dtype: torch.dtype) -> None:
    mark = adapter_mark(model)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if mark in name and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Hides PEFT's warnings of tied embeddings, which `merge` unties, and of missing weights, an error in `load`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        warnings.filterwarnings("ignore", message="Found missing adapter keys.*")
        yield
