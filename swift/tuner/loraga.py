"""LoRA-GA (arXiv 2407.05000): LoRA initialised with the gradient of the base weights. Knows no data and no flag.

Initialisation subtracts from the weights what the adapter adds, so that the model computes what it did. The saved file
must fit the original weights: it is plain LoRA of twice the rank, the adapter minus its initialisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer, preprocess_loraga
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

BATCHES = 8
"""Batches whose gradients are averaged."""
A, B = "lora_start_A", "lora_start_B"
"""Buffers with a layer's initial lora_A and lora_B, which PEFT does not save."""


def estimate(model: PreTrainedModel, config: LoraConfig, batches: Iterable[Mapping[str, Any]]) -> None:
    """Computes the gradients that PEFT initialises from. `batches`: inputs of the model with `labels`."""

    def rows() -> None:
        for batch in islice(batches, BATCHES):
            model(**batch).loss.backward()

    preprocess_loraga(model, config, rows)


def keep_start(model: PeftModel) -> None:
    """Keeps the initial values of every layer. Raises ValueError for an adapter on anything but a linear layer."""
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if not layer.lora_A:
            raise ValueError(f"initialisation 'lora_ga' is for linear layers only, and {name} is not one")
        layer.register_buffer(A, layer.lora_A["default"].weight.detach().clone(), persistent=False)
        layer.register_buffer(B, layer.lora_B["default"].weight.detach().clone(), persistent=False)


def layers_with_start(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of each layer initialised this way."""
    return ((name, layer) for name, layer in model.named_modules() if A in dict(layer.named_buffers(recurse=False)))


def save(model: PeftModel, folder: Path, weights: str, trained: Mapping[str, Tensor] | None = None) -> None:
    """Writes plain LoRA, its tensors to the file `weights`. `trained`: the tensors, where this process has a shard."""
    state = get_peft_model_state_dict(model, state_dict=trained, save_embedding_layers=False)
    for name, layer in layers_with_start(model):
        start_A, start_B = layer.get_buffer(A), layer.get_buffer(B)
        state[f"{name}.lora_A.weight"] = torch.cat([state[f"{name}.lora_A.weight"], start_A])
        state[f"{name}.lora_B.weight"] = torch.cat([state[f"{name}.lora_B.weight"], -start_B], dim=1)
    config = copy(model.active_peft_config)
    config.init_lora_weights, config.lora_ga_config, config.inference_mode = True, None, True
    config.r *= 2
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2  # keeps the scale
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: each.contiguous().cpu() for name, each in state.items()}, folder / weights, {"format": "pt"})
    config.save_pretrained(folder)


@torch.no_grad()
def move_start(model: PeftModel, starts: Mapping[str, Tensor]) -> None:
    """Replaces the initial values by `starts` (buffer's name -> values) and adapts the base weights to them."""
    for name, layer in layers_with_start(model):
        old_A, old_B = layer.get_buffer(A), layer.get_buffer(B)
        new_A, new_B = starts[f"{name}.{A}"].to(old_A), starts[f"{name}.{B}"].to(old_B)
        if not (torch.equal(old_A, new_A) and torch.equal(old_B, new_B)):
            base = layer.get_base_layer().weight
            moved = layer.scaling["default"] * (old_B @ old_A - new_B @ new_A)
            base += (moved if base.shape == moved.shape else moved.T).to(base)
        old_A.copy_(new_A)
        old_B.copy_(new_B)
