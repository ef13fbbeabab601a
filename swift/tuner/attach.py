"""LoRA on a model and off it again: attach, save, load, merge. Knows no names of models, no data and no training."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from swift.tuner.targets import lora_targets, whole_modules

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SAVED = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""As safetensors calls them."""
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """How LoRA is laid on. `default_targets` is what the word DEFAULT means for this model, where that is known.

    `dtype` AUTO keeps LoRA's matrices in fp32 whatever the model is in: an optimiser step at usual learning rates is
    smaller than what bf16 can add to a weight, and fp16 needs fp32 weights for loss scaling.
    """

    targets: tuple[str, ...] = ("DEFAULT",)
    default_targets: tuple[str, ...] = ()
    rank: int = 8
    alpha: int = 32
    dropout: float = 0.05
    modules_to_save: tuple[str, ...] = ()
    bias: Literal["none", "all"] = "none"
    dtype: str = "AUTO"
    rslora: bool = False
    dora: bool = False
    init: str = "true"


def attach(model: PreTrainedModel, options: LoraOptions | None) -> PreTrainedModel | PeftModel:
    """The model with new adapters, which alone can be trained; with `options` None the model, all of it trainable."""
    if options is None:
        if model.dtype == torch.float16:
            raise ValueError("a whole model cannot be trained in fp16: its steps are lost; take --dtype bf16 or fp32")
        return model.requires_grad_(True)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=_share(options.dropout),
        target_modules=lora_targets(model, options.targets, options.default_targets),
        modules_to_save=whole_modules(model, options.modules_to_save) or None,
        bias=options.bias,
        use_rslora=options.rslora,
        use_dora=options.dora,
        init_lora_weights=_init(options.init),
    )
    dtype = torch.float32 if options.dtype == "AUTO" else DTYPES.get(options.dtype)
    if dtype is None:
        raise ValueError(f"unknown LoRA dtype {options.dtype!r}: AUTO, {', '.join(DTYPES)}")
    with _without_warnings():
        tuned = get_peft_model(model, config, autocast_adapter_dtype=False)
    _cast(tuned, dtype)
    return tuned


def trained_and_all(model: nn.Module) -> tuple[int, int]:
    """The number of parameters that are trained, and of all."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, trains in counts if trains), sum(count for count, _ in counts)


def save(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """The adapter alone in PEFT's format, or a whole model that has none."""
    if isinstance(model, PeftModel):
        # "auto" would ask a hub for the base model; what is trained of embeddings is saved without it
        model.save_pretrained(folder, save_embedding_layers=False)
    else:
        model.save_pretrained(folder)


def check(folder: Path) -> None:
    """Raises ValueError if the adapter in `folder` is not whole. Reads no weights."""
    config, weights = folder / "adapter_config.json", folder / WEIGHTS
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such checkpoint folder")
    for file in (config, weights):
        if not file.is_file():
            raise ValueError(f"{folder}: not a whole LoRA checkpoint: {file.name} is missing")
    try:
        kind = json.loads(config.read_text(encoding="utf-8"))["peft_type"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{config}: half-written or damaged: no JSON with a peft_type") from None
    if kind != "LORA":
        raise ValueError(f"{config}: the adapter is of type {kind}; LORA is what can be loaded")
    _saved(weights)


def load(model: PreTrainedModel, folder: Path, trainable: bool = False) -> PeftModel:
    """The model with the adapter of `folder`, in the dtypes it was saved in. ValueError where it does not fit."""
    check(folder)
    saved = _saved(folder / WEIGHTS)
    try:
        with _without_warnings():
            tuned = PeftModel.from_pretrained(model, folder, is_trainable=trainable, torch_device=str(model.device))
    except (RuntimeError, ValueError) as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{folder}: the adapter does not fit this model: {' '.join(reason[:2])}") from error
    expected = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    wrong = sorted(expected - set(saved)) or sorted(name for name in set(saved) - expected if "lora_" in name)
    if wrong:
        raise ValueError(f"{folder}: the adapter does not fit this model: {len(wrong)} weights, {wrong[0]} for one")
    _cast(tuned, next((SAVED[dtype] for name, dtype in saved.items() if "lora_" in name), torch.float32))
    return tuned if trainable else tuned.eval()


def merge(model: PeftModel) -> PreTrainedModel:
    """The plain model with the adapter added to its weights. The model given is used up.

    Tied embeddings that the adapter changes on one side only are untied: each side keeps what it computed.
    """
    base: PreTrainedModel = model.get_base_model()
    if base.config.tie_word_embeddings and _touches_embeddings(model):
        _untie(base)
    with _without_warnings():
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return merged.requires_grad_(False)


def _touches_embeddings(model: PeftModel) -> bool:
    base = model.get_base_model()
    both = (base.get_input_embeddings(), base.get_output_embeddings())
    return any(isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)) for module in both)


def _untie(base: PreTrainedModel) -> None:
    """Gives the output head weights of its own, equal to those it shared."""
    head = base.get_output_embeddings()
    if isinstance(head, BaseTunerLayer):
        head = head.get_base_layer()
    elif isinstance(head, ModulesToSaveWrapper):
        head = head.original_module
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = False
    base.tie_weights()


def _cast(model: PeftModel, dtype: torch.dtype) -> None:
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)


def _saved(weights: Path) -> dict[str, str]:
    """The dtype (F32, BF16, F16) of each tensor in a file."""
    try:
        with safe_open(weights, framework="pt") as tensors:
            return {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{weights}: half-written or damaged ({error})") from None


def _init(word: str) -> bool | str:
    known = {"true": True, "false": False}
    if word.lower() in known:
        return known[word.lower()]
    if word.startswith("pissa_niter"):
        raise ValueError(f"start values {word!r} are random, so a saved adapter could not find them again: take pissa")
    if word not in ("gaussian", "pissa", "olora"):
        raise ValueError(f"unknown start values {word!r}: true, false, gaussian, pissa, olora")
    return word


def _share(dropout: float) -> float:
    if not 0 <= dropout < 1:
        raise ValueError(f"LoRA dropout {dropout} is not in 0 <= p < 1")
    return dropout


@contextmanager
def _without_warnings() -> Iterator[None]:
    """PEFT warns of adapters on tied embeddings, which `merge` unties, and of missing weights, an error in `load`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        warnings.filterwarnings("ignore", message="Found missing adapter keys.*")
        yield
