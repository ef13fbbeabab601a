"""Checks flags before any row is read or any model is downloaded: names, packages, files, folders, ranges.

Flags that contradict each other are checked before, by their own modules; what needs the model's folder after.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from swift import flags
from swift.assembly.training_config import TrainingConfig
from swift.flag_groups import TemplateFlags
from swift.system.nearest import closest, nearest, nearest_path

if TYPE_CHECKING:
    import torch

    from swift.model.catalog import ModelSpec

OPTIMIZERS = (
    ("galore", "galore_torch"),
    ("torch_4bit", "torchao"),
    ("torch_8bit", "torchao"),
    ("8bit", "bitsandbytes"),
    ("bnb", "bitsandbytes"),
    ("paged", "bitsandbytes"),
    ("ademamix", "bitsandbytes"),
    ("lion", "bitsandbytes"),
    ("lomo", "lomo_optim"),
    ("grokadamw", "grokadamw"),
    ("schedule_free", "schedulefree"),
    ("apollo", "apollo_torch"),
    ("stable_adamw", "optimi"),
    ("apex", "apex"),
    ("anyprecision", "torchdistx"),
    ("xla", "torch_xla"),
    ("npu", "torch_npu"),
)
"""Part of an optimizer's name in transformers -> its package; the first match counts."""


RANGES: Mapping[str, tuple[Callable[[float], bool], tuple[str, ...]]] = {
    "1 or more": (
        lambda value: value >= 1,
        (
            *("lora_rank", "lora_alpha", "batch_size", "eval_batch_size", "gradient_accumulation_steps"),
            *("eval_steps", "save_steps", "logging_steps", "preprocess_num_proc"),
        ),
    ),
    "0 or more": (
        lambda value: 0 <= value < math.inf,
        (
            "learning_rate",
            "weight_decay",
            "max_grad_norm",
            "warmup_steps",
            "dataloader_num_workers",
            "neftune_noise_alpha",
        ),
    ),
    "1 or more, or -1": (lambda value: value >= 1 or value == -1, ("max_steps", "save_total_limit")),
    "from 0 to 4294967295": (lambda value: 0 <= value < 1 << 32, ("seed",)),
    "more than 0": (
        lambda value: value > 0,
        ("lora_lr_ratio", "adam_epsilon", "max_minutes", "num_train_epochs"),
    ),
    "0 or more and below 1": (
        lambda value: 0 <= value < 1,
        ("lora_dropout_p", "adam_beta1", "adam_beta2", "warmup_ratio", "dataset_test_ratio"),
    ),
}
"""Allowed values in words -> (test, flags)."""


def check(cfg: TrainingConfig, device: torch.device, engine: str = "") -> None:
    """Raises ValueError for a flag that would fail later. `engine`: fsdp, deepspeed or empty. Reads no row or model."""
    from swift.assembly import pipeline, tuner_setup
    from swift.data.mix import check as check_plan
    from swift.model import devices, quantise
    from swift.native import processor
    from swift.tuner import lora
    from swift.tuner.registry import TUNERS

    train, bits = cfg.train, cfg.model.quant.bits
    processor.forced()
    _ranges(cfg)
    trackers(train.logging.report_to)
    tuner_setup.optimizer(cfg)
    tuner_setup.kernels(train, device.type)
    if not cfg.tuner.galore.use_galore:
        optimizer(train.optimizer.optim)
    template_names(cfg.template)
    if cfg.model.dtype != "AUTO":
        devices.pick_dtype(cfg.model.dtype, device)
    if TUNERS[train.sft_type].full_model and cfg.model.dtype == "fp16":
        raise ValueError(f"--sft_type {train.sft_type} cannot be trained in fp16, which loses small updates: use bf16")
    if how := tuner_setup.quantisation(cfg.model, engine):
        quantise.check(how)
    if train.sft_type == "lora":
        lora.check_init(cfg.lora.init_lora_weights, cfg.lora.use_dora, bool(bits), device.type)
    check_plan(pipeline.plan(cfg))
    requested = train.saving.resume_from_checkpoint
    if requested not in (None, "newest") and not Path(str(requested)).expanduser().is_dir():
        raise ValueError(f"--resume_from_checkpoint {requested}: no such folder{nearest_path(str(requested))}")
    writable(train.saving.output_dir, "--output_dir")
    if train.logging.logging_dir:
        writable(train.logging.logging_dir, "--logging_dir")


def check_model(cfg: TrainingConfig, path: Path, spec: ModelSpec | None) -> None:
    """Raises ValueError for module names that the model lacks, and for a disk too small for a checkpoint."""
    from swift.tuner.registry import TUNERS

    if TUNERS[cfg.train.sft_type].full_model:
        _check_disk_space(path, cfg.train.saving.output_dir)
    named = [word for word in cfg.lora.lora_target_modules if word.upper() not in ("DEFAULT", "ALL", "EMBEDDING")]
    if cfg.train.sft_type == "lora" and named:
        _modules(cfg, path, spec)


def trackers(names: Sequence[str]) -> None:
    """Raises ValueError for a tracker of --report_to that is not installed."""
    from transformers.integrations import get_available_reporting_integrations

    for name in names:
        known = ["none", *sorted({"tensorboard", *get_available_reporting_integrations()})]
        if name not in known:
            hint = nearest(name, known)
            raise ValueError(f"--report_to {name} is not installed: choose from {', '.join(known)}{hint}")


def optimizer(name: str) -> None:
    """Raises ValueError for an optimizer that transformers lacks, or whose package is not installed."""
    from transformers.training_args import OptimizerNames

    known = [each.value for each in OptimizerNames]
    if name not in known:
        near = closest(name, known, n=1, cutoff=0.0)[0]
        raise ValueError(f"--optim {name}: transformers has no such optimizer: did you mean {near}?")
    if name.startswith(("galore", "apollo")):
        raise ValueError(f"--optim {name} needs target modules: use --use_galore true")
    package = next((package for part, package in OPTIMIZERS if part in name), "")
    if package and find_spec(package) is None:
        raise ValueError(f"--optim {name} needs the package {package.replace('_', '-')}, which is not installed")


def template_names(template: TemplateFlags) -> None:
    """Raises ValueError for an unknown template, tool-call format or loss scale."""
    from swift import agent
    from swift.template import template as named
    from swift.template.loss_scale import loss_scale

    if template.template_type != "AUTO":
        named(template.template_type)
    if template.agent_template != "AUTO":
        agent.tool_format(template.agent_template)
    loss_scale(template.scale)


def writable(folder: str | Path, flag: str) -> None:
    """Raises ValueError for a folder that cannot be created or written to."""
    path = Path(folder).expanduser().absolute()
    above = next(each for each in (path, *path.parents) if each.exists())
    if not above.is_dir():
        raise ValueError(f"{flag} {folder}: {above} is a file, not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{flag} {folder}: this account may not write to {above}")


def _ranges(cfg: TrainingConfig) -> None:
    groups = (cfg.lora, cfg.train, cfg.data, cfg.loader)
    values = {name: value for group in groups for name, value in flags.values(group).items() if value is not None}
    if cfg.train.max_steps > 0:
        values.pop("num_train_epochs", None)  # not used
    for allowed, (is_allowed, names) in RANGES.items():
        for name in names:
            if name in values and not is_allowed(values[name]):
                raise ValueError(f"--{name} {values[name]}: must be {allowed}")


def _check_disk_space(path: Path, output_dir: str) -> None:
    """Raises ValueError where the disk is too small for one checkpoint of the full model."""
    folder = Path(output_dir).expanduser().absolute()
    above = next(each for each in (folder, *folder.parents) if each.exists())
    files = [path] if path.is_file() else [file for kind in ("*.safetensors", "*.bin") for file in path.glob(kind)]
    needed, free = sum(file.stat().st_size for file in files), shutil.disk_usage(above).free
    if free < needed:
        raise ValueError(
            f"--output_dir {output_dir}: {free / 2**30:.1f} GiB are free, and a checkpoint of the full model "
            f"takes about {needed / 2**30:.1f} GiB"
        )


def _modules(cfg: TrainingConfig, path: Path, spec: ModelSpec | None) -> None:
    """Raises ValueError for target modules that the model lacks, by its configuration alone."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    from swift.model import load
    from swift.model.config_files import json_object
    from swift.tuner.targets import lora_targets

    plain = (path / "config.json").is_file() and not (spec and spec.model)
    if not plain or json_object(path / "config.json").get("model_type") not in CONFIG_MAPPING_NAMES:
        return  # modules of other code are known only after loading
    words = load.targets(path, cfg.lora.lora_target_modules, trust_remote_code=cfg.model.trust_remote_code, spec=spec)
    lora_targets(load.shape_of(path), words, spec.lora_targets if spec else ())
