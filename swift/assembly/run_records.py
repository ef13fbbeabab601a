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

if TYPE_CHECKING:
    from swift.assembly.training_data import Data
    from swift.model.catalog import ModelSpec
    from swift.template import Renderer


def write(cfg: TrainingConfig, data: Data, steps: int, folder: Path) -> None:
    """Writes sft_args.json and mixture.json into the run's folder."""
    from swift.train.report import total

    write_flags(cfg, folder)
    content = {
        "sources": {name: share._asdict() for name, share in data.shares.items()},
        "total": total(data.shares)._asdict(),
        "steps": steps,
        "held_out_rows": data.held_out,
        "held_out_samples": len(data.val),
        **data.outcomes,
    }
    (folder / "mixture.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
