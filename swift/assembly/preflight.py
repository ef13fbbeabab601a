"""What can be known of flags before a row is read or a model is fetched: names, packages, files, folders, ranges.

The commands' own checks of flags that contradict each other come before; what needs the model's folder comes after.
"""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from swift.flag_groups import DataFlags, LoraFlags, ModelFlags, TemplateFlags, TrainFlags, TunerFlags

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
"""Part of an optimizer's name in transformers -> the package that has it; the first that fits holds."""


class Trains(Protocol):
    """A command's config, as far as these checks go."""

    @property
    def model(self) -> ModelFlags: ...
    @property
    def template(self) -> TemplateFlags: ...
    @property
    def data(self) -> DataFlags: ...
    @property
    def lora(self) -> LoraFlags: ...
    @property
    def tuner(self) -> TunerFlags: ...
    @property
    def train(self) -> TrainFlags: ...


def check(cfg: Trains, device: torch.device, engine: str = "") -> None:
    """ValueError for a flag that could only fail later. `engine` shards the weights. Reads no row and no model."""
    from swift.assembly import tuner_setup
    from swift.data.mix import DataPlan
    from swift.data.mix import check as check_plan
    from swift.model import devices, quantise
    from swift.native import processor
    from swift.tuner import lora
    from swift.tuner.registry import TUNERS

    train, bits = cfg.train, cfg.model.quant.bits
    processor.forced()
    _ranges(cfg)
    trackers(train.report_to)
    tuner_setup.optimizer(cfg)
    if not cfg.tuner.use_galore:
        optimizer(train.optim)
    spoken(cfg.template)
    if cfg.model.dtype != "AUTO":
        devices.pick_dtype(cfg.model.dtype, device)
    if TUNERS[train.sft_type].whole and cfg.model.dtype == "fp16":
        raise ValueError(f"--sft_type {train.sft_type} cannot be trained in fp16, which loses its steps: take bf16")
    if how := tuner_setup.quantisation(cfg.model, engine):
        quantise.check(how)
    if train.sft_type == "lora":
        lora.check_start(cfg.lora.init_lora_weights, cfg.lora.use_dora, bool(bits), device.type)
    flags_of_data = {each.name: getattr(cfg.data, each.name) for each in fields(cfg.data)}
    check_plan(DataPlan(**flags_of_data, registry=cfg.model.registry))
    asked = train.resume_from_checkpoint
    if asked not in (None, "newest") and not Path(str(asked)).expanduser().is_dir():
        raise ValueError(f"--resume_from_checkpoint: there is no folder {asked}")
    writable(train.output_dir, "--output_dir")
    if train.logging_dir:
        writable(train.logging_dir, "--logging_dir")


def check_model(cfg: Trains, path: Path, spec: ModelSpec | None) -> None:
    """ValueError for what does not fit the model of a folder: module names, and room for its checkpoints."""
    from swift.tuner.registry import TUNERS

    if TUNERS[cfg.train.sft_type].whole:
        _room(path, cfg.train.output_dir)
    named = [word for word in cfg.lora.lora_target_modules if word.upper() not in ("DEFAULT", "ALL", "EMBEDDING")]
    if cfg.train.sft_type == "lora" and named:
        _modules(cfg, path, spec)


def trackers(names: Sequence[str]) -> None:
    """ValueError for a name of --report_to whose package is not there."""
    from transformers.integrations import get_available_reporting_integrations

    for name in names:
        known = ["none", *sorted({"tensorboard", *get_available_reporting_integrations()})]
        if name not in known:
            raise ValueError(f"--report_to {name} is not installed; there is {', '.join(known)}")


def optimizer(name: str) -> None:
    """ValueError for an optimizer that transformers has not, or whose package is not there."""
    from transformers.training_args import OptimizerNames

    known = [each.value for each in OptimizerNames]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ValueError(f"--optim {name}: transformers has no such optimizer: did you mean {near}?")
    if name.startswith(("galore", "apollo")):
        raise ValueError(f"--optim {name} needs the modules that it projects: take --use_galore true")
    package = next((package for part, package in OPTIMIZERS if part in name), "")
    if package and find_spec(package) is None:
        raise ValueError(f"--optim {name} needs the package {package.replace('_', '-')}, which is not installed")


def spoken(template: TemplateFlags) -> None:
    """ValueError for a template, a text form or a loss scale that there is not."""
    from swift import agent
    from swift.template import template as named
    from swift.template.loss_scale import loss_scale

    if template.template_type != "AUTO":
        named(template.template_type)
    if template.agent_template != "AUTO":
        agent.tool_format(template.agent_template)
    loss_scale(template.scale)


def writable(folder: str | Path, flag: str) -> None:
    """ValueError for a folder that cannot be made, or not written to."""
    path = Path(folder).expanduser().absolute()
    above = next(each for each in (path, *path.parents) if each.exists())
    if not above.is_dir():
        raise ValueError(f"{flag} {folder}: {above} is a file, not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{flag} {folder}: this account may not write to {above}")


def _ranges(cfg: Trains) -> None:
    lora, train, data = cfg.lora, cfg.train, cfg.data
    wrong: Sequence[tuple[str, Any, bool, str]] = (
        ("lora_rank", lora.lora_rank, lora.lora_rank < 1, "1 or more"),
        ("lora_alpha", lora.lora_alpha, lora.lora_alpha < 1, "1 or more"),
        ("lora_dropout_p", lora.lora_dropout_p, not 0 <= lora.lora_dropout_p < 1, "from 0 on and below 1"),
        ("lora_lr_ratio", lora.lora_lr_ratio, (lora.lora_lr_ratio or 1) <= 0, "more than 0"),
        ("learning_rate", train.learning_rate, (train.learning_rate or 0) < 0, "0 or more"),
        ("weight_decay", train.weight_decay, train.weight_decay < 0, "0 or more"),
        ("max_grad_norm", train.max_grad_norm, train.max_grad_norm < 0, "0 or more"),
        ("adam_beta1", train.adam_beta1, not 0 <= train.adam_beta1 < 1, "from 0 on and below 1"),
        ("adam_beta2", train.adam_beta2, not 0 <= train.adam_beta2 < 1, "from 0 on and below 1"),
        ("adam_epsilon", train.adam_epsilon, train.adam_epsilon <= 0, "more than 0"),
        ("warmup_steps", train.warmup_steps, train.warmup_steps < 0, "0 or more"),
        ("max_minutes", train.max_minutes, train.max_minutes is not None and train.max_minutes <= 0, "more than 0"),
        ("dataloader_num_workers", train.dataloader_num_workers, train.dataloader_num_workers < 0, "0 or more"),
        ("dataset_test_ratio", data.dataset_test_ratio, not 0 <= data.dataset_test_ratio < 1, "from 0 on and below 1"),
    )
    for name, value, is_wrong, what in wrong:
        if is_wrong:
            raise ValueError(f"--{name} {value}: must be {what}")


def _room(path: Path, output_dir: str) -> None:
    """ValueError where the disk has no room for a single checkpoint of the whole model."""
    folder = Path(output_dir).expanduser().absolute()
    above = next(each for each in (folder, *folder.parents) if each.exists())
    files = [path] if path.is_file() else [file for kind in ("*.safetensors", "*.bin") for file in path.glob(kind)]
    needed, free = sum(file.stat().st_size for file in files), shutil.disk_usage(above).free
    if free < needed:
        raise ValueError(
            f"--output_dir {output_dir}: {free / 2**30:.1f} GiB are free, and a checkpoint of the whole model "
            f"takes about {needed / 2**30:.1f} GiB"
        )


def _modules(cfg: Trains, path: Path, spec: ModelSpec | None) -> None:
    """ValueError for target modules that the model has not, by its configuration alone."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    from swift.model import load
    from swift.model.config_files import json_object
    from swift.tuner.targets import lora_targets

    plain = (path / "config.json").is_file() and not (spec and spec.model)
    if not plain or json_object(path / "config.json").get("model_type") not in CONFIG_MAPPING_NAMES:
        return  # what other code makes is known once it has made it
    words = load.targets(path, cfg.lora.lora_target_modules, trust_remote_code=cfg.model.trust_remote_code, spec=spec)
    lora_targets(load.shape_of(path), words, spec.lora_targets if spec else ())
