"""LoRA-GA (arXiv 2407.05000), LoRA that starts along the gradient of the weights below. Knows no data and no flag.

The start takes from the weights what the adapter adds, so that the model begins as it was. The saved file must not need
weights that moved: it is a plain LoRA of twice the rank, what the adapter is now less what it was at the start.
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
"""Of rows, whose gradients are averaged."""
A, B = "lora_start_A", "lora_start_B"
"""What a layer's start is called: buffers that PEFT does not save."""


def estimate(model: PreTrainedModel, config: LoraConfig, batches: Iterable[Mapping[str, Any]]) -> None:
    """Finds the gradients that PEFT then makes the start of. `batches` are inputs of the model with `labels`."""

    def rows() -> None:
        for batch in islice(batches, BATCHES):
            model(**batch).loss.backward()

    preprocess_loraga(model, config, rows)


def keep_start(model: PeftModel) -> None:
    """Notes the start of every layer. ValueError for an adapter on something else than a linear layer."""
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if not layer.lora_A:
            raise ValueError(f"start values 'lora_ga' are for linear layers alone, and {name} is none")
        layer.register_buffer(A, layer.lora_A["default"].weight.detach().clone(), persistent=False)
        layer.register_buffer(B, layer.lora_B["default"].weight.detach().clone(), persistent=False)


def started(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Each layer that began so, by its name."""
    return ((name, layer) for name, layer in model.named_modules() if A in dict(layer.named_buffers(recurse=False)))


def save(model: PeftModel, folder: Path, weights: str, trained: Mapping[str, Tensor] | None = None) -> None:
    """The adapter as a plain LoRA, its tensors in the file `weights`. `trained`: where this process has but a shard."""
    state = get_peft_model_state_dict(model, state_dict=trained, save_embedding_layers=False)
    for name, layer in started(model):
        start_A, start_B = layer.get_buffer(A), layer.get_buffer(B)
        state[f"{name}.lora_A.weight"] = torch.cat([state[f"{name}.lora_A.weight"], start_A])
        state[f"{name}.lora_B.weight"] = torch.cat([state[f"{name}.lora_B.weight"], -start_B], dim=1)
    config = copy(model.active_peft_config)
    config.init_lora_weights, config.lora_ga_config, config.inference_mode = True, None, True
    config.r *= 2
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2  # so that the scale stays what it is
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: each.contiguous().cpu() for name, each in state.items()}, folder / weights, {"format": "pt"})
    config.save_pretrained(folder)


@torch.no_grad()
def move_start(model: PeftModel, starts: Mapping[str, Tensor]) -> None:
    """Makes `starts` (buffer's name -> values) the start, and the weights below what they are under it."""
    for name, layer in started(model):
        old_A, old_B = layer.get_buffer(A), layer.get_buffer(B)
        new_A, new_B = starts[f"{name}.{A}"].to(old_A), starts[f"{name}.{B}"].to(old_B)
        if not (torch.equal(old_A, new_A) and torch.equal(old_B, new_B)):
            base = layer.get_base_layer().weight
            moved = layer.scaling["default"] * (old_B @ old_A - new_B @ new_A)
            base += (moved if base.shape == moved.shape else moved.T).to(base)
        old_A.copy_(new_A)
        old_B.copy_(new_B)
