"""What a training run records for later commands: its flags, its plan, its data mixture, complete checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift import flags
from swift.assembly import model_card, resuming
from swift.assembly.training_config import TrainingConfig
from swift.model.catalog import RECORD
from swift.runs import contents

if TYPE_CHECKING:
    from swift.assembly.training_data import Data
    from swift.model.catalog import ModelSpec
    from swift.template import Renderer


def write(cfg: TrainingConfig, data: Data, steps: int, folder: Path) -> None:
    """Writes sft_args.json, mixture.json and machine.json into the run's folder."""
    from swift.assembly.machine import machine
    from swift.train.report import total

    write_flags(cfg, folder)
    _write(folder / contents.MACHINE, machine())
    content = {
        "sources": {name: share._asdict() for name, share in data.shares.items()},
        "total": total(data.shares)._asdict(),
        "steps": steps,
        "held_out_rows": data.held_out,
        "held_out_samples": len(data.val),
        "sample_lengths": _lengths(data),
        "first_row": data.first_row,
        **data.outcomes,
    }
    _write(folder / contents.MIXTURE, content)


def _lengths(data: Data) -> dict[str, Any]:
    """Of the training samples; nothing where they are tokenised only when they are trained on."""
    from swift.train import report
    from swift.train.lazy_datasets import LazySamples
    from swift.train.sample_cache import CompactSamples

    train = data.train
    if isinstance(train, CompactSamples):
        return report.lengths(train.lengths, train.trained_ends)
    if isinstance(train, LazySamples):
        return {}
    return report.lengths([len(each.tokens) for each in train], sum(each.weights[-1] != 0 for each in train))


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_flags(cfg: TrainingConfig, folder: Path) -> None:
    text = json.dumps(flags.to_dict(cfg), indent=2, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def checkpoint_finisher(
    cfg: TrainingConfig,
    plan: Mapping[str, Any],
    renderer: Renderer,
    source: Path,
    spec: ModelSpec | None,
    data: Data,
) -> Callable[[Path], None]:
    """A function that adds to a checkpoint's folder what infer, deploy and export need besides the weights."""
    from swift.model import vision
    from swift.tuner.registry import TUNERS

    name = cfg.model.model_id_or_path or cfg.model.model_type or ""
    base, hub_id = model_card.base_name(spec, name), model_card.published(spec, name)

    def finish(folder: Path) -> None:
        write_flags(cfg, folder)
        (folder / resuming.PLAN).write_text(json.dumps(plan) + "\n", encoding="utf-8")
        model_card.finish(folder, base, hub_id, data.shares, flags.to_dict(cfg))
        if TUNERS[cfg.train.sft_type].full_model:
            renderer.tokenizer.save_pretrained(folder)
            if renderer.image_processor:
                vision.copy_processor(source, folder)

    return finish
