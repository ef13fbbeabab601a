"""What a resumed training run needs and PEFT's own file does not hold. Knows no trainer.

AdaLoRA's file lacks the pruned ranks and their importance; p-tuning's holds the virtual tokens but not the network that
makes them; LoRA-GA's holds the difference to the initialisation but not the initialisation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from swift.tuner import loraga
from swift.tuner.peft_models import CONFIG

STATE = "tuner_state.safetensors"
KINDS = ("ADALORA", "P_TUNING")
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""Running averages of importance in PEFT's AdaLoRA allocator, by attribute."""


def needs_state(model: Any) -> bool:
    """Whether training cannot resume from the adapter's own file alone."""
    if not isinstance(model, PeftModel):
        return False
    return model.active_peft_config.peft_type in KINDS or any(loraga.layers_with_start(model))


def save_state(model: PeftModel, folder: Path) -> None:
    """Writes the state to the adapter's folder."""
    tensors = {f"weight|{name}": each.detach() for name, each in model.named_parameters() if each.requires_grad}
    for average in AVERAGES if model.active_peft_config.peft_type == "ADALORA" else ():
        tensors |= {f"{average}|{name}": each for name, each in _averages(model, average).items()}
    for name, layer in loraga.layers_with_start(model):
        tensors |= {f"start|{name}.{part}": layer.get_buffer(part) for part in (loraga.A, loraga.B)}
    save_file({name: each.contiguous().cpu() for name, each in tensors.items()}, folder / STATE)


def restore_state(model: PeftModel, folder: Path) -> None:
    """Loads the state. Raises ValueError if it is missing or does not fit."""
    if not (folder / STATE).is_file():
        raise ValueError(f"{folder}: {STATE} is missing, and training cannot resume without it")
    saved: dict[str, dict[str, torch.Tensor]] = {part: {} for part in ("weight", "start", *AVERAGES)}
    for key, tensor in load_file(folder / STATE).items():
        part, _, name = key.partition("|")
        saved[part][name] = tensor.to(torch.device(model.device))
    try:
        model.load_state_dict(saved["weight"], strict=False)
    except RuntimeError as error:
        raise ValueError(f"{folder} does not fit this model and these tuner flags: {error}") from error
    loraga.move_start(model, saved["start"])
    if model.active_peft_config.peft_type == "ADALORA":
        for average in AVERAGES:
            _averages(model, average).update(saved[average])
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        model.active_peft_config.rank_pattern = config["rank_pattern"]


def _averages(model: Any, name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = vars(model.base_model.rankallocator)[name]
    return found
