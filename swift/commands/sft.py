"""Fine-tune a model on conversations: adapters or all weights, in one process or several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from swift.assembly import training
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


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift sft --model smollm2-135m-instruct --dataset my_rows.jsonl --lora_target_modules ALL"
    most_used: ClassVar[tuple[str, ...]] = (
        "model_id_or_path",
        "dataset",
        "output_dir",
        "sft_type",
        "lora_rank",
        "lora_target_modules",
        "num_train_epochs",
        "learning_rate",
        "batch_size",
        "max_length",
    )

    model: ModelFlags = ModelFlags()
    template: TemplateFlags = TemplateFlags()
    data: DataFlags = DataFlags()
    lora: LoraFlags = LoraFlags()
    tuner: TunerFlags = TunerFlags()
    train: TrainFlags = TrainFlags()
    loader: LoaderFlags = LoaderFlags()
    parallel: ParallelFlags = ParallelFlags()


def main(cfg: Config) -> dict[str, Any]:
    """Trains and returns the result (`run_summary.result`); the run's folder, `output_dir`, has the same as a page."""
    return training.run(cfg)
