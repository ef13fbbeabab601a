"""The flags of a training command, and the defaults that follow from other flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from swift import flags
from swift.flag_groups import (
    DataFlags,
    LoaderFlags,
    LoraFlags,
    ModelFlags,
    ParallelFlags,
    TemplateFlags,
    TrainFlags,
    TunerFlags,
)
from swift.model.config_files import json_object

ADAPTER_RATE, FULL_RATE = 1e-4, 1e-5
"""Default learning rates of adapters and of full fine-tuning."""


class TrainingConfig(Protocol):
    """A dataclass with the flags of a training command."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

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
    @property
    def loader(self) -> LoaderFlags: ...
    @property
    def parallel(self) -> ParallelFlags: ...


C = TypeVar("C", bound=TrainingConfig)


def with_defaults(cfg: C, model_type: str | None, rates: tuple[float, float] = (ADAPTER_RATE, FULL_RATE)) -> C:
    """The flags with every default that follows from others filled in, and paths made absolute for the record.

    `rates`: default learning rates of adapters and of full fine-tuning.
    """
    from swift.tuner.registry import TUNERS

    train = cfg.train
    is_adapter = not TUNERS[train.sft_type].full_model
    rate = rates[0] if is_adapter else rates[1]
    name = cfg.model.model_id_or_path
    is_folder = name is not None and Path(name).expanduser().exists()
    return flags.update(
        cfg,
        {
            "model_type": model_type,
            "model_id_or_path": str(Path(str(name)).expanduser().resolve()) if is_folder else name,
            "registry": [str(Path(file).expanduser().resolve()) for file in cfg.model.registry],
            "learning_rate": rate if train.optimizer.learning_rate is None else train.optimizer.learning_rate,
            "eval_batch_size": train.evaluation.eval_batch_size or train.batch_size,
            "save_steps": train.saving.save_steps or train.evaluation.eval_steps,
            **_of_adapter(cfg.lora.init_adapter),
            "save_only_model": not is_adapter if train.saving.save_only_model is None else train.saving.save_only_model,
        },
        "derived flags",
    )


def _of_adapter(folder: str | None) -> dict[str, Any]:
    """The LoRA flags with which the adapter of a folder was made."""
    if folder is None:
        return {}
    path = Path(folder).expanduser().resolve()
    made = json_object(path / "adapter_config.json")
    targets = made["target_modules"]
    return {
        "init_adapter": str(path),
        "lora_rank": made["r"],
        "lora_alpha": made["lora_alpha"],
        "lora_dropout_p": made["lora_dropout"],
        "lora_target_modules": [targets] if isinstance(targets, str) else sorted(targets),
        "lora_modules_to_save": sorted(made.get("modules_to_save") or ()),
        "lora_bias_trainable": "none" if made.get("bias", "none") == "none" else "all",
        "use_rslora": made.get("use_rslora", False),
        "use_dora": made.get("use_dora", False),
    }
