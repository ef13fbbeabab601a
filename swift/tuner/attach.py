"""Adapters on a model and off it again: attach, save, load, merge. Knows no names of models, no data, no training.

LoRA is spelled out here; what else PEFT has comes with a configuration of PEFT's own, what it has not from `added`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from peft import (
    LoftQConfig,
    LoraConfig,
    LoraGAConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    initialize_lora_eva_weights,
    set_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from swift.tuner import added, loraga, resume
from swift.tuner.targets import Names, lora_targets, no_names, whole_modules

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SAVED = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""As safetensors calls them."""
WEIGHTS = "adapter_model.safetensors"
INITS = ("gaussian", "orthogonal", "pissa", "olora", "loftq", "eva", "lora_ga")
MERGEABLE = (
    *("LORA", "ADALORA", "IA3", "VERA", "BOFT", "OFT", "FOURIERFT", "LOHA", "LOKR", "HRA", "MISS", "RANDLORA", "C3A"),
    *("SHIRA", "ROAD", "LN_TUNING", "TRAINABLE_TOKENS"),
)
"""What adapter_config.json calls the kinds whose change of the weights is a weight."""
UNMERGEABLE = {
    "PROMPT_TUNING": "its virtual tokens are no weights of the model",
    "P_TUNING": "its virtual tokens are no weights of the model",
    "PREFIX_TUNING": "its keys and values are no weights of the model",
    "ADAPTER": "its bottlenecks are not linear",
    "REFT": "it edits hidden states, which the blocks' residual stream carries past every weight",
    "BYPASS": "it is a network beside the model",
    "SKIP": "its bottlenecks are not linear",
}


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """How LoRA is laid on. `default_targets` is what the word DEFAULT means for this model, where that is known.
    Modules whose names are `frozen` get none.

    `dtype` AUTO keeps LoRA's matrices in fp32 whatever the model is in: an optimiser step at usual learning rates is
    smaller than what bf16 can add to a weight, and fp16 needs fp32 weights for loss scaling.
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


def attach(
    model: PreTrainedModel, options: LoraOptions | None, batches: Iterable[Mapping[str, Any]] = ()
) -> PreTrainedModel | PeftModel:
    """The model with new adapters, which alone can be trained; with `options` None the model, all of it trainable.

    `batches` are inputs of the model with `labels`, which start values `eva` and `lora_ga` are drawn from.
    """
    if options is None:
        if model.dtype == torch.float16:
            raise ValueError("a whole model cannot be trained in fp16: its steps are lost; take --dtype bf16 or fp32")
        return model.requires_grad_(True)
    init = check_start(options.init, options.dora, _is_quantised(model), model.device.type)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=_share(options.dropout),
        target_modules=lora_targets(model, options.targets, options.default_targets, options.frozen),
        modules_to_save=whole_modules(model, options.modules_to_save) or None,
        bias=options.bias,
        use_rslora=options.rslora,
        use_dora=options.dora,
        **init,
    )
    dtype = torch.float32 if options.dtype == "AUTO" else DTYPES.get(options.dtype)
    if dtype is None:
        raise ValueError(f"unknown LoRA dtype {options.dtype!r}: AUTO, {', '.join(DTYPES)}")
    if options.init == "lora_ga":
        loraga.estimate(model, config, batches)
    try:
        tuned = wrap(model, config, dtype)
    except ValueError as error:
        if "ParamWrapper" not in str(error) or not config.lora_dropout:  # experts' weights are in no layer of their own
            raise
        raise ValueError(
            f"LoRA on the weights of experts knows no dropout: add --lora_dropout_p 0 to "
            f"--lora_target_modules {' '.join(options.targets)}, or name targets beside the experts"
        ) from None
    if options.init == "lora_ga":
        loraga.keep_start(tuned)
    if options.init == "eva":
        _start_from_rows(tuned, config, batches)
    return tuned


def _start_from_rows(tuned: PeftModel, config: LoraConfig, batches: Iterable[Mapping[str, Any]]) -> None:
    """EVA (arXiv 2410.07170). PEFT skips batches that are too small, and would wait for a larger one for ever."""
    needed = round(config.r * config.eva_config.rho)
    sizes, enough = [0], []
    for batch in batches:
        sizes.append(int((batch["labels"] != config.eva_config.label_mask_value).sum()))
        if sizes[-1] >= needed:
            enough.append(batch)
    if not enough:
        raise ValueError(
            f"start values 'eva' need batches of {needed} trained tokens, and none has more than {max(sizes)}: "
            "raise --batch_size, or lower --lora_rank"
        )
    initialize_lora_eva_weights(tuned, enough, show_progress_bar=False)


def wrap(model: PreTrainedModel, config: PeftConfig, dtype: torch.dtype = torch.float32) -> PeftModel:
    """The model with the adapters that PEFT makes of `config`, in `dtype` where they do not stand for base weights."""
    with _without_warnings():
        tuned = get_peft_model(model, config, autocast_adapter_dtype=False)
    if config.peft_type != "LN_TUNING":  # copies of layers, which compute in the model's dtype
        _cast(tuned, dtype)
    return tuned


def trained_and_all(model: nn.Module) -> tuple[int, int]:
    """The number of parameters that are trained, and of all."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, trains in counts if trains), sum(count for count, _ in counts)


def save(model: PreTrainedModel | PeftModel, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """The adapter alone, in PEFT's format where PEFT made it, or a whole model that has none.

    `state` is what is trained of a PEFT model of which this process holds a shard.
    """
    if isinstance(model, PeftModel):
        if any(loraga.started(model)):
            loraga.save(model, folder, WEIGHTS, state)
        else:
            # "auto" would ask a hub for the base model; what is trained of embeddings is saved without it
            model.save_pretrained(folder, save_embedding_layers=False, state_dict=state)
        if resume.needs_state(model):
            resume.save_state(model, folder)
    elif added.is_added(model):
        added.save(model, folder)
    else:
        model.save_pretrained(folder)


def restore(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Puts a checkpoint's adapter into the one that is attached, to train on. ValueError where it does not fit."""
    if added.is_added(model):
        added.restore(model, folder)
    elif resume.needs_state(model):
        resume.restore_state(model, folder)
    else:
        try:
            # PEFT's load_adapter would turn bf16 adapters into fp32 ones
            set_peft_model_state_dict(model, load_file(folder / WEIGHTS))
        except RuntimeError as error:
            raise ValueError(f"{folder} is not of this model and these tuner flags: {error}") from error


def check(folder: Path) -> str:
    """The kind of the adapter in `folder`. Raises ValueError if it is not whole. Reads no weights."""
    config, weights = folder / "adapter_config.json", folder / WEIGHTS
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such checkpoint folder")
    for file in (config, weights):
        if not file.is_file():
            raise ValueError(f"{folder}: not a whole adapter checkpoint: {file.name} is missing")
    try:
        kind = str(json.loads(config.read_text(encoding="utf-8"))["peft_type"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{config}: half-written or damaged: no JSON with a peft_type") from None
    if kind not in (*MERGEABLE, *UNMERGEABLE):
        raise ValueError(f"{config}: the adapter is of type {kind}, which cannot be loaded")
    _saved(weights)
    return kind


def load(model: PreTrainedModel, folder: Path, trainable: bool = False) -> PreTrainedModel | PeftModel:
    """The model with the adapter of `folder`, in the dtypes it was saved in. ValueError where it does not fit."""
    if check(folder) in added.KINDS:
        loaded = added.load(model, folder, trainable)
        return loaded if trainable else loaded.eval()
    saved = _saved(folder / WEIGHTS)
    try:
        with _without_warnings():
            tuned = PeftModel.from_pretrained(model, folder, is_trainable=trainable, torch_device=str(model.device))
    except (RuntimeError, ValueError) as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{folder}: the adapter does not fit this model: {' '.join(reason[:2])}") from error
    mark = _mark(tuned)
    expected = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    wrong = sorted(expected - set(saved)) or sorted(name for name in set(saved) - expected if mark in name)
    if wrong:
        raise ValueError(f"{folder}: the adapter does not fit this model: {len(wrong)} weights, {wrong[0]} for one")
    found = (SAVED[dtype] for name, dtype in saved.items() if mark in name and dtype in SAVED)
    _cast(tuned, next(found, torch.float32))
    return tuned if trainable else tuned.eval()


def why_unmergeable(model: PreTrainedModel | PeftModel) -> str:
    """Why the adapter on `model` has to stay beside its weights; empty if it can be merged into them."""
    if isinstance(model, PeftModel):
        kind = str(model.active_peft_config.peft_type.value)
        if _is_quantised(model.get_base_model()):
            return "the model is quantised, and rounding would change what was learned"
    else:
        kind = str(model.get_submodule("added").options["peft_type"])
    return UNMERGEABLE.get(kind, "")


def _is_quantised(model: PreTrainedModel) -> bool:
    """transformers sets `hf_quantizer` on models it quantised; HQQ's layers are known by their class."""
    by_hqq = any(type(module).__name__ == "HQQLinear" for module in model.modules())
    return by_hqq or getattr(model, "hf_quantizer", None) is not None


def is_prompted(model: PreTrainedModel | PeftModel) -> bool:
    """Whether what was trained is virtual tokens, which `prompts.Prompted` puts before a prompt."""
    return isinstance(model, PeftModel) and bool(model.active_peft_config.is_prompt_learning)


def merge(model: PeftModel) -> PreTrainedModel:
    """The plain model with the adapter added to its weights. The model given is used up.

    Tied embeddings that the adapter changes on one side only are untied: each side keeps what it computed. Raises
    ValueError for an adapter that is no change of weights.
    """
    if reason := why_unmergeable(model):
        raise ValueError(f"this adapter cannot be merged: {reason}")
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


def _mark(model: PeftModel) -> str:
    """What the names of the adapter's own tensors hold."""
    config = model.active_peft_config
    if config.is_prompt_learning:
        return "prompt_"
    # VeRA's shared matrices compute with its vectors, so they go with them
    return "vera_" if config.peft_type == "VERA" else str(PEFT_TYPE_TO_PREFIX_MAPPING[config.peft_type])


def _cast(model: PeftModel, dtype: torch.dtype) -> None:
    mark = _mark(model)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if mark in name and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _saved(weights: Path) -> dict[str, str]:
    """The dtype (F32, BF16, F16) of each tensor in a file."""
    try:
        with safe_open(weights, framework="pt") as tensors:
            return {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{weights}: half-written or damaged ({error})") from None


def check_start(word: str, dora: bool, quantised: bool, device: str) -> dict[str, Any]:
    """LoraConfig's arguments for start values; ValueError for ones that there are not, or not for such a model."""
    found = _init(word)
    if word == "loftq" and device == "cpu":
        raise ValueError("start values 'loftq' are computed on a GPU: take pissa or true on a CPU")
    if word == "pissa" and quantised:
        raise ValueError("start values 'pissa' are computed from whole weights: take true or olora beside 4 or 8 bits")
    if word == "lora_ga" and (dora or quantised):
        raise ValueError("start values 'lora_ga' need whole weights and no --use_dora")
    return found


def _init(word: str) -> dict[str, Any]:
    """LoraConfig's arguments for start values."""
    known = {"true": True, "false": False}
    if word.lower() in known:
        return {"init_lora_weights": known[word.lower()]}
    if word.startswith("pissa_niter"):
        raise ValueError(f"start values {word!r} are random, so a saved adapter could not find them again: take pissa")
    if word == "loftq" and find_spec("scipy") is None:
        raise ValueError("start values 'loftq' need the package scipy: pip install -e '.[quant]'")
    if word not in INITS:
        raise ValueError(f"unknown start values {word!r}: true, false, {', '.join(INITS)}")
    more = {"loftq": {"loftq_config": LoftQConfig(loftq_bits=4)}, "lora_ga": {"lora_ga_config": LoraGAConfig()}}
    return {"init_lora_weights": word, **more.get(word, {})}


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
