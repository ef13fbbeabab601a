"""Adapters on disk: save, restore, check, load. Knows no flag and no training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from swift.system.nearest import nearest_path
from swift.tuner import extra_modules, loraga, training_state
from swift.tuner.merge import MERGEABLE, UNMERGEABLE
from swift.tuner.peft_models import CONFIG, WEIGHTS, adapter_mark, cast_adapter, without_warnings

SAVED = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""safetensors' names of dtypes."""


def save(model: PreTrainedModel | PeftModel, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Writes the adapter, in PEFT's format if PEFT made it, or the full model if there is no adapter.

    `state`: the trained tensors of a PEFT model, where this process holds only a shard of it.
    """
    if isinstance(model, PeftModel):
        if any(loraga.layers_with_start(model)):
            loraga.save(model, folder, WEIGHTS, state)
        else:
            # "auto" would look the base model up on a hub; trained embeddings are saved anyway
            model.save_pretrained(folder, save_embedding_layers=False, state_dict=state)
        if training_state.needs_state(model):
            training_state.save_state(model, folder)
    elif extra_modules.is_added(model):
        extra_modules.save(model, folder)
    else:
        model.save_pretrained(folder)


def restore(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Loads a checkpoint's adapter into the attached one, to resume training. ValueError if it does not fit."""
    if extra_modules.is_added(model):
        extra_modules.restore(model, folder)
    elif training_state.needs_state(model):
        training_state.restore_state(model, folder)
    else:
        try:
            # PEFT's load_adapter would convert bf16 adapters to fp32
            set_peft_model_state_dict(model, load_file(folder / WEIGHTS))
        except RuntimeError as error:
            raise ValueError(f"{folder} does not fit this model and these tuner flags: {error}") from error


def check(folder: Path) -> str:
    """The PEFT type of the adapter in `folder`. Raises ValueError if a file is missing or damaged. Reads no weights."""
    config, weights = folder / CONFIG, folder / WEIGHTS
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder{nearest_path(folder)}")
    for file in (config, weights):
        if not file.is_file():
            raise ValueError(f"{folder}: incomplete adapter checkpoint: {file.name} is missing")
    try:
        kind = str(json.loads(config.read_text(encoding="utf-8"))["peft_type"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{config}: half-written or damaged: no JSON with a peft_type") from None
    if kind not in (*MERGEABLE, *UNMERGEABLE):
        raise ValueError(f"{config}: the adapter is of type {kind}, which cannot be loaded")
    _saved(weights)
    return kind


def load(model: PreTrainedModel, folder: Path, trainable: bool = False) -> PreTrainedModel | PeftModel:
    """The model with the adapter of `folder`, in the dtype it was saved in. Raises ValueError if it does not fit."""
    if check(folder) in extra_modules.KINDS:
        loaded = extra_modules.load(model, folder, trainable)
        return loaded if trainable else loaded.eval()
    saved = _saved(folder / WEIGHTS)
    try:
        with without_warnings():
            tuned = PeftModel.from_pretrained(model, folder, is_trainable=trainable, torch_device=str(model.device))
    except (RuntimeError, ValueError) as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{folder}: the adapter does not fit this model: {' '.join(reason[:2])}") from error
    mark = adapter_mark(tuned)
    expected = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    wrong = sorted(expected - set(saved)) or sorted(name for name in set(saved) - expected if mark in name)
    if wrong:
        raise ValueError(f"{folder}: the adapter does not fit this model: {len(wrong)} weights, such as {wrong[0]}")
    found = (SAVED[dtype] for name, dtype in saved.items() if mark in name and dtype in SAVED)
    cast_adapter(tuned, next(found, torch.float32))
    return tuned if trainable else tuned.eval()


def _saved(weights: Path) -> dict[str, str]:
    """Tensor name -> dtype (F32, BF16, F16) of a file. Raises ValueError if it is damaged."""
    try:
        with safe_open(weights, framework="pt") as tensors:
            return {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{weights}: half-written or damaged ({error})") from None
