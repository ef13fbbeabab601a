"""Merge a LoRA checkpoint into a model folder, replacing an earlier merge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from swift.assembly import checkpoints, merging
from swift.commands import export
from swift.flags import flag


@dataclass(frozen=True)
class Config(export.Config):
    example: ClassVar[str] = "swift merge-lora --ckpt_dir output/my_run/checkpoint-100"
    most_used: ClassVar[tuple[str, ...]] = (
        "ckpt_dir",
        "model_id_or_path",
        "output_dir",
        "dtype",
        "template_type",
        "push_to_hub",
    )

    merge_lora: bool = flag(True, alias=("merge_lora_and_save",))
    """Always true here"""


def main(config: Config) -> Path:
    if not config.merge_lora:
        raise ValueError("--merge_lora false contradicts swift merge-lora")
    if not config.ckpt_dir and checkpoints.is_named_adapter(config.model):
        return export.write_named(config)
    return merging.merge_checkpoint(
        config.ckpt_dir, config.model, config.template_type, config.output_dir, overwrite=True
    )
