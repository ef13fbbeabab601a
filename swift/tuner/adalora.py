"""What AdaLoRA needs to go on from a checkpoint, which PEFT's own file leaves out: pruned ranks, their importance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

STATE = "adalora_state.safetensors"
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def save_state(model: PeftModel, folder: Path) -> None:
    """Writes the state beside the adapter; nothing for an adapter of another kind."""
    if not _is_adalora(model):
        return
    tensors = {f"weight|{name}": each.detach() for name, each in model.named_parameters() if "lora_" in name}
    for average in AVERAGES:
        tensors |= {f"{average}|{name}": each for name, each in _averages(model, average).items()}
    save_file({name: each.contiguous().cpu() for name, each in tensors.items()}, folder / STATE)


def restore_state(model: nn.Module, folder: Path) -> bool:
    """Puts the state back; False for an adapter of another kind. ValueError where it does not fit."""
    if not _is_adalora(model):
        return False
    if not (folder / STATE).is_file():
        raise ValueError(f"{folder}: {STATE} is missing, without which AdaLoRA cannot go on")
    saved: dict[str, dict[str, torch.Tensor]] = {part: {} for part in ("weight", *AVERAGES)}
    for name, tensor in load_file(folder / STATE).items():
        part, _, name = name.partition("|")
        saved[part][name] = tensor.to(model.device)
    try:
        model.load_state_dict(saved["weight"], strict=False)
    except RuntimeError as error:
        raise ValueError(f"{folder} is not of this model and these tuner flags: {error}") from error
    for average in AVERAGES:
        _averages(model, average).update(saved[average])
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    model.active_peft_config.rank_pattern = config["rank_pattern"]
    return True


def _is_adalora(model: Any) -> bool:
    return isinstance(model, PeftModel) and model.active_peft_config.peft_type == "ADALORA"


def _averages(model: Any, name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = vars(model.base_model.rankallocator)[name]
    return found
