"""LoRA: its options, its initialisation, and attaching it to a model. Knows no model names, no data, no training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoftQConfig, LoraConfig, LoraGAConfig, PeftModel, initialize_lora_eva_weights
from transformers import PreTrainedModel

from swift.model.devices import DTYPES
from swift.system.nearest import nearest
from swift.tuner import adapter_files, loraga
from swift.tuner.peft_models import cast_adapter, is_quantised, wrap
from swift.tuner.targets import Names, lora_targets, modules_to_save, no_names

INITS = ("gaussian", "orthogonal", "pissa", "olora", "loftq", "eva", "lora_ga")


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """`default_targets`: the modules that DEFAULT means, where that is known. Modules that are `frozen` get no adapter.
    `start`: the folder of an adapter to train further; `dtype` alone of the other options then applies.

    `dtype` AUTO keeps lora_A and lora_B in fp32 whatever the model's dtype: at usual learning rates an optimizer step
    is smaller than bf16 can resolve, and fp16 needs fp32 weights for loss scaling.
    """

    targets: tuple[str, ...] = ("DEFAULT",)
    default_targets: tuple[str, ...] = ()
    frozen: Names = no_names
    rank: int = 8
    alpha: int = 32
    dropout: float = 0.05
    modules_to_save: tuple[str, ...] = ()
    bias: Literal["none", "all"] = "none"
    dtype: str = "AUTO"
    rslora: bool = False
    dora: bool = False
    init: str = "true"
    start: str | None = None


def attach(model: PreTrainedModel, options: LoraOptions, batches: Iterable[Mapping[str, Any]] = ()) -> PeftModel:
    """The model with new adapters, or those of `options.start`, which alone are trainable.

    `batches`: inputs of the model with `labels`, from which `eva` and `lora_ga` compute their initialisation. Raises
    ValueError for options that do not fit the model.
    """
    dtype = torch.float32 if options.dtype == "AUTO" else DTYPES.get(options.dtype)
    if dtype is None:
        raise ValueError(f"unknown LoRA dtype {options.dtype!r}: AUTO, {', '.join(DTYPES)}")
    if options.start:
        return _further(model, Path(options.start), dtype)
    init = check_init(options.init, options.dora, is_quantised(model), model.device.type)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=_probability(options.dropout),
        target_modules=lora_targets(model, options.targets, options.default_targets, options.frozen),
        modules_to_save=modules_to_save(model, options.modules_to_save) or None,
        bias=options.bias,
        use_rslora=options.rslora,
        use_dora=options.dora,
        **init,
    )
    if options.init == "lora_ga":
        loraga.estimate(model, config, batches)
    try:
        tuned = wrap(model, config, dtype)
    except ValueError as error:
        if "ParamWrapper" not in str(error) or not config.lora_dropout:  # the weights of experts are bare parameters
            raise
        raise ValueError(
            f"LoRA on the weights of experts has no dropout: add --lora_dropout_p 0 to "
            f"--lora_target_modules {' '.join(options.targets)}, or name targets other than the experts"
        ) from None
    if options.init == "lora_ga":
        loraga.keep_start(tuned)
    if options.init == "eva":
        _initialise_from_rows(tuned, config, batches)
    return tuned


def _further(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> PeftModel:
    """The model with the LoRA adapter of a folder. Raises ValueError for another kind, or one that does not fit."""
    if (kind := adapter_files.check(folder)) != "LORA":
        raise ValueError(f"{folder}: an adapter of type {kind}, not LoRA")
    tuned = adapter_files.load(model, folder, trainable=True)
    assert isinstance(tuned, PeftModel), type(tuned)
    cast_adapter(tuned, dtype)
    return tuned


def _initialise_from_rows(tuned: PeftModel, config: LoraConfig, batches: Iterable[Mapping[str, Any]]) -> None:
    """EVA (arXiv 2410.07170). PEFT skips batches that are too small and would wait for a larger one forever."""
    needed = round(config.r * config.eva_config.rho)
    sizes, enough = [0], []
    for batch in batches:
        sizes.append(int((batch["labels"] != config.eva_config.label_mask_value).sum()))
        if sizes[-1] >= needed:
            enough.append(batch)
    if not enough:
        raise ValueError(
            f"initialisation 'eva' needs batches of {needed} trained tokens, and none has more than {max(sizes)}: "
            "raise --batch_size, or lower --lora_rank"
        )
    initialize_lora_eva_weights(tuned, enough, show_progress_bar=False)


def check_init(word: str, dora: bool, quantised: bool, device: str) -> dict[str, Any]:
    """LoraConfig's arguments for an initialisation. Raises ValueError for one that is unknown or does not fit."""
    found = _init(word)
    if word == "loftq" and device == "cpu":
        raise ValueError("initialisation 'loftq' is computed on a GPU: use pissa or true on a CPU")
    if word == "pissa" and quantised:
        raise ValueError(
            "initialisation 'pissa' is computed from unquantised weights: use true or olora with 4 or 8 bits"
        )
    if word == "lora_ga" and (dora or quantised):
        raise ValueError("initialisation 'lora_ga' needs unquantised weights and no --use_dora")
    return found


def _init(word: str) -> dict[str, Any]:
    """LoraConfig's arguments for an initialisation by its name."""
    known = {"true": True, "false": False}
    if word.lower() in known:
        return {"init_lora_weights": known[word.lower()]}
    if word.startswith("pissa_niter"):
        raise ValueError(f"initialisation {word!r} is random, so a saved adapter could not be restored: use pissa")
    if word == "loftq" and find_spec("scipy") is None:
        raise ValueError("initialisation 'loftq' needs the package scipy: pip install 'swift-agents[quant]'")
    if word not in INITS:
        raise ValueError(f"unknown initialisation {word!r}: true, false, {', '.join(INITS)}{nearest(word, INITS)}")
    more = {"loftq": {"loftq_config": LoftQConfig(loftq_bits=4)}, "lora_ga": {"lora_ga_config": LoraGAConfig()}}
    return {"init_lora_weights": word, **more.get(word, {})}


def _probability(dropout: float) -> float:
    if not 0 <= dropout < 1:
        raise ValueError(f"LoRA dropout {dropout} is not in 0 <= p < 1")
    return dropout
