"""Flags -> the tuner on a model, dtype, quantisation, kernels, optimizer and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any, NamedTuple

from swift import flags
from swift.assembly.training_config import TrainingConfig
from swift.flag_groups import LoraFlags, ModelFlags, TrainFlags

if TYPE_CHECKING:
    import torch

    from swift.model.quantise import Quantisation
    from swift.train.trainer import Store

GALORE_TARGETS = ("attn", "mlp")
"""Parts of the names of the modules that GaLore's paper projects."""


class Loop(NamedTuple):
    """What a tuner adds to the training loop: see SftTrainer."""

    callbacks: list[Any]
    store: Store | None
    penalty: Callable[[Any], Any] | None


def check(cfg: TrainingConfig) -> None:
    """Raises ValueError for flags that contradict each other or that the tuner would ignore. Loads nothing."""
    from swift.tuner import apply, registry

    tuner, name = cfg.tuner, cfg.train.sft_type
    if cfg.train.kernels.tuner_backend == "unsloth":
        raise ValueError("--tuner_backend unsloth is not supported yet: use swift")
    default: Any = type(cfg)()
    changed = _changed(cfg.lora, default.lora) | _changed(tuner, default.tuner)
    apply.refuse_ignored(name, changed)
    if cfg.lora.init_adapter:
        _check_start(cfg.lora, changed)
    for switch, prefix, on in (
        ("use_galore true", "galore_", tuner.galore.use_galore),
        ("lisa_activated_layers", "lisa_step", tuner.trainable.lisa_activated_layers),
    ):
        idle = sorted(flag for flag in changed if flag.startswith(prefix))
        if idle and not on:
            raise ValueError(f"--{idle[0]} does nothing without --{switch}")
    if tuner.galore.use_galore and tuner.trainable.lisa_activated_layers:
        raise ValueError("--use_galore and --lisa_activated_layers exclude each other")
    missing = [package for package in ("galore_torch", "bitsandbytes") if find_spec(package) is None]
    if tuner.galore.use_galore and missing:
        raise ValueError(f"--use_galore needs the package {missing[0]}: pip install 'swift-agents[galore]'")
    if cfg.train.kernels.gradient_checkpointing and not registry.TUNERS[name].recomputes:
        raise ValueError(f"--gradient_checkpointing true does not work with --sft_type {name}: leave it out")
    bits = cfg.model.quant.bits
    if bits and not registry.TUNERS[name].quantised:
        raise ValueError(
            f"--sft_type {name} needs unquantised weights: leave --quantization_bit {bits} out, or use lora"
        )
    silent = _changed(cfg.model.quant, default.model.quant) - {"quantization_bit"}
    if silent and not bits:
        raise ValueError(f"--{min(silent)} does nothing without --quantization_bit 4 or 8")


def _check_start(lora: LoraFlags, changed: Collection[str]) -> None:
    """Raises ValueError for an adapter that cannot be trained further, and for flags that its own settings replace."""
    from swift.tuner import adapter_files

    own = {item.name for item in flags.walk(LoraFlags)} - {"init_adapter", "lora_dtype", "lora_lr_ratio"}
    if idle := sorted(own.intersection(changed)):
        raise ValueError(f"--{idle[0]} has no effect with --init_adapter, whose own settings are kept: leave it out")
    folder = Path(str(lora.init_adapter)).expanduser()
    if (kind := adapter_files.check(folder)) != "LORA":
        raise ValueError(f"--init_adapter {folder}: an adapter of type {kind}, not LoRA")


def dtype(cfg: TrainingConfig, device: torch.device, path: Path) -> str:
    """The dtype of --dtype for the model of a folder. On a CPU AUTO is bf16 only if nothing but adapters, which are in
    fp32, is trained: bf16 would lose small updates of other weights."""
    from swift.model.devices import pick_dtype

    lora = cfg.train.sft_type == "lora" and not cfg.lora.lora_modules_to_save and cfg.lora.lora_bias_trainable == "none"
    return pick_dtype(cfg.model.dtype, device, path if lora and not cfg.model.quant.bits else None)


def quantisation(model: ModelFlags, engine: str = "") -> Quantisation | None:
    """The quantisation of the flags; None for none. `engine`: fsdp or deepspeed, if it shards the weights."""
    from swift.model.devices import DTYPES
    from swift.model.quantise import Quantisation

    quant = model.quant
    if not quant.bits:
        return None
    if quant.quant_method == "torch":
        raise ValueError("--quant_method torch is for inference (infer, deploy): to train use bnb, hqq or torchao")
    return Quantisation(
        bits=quant.bits,
        method=quant.quant_method,
        compute=DTYPES.get(quant.bnb_4bit_comp_dtype),
        kind=quant.bnb_4bit_quant_type,
        double=quant.bnb_4bit_use_double_quant,
        axis=int(quant.hqq_axis),
        sharded=bool(engine),
    )


def tune(
    model: Any,
    cfg: TrainingConfig,
    default_targets: tuple[str, ...],
    renamed: Callable[[tuple[str, ...]], tuple[str, ...]],
    batches: Iterable[Mapping[str, Any]],
) -> Any:
    """The model with the tuner of the flags. `renamed`: module names of the original checkpoint -> transformers'."""
    from swift.tuner import apply

    values = {**flags.values(cfg.lora), **flags.values(cfg.tuner)}
    values |= {flag: renamed(value) for flag, value in values.items() if flag.endswith("_modules")}
    values |= {flag: renamed(value) for flag, value in values.items() if flag.endswith("_modules_to_save")}
    return apply.tune(model, cfg.train.sft_type, values, renamed(default_targets), batches)


def attention(train: TrainFlags, device: str) -> str | None:
    """The attention implementation of the flags; None for AUTO. Raises ValueError if it is not available."""
    if train.kernels.use_flash_attn and train.kernels.attn_impl not in ("AUTO", "flash_attention_2"):
        raise ValueError(f"--use_flash_attn true contradicts --attn_impl {train.kernels.attn_impl}: give one of them")
    requested = "flash_attention_2" if train.kernels.use_flash_attn else train.kernels.attn_impl
    if requested.startswith("flash") and device != "cuda":
        raise ValueError(f"--attn_impl {requested} needs a GPU: leave it out, or use sdpa")
    if requested.startswith("flash") and not any(map(find_spec, ("flash_attn", "flash_attn_interface", "kernels"))):
        raise ValueError(f"--attn_impl {requested} needs the package flash-attn, which is not installed: use sdpa")
    return None if requested == "AUTO" else requested


def kernels(train: TrainFlags, device: str) -> dict[str, Any]:
    """Settings of TrainingArguments for faster kernels. Raises ValueError if they are not available."""
    if train.kernels.use_liger_kernel and (device != "cuda" or find_spec("liger_kernel") is None):
        raise ValueError("--use_liger_kernel true needs a GPU and the package liger-kernel: pip install liger-kernel")
    if train.kernels.torch_compile and device == "cpu" and not any(map(which, ("g++", "clang++", "c++"))):
        raise ValueError("--torch_compile true needs a C++ compiler on a CPU: install g++, or leave it out")
    # the trainer computes its own loss, from logits at trained positions
    liger = {"cross_entropy": False, "fused_linear_cross_entropy": False} if train.kernels.use_liger_kernel else None
    return {
        "torch_compile": train.kernels.torch_compile,
        "use_liger_kernel": train.kernels.use_liger_kernel,
        "liger_kernel_config": liger,
    }


def optimizer(cfg: TrainingConfig, one_pass: bool = False) -> dict[str, Any]:
    """Settings of TrainingArguments for the optimizer.

    `one_pass`: use fused AdamW, which takes a third of the time on a CPU.
    """
    tuner = cfg.tuner
    if not tuner.galore.use_galore:
        fused = one_pass and cfg.train.optimizer.optim == "adamw_torch"
        return {"optim": "adamw_torch_fused" if fused else cfg.train.optimizer.optim}
    if cfg.train.optimizer.optim != "adamw_torch":
        raise ValueError(f"--use_galore has its own optimizer: leave --optim {cfg.train.optimizer.optim} out")
    settings = {
        "rank": tuner.galore.galore_rank,
        "update_proj_gap": tuner.galore.galore_update_proj_gap,
        "scale": tuner.galore.galore_scale,
        "proj_type": tuner.galore.galore_proj_type,
    }
    return {
        "optim": "galore_adamw_layerwise" if tuner.galore.galore_optim_per_parameter else "galore_adamw",
        "optim_args": ",".join(f"{name}={value}" for name, value in settings.items()),
        "optim_target_modules": list(tuner.galore.galore_target_modules or GALORE_TARGETS),
    }


def loop(model: Any, cfg: TrainingConfig) -> Loop:
    """The callbacks, the store and the penalty of the tuner on `model`."""
    from swift.train.adalora import PruneRanks, orthogonality
    from swift.train.lisa import Lisa
    from swift.train.trainer import Store
    from swift.tuner import adapter_files, registry
    from swift.tuner.decoder_parts import blocks

    name, tuner = cfg.train.sft_type, cfg.tuner
    store = None if registry.TUNERS[name].full_model else Store(adapter_files.save, adapter_files.restore)
    if name == "adalora":
        return Loop([PruneRanks(model)], store, orthogonality)
    if tuner.trainable.lisa_activated_layers:
        lisa = Lisa(
            list(blocks(model)),
            tuner.trainable.lisa_activated_layers,
            tuner.trainable.lisa_step_interval,
            cfg.train.seed,
        )
        return Loop([lisa], store, None)
    return Loop([], store, None)


def _changed(group: Any, default: Any) -> set[str]:
    """The flags that differ from their defaults in this command."""
    usual = flags.to_dict(default)
    return {name for name, value in flags.to_dict(group).items() if value != usual[name]}
