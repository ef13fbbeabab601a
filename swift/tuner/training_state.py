"""What training needs to go on from a checkpoint and PEFT's own file leaves out. Knows no trainer.

AdaLoRA's file lacks the ranks taken away for now, and how much each mattered; p-tuning's lacks the network that makes
the virtual tokens, and has the tokens only; LoRA-GA's has the difference to its start, and not the start.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from swift.tuner import loraga

STATE = "tuner_state.safetensors"
KINDS = ("ADALORA", "P_TUNING")
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What AdaLoRA's allocator in PEFT calls its sums over the steps."""


def needs_state(model: Any) -> bool:
    """Whether the adapter's own file is not enough."""
    if not isinstance(model, PeftModel):
        return False
    return model.active_peft_config.peft_type in KINDS or any(loraga.started(model))


def save_state(model: PeftModel, folder: Path) -> None:
    """Writes the state beside the adapter."""
    tensors = {f"weight|{name}": each.detach() for name, each in model.named_parameters() if each.requires_grad}
    for average in AVERAGES if model.active_peft_config.peft_type == "ADALORA" else ():
        tensors |= {f"{average}|{name}": each for name, each in _averages(model, average).items()}
    for name, layer in loraga.started(model):
        tensors |= {f"start|{name}.{part}": layer.get_buffer(part) for part in (loraga.A, loraga.B)}
    save_file({name: each.contiguous().cpu() for name, each in tensors.items()}, folder / STATE)


def restore_state(model: PeftModel, folder: Path) -> None:
    """Puts the state back. ValueError where it is missing or does not fit."""
    if not (folder / STATE).is_file():
        raise ValueError(f"{folder}: {STATE} is missing, without which training cannot go on")
    saved: dict[str, dict[str, torch.Tensor]] = {part: {} for part in ("weight", "start", *AVERAGES)}
    for key, tensor in load_file(folder / STATE).items():
        part, _, name = key.partition("|")
        saved[part][name] = tensor.to(torch.device(model.device))
    try:
        model.load_state_dict(saved["weight"], strict=False)
    except RuntimeError as error:
        raise ValueError(f"{folder} is not of this model and these tuner flags: {error}") from error
    loraga.move_start(model, saved["start"])
    if model.active_peft_config.peft_type == "ADALORA":
        for average in AVERAGES:
            _averages(model, average).update(saved[average])
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        model.active_peft_config.rank_pattern = config["rank_pattern"]


def _averages(model: Any, name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = vars(model.base_model.rankallocator)[name]
    return found
