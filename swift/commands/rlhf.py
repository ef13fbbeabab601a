"""Train a model on preferences: DPO, KTO or ORPO, of adapters or all weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from swift.assembly import preference_setup, training
from swift.flag_groups import (
    DataFlags,
    LoaderFlags,
    LoraFlags,
    ModelFlags,
    ParallelFlags,
    PreferenceFlags,
    TemplateFlags,
    TrainFlags,
    TunerFlags,
)


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = (
        "swift rlhf --rlhf_type dpo --model smollm2-135m-instruct --dataset pairs.jsonl --lora_target_modules ALL"
    )
    most_used: ClassVar[tuple[str, ...]] = (
        "rlhf_type",
        "model_id_or_path",
        "dataset",
        "output_dir",
        "sft_type",
        "init_adapter",
        "beta",
        "num_train_epochs",
        "learning_rate",
        "max_length",
    )

    preferences: PreferenceFlags = PreferenceFlags()
    model: ModelFlags = ModelFlags()
    template: TemplateFlags = TemplateFlags(loss_scale="default")
    data: DataFlags = DataFlags()
    lora: LoraFlags = LoraFlags(lora_dropout_p=0.0)  # the reference has none either
    tuner: TunerFlags = TunerFlags()
    train: TrainFlags = TrainFlags()
    loader: LoaderFlags = LoaderFlags()
    parallel: ParallelFlags = ParallelFlags()


def main(cfg: Config) -> dict[str, Any]:
    """Trains and returns the result (`run_summary.result`); the run's folder, `output_dir`, has the same as a page."""
    return training.run(cfg, preference_setup.method(cfg.preferences))
