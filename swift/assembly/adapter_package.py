"""Packs the adapter of a checkpoint for distribution: weights in bf16, the settings that loading reads, a model card.

The folder is a checkpoint like the original. What resumes training and local paths of data stay behind.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from swift.assembly import checkpoints, model_card
from swift.model.catalog import RECORD
from swift.model.config_files import json_object
from swift.system.atomic_write import atomic_folder

KEPT = (
    *("sft_type", *checkpoints.MODEL, *checkpoints.TEMPLATE, "dtype", "max_length"),
    *("model_name", "model_author"),
)
"""Flags of the record that later commands read."""
MOST = 12_000_000
"""Bytes of an adapter that is part of SWIFT."""


def pack(checkpoint: Path, target: Path) -> Path:
    """Writes `target` and returns it. Raises ValueError for another kind of adapter, and for one of SWIFT's own that
    is too large."""
    import torch
    from safetensors.torch import load_file, save_file

    from swift.infer import calibration_file
    from swift.model import adapter_models, catalog
    from swift.tuner import adapter_files
    from swift.tuner.peft_models import CONFIG, WEIGHTS

    kind = adapter_files.check(checkpoint)
    if kind != "LORA":
        raise ValueError(f"{checkpoint}: --pack_adapter packs LoRA alone, not {kind}")
    calibration_file.read_calibration(checkpoint)  # damaged: before anything is written
    weights = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(checkpoint / WEIGHTS).items()
    }
    record = checkpoints.recorded(checkpoint)
    with atomic_folder(target) as folder:
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        shutil.copyfile(checkpoint / CONFIG, folder / CONFIG)
        _write_json(folder / RECORD, {name: value for name, value in record.items() if name in KEPT})
        if (checkpoint / calibration_file.NAME).is_file():
            shutil.copyfile(checkpoint / calibration_file.NAME, folder / calibration_file.NAME)
        size = (folder / WEIGHTS).stat().st_size
        if target.is_relative_to(adapter_models.PACKAGED) and size > MOST:
            raise ValueError(
                f"{target}: {size / 1e6:.1f} MB of weights; an adapter of SWIFT has at most {MOST / 1e6:.0f}"
            )
        source = str(record.get("model_id_or_path") or record.get("model_type") or checkpoints.peft_base(checkpoint))
        spec = catalog.choose(None, str(record.get("model_type") or source), source)
        # the name by which commands know the packed adapter, if there is one
        named = next((each.model_type for each in catalog.table().values() if each.adapter == str(target)), "")
        model_card.packed(folder, named or target.name, model_card.base_name(spec, source), checkpoint, bool(named))
    numbers = sum(tensor.numel() for tensor in weights.values())
    print(f"{target}: {numbers:,} parameters, {size / 1e6:.1f} MB in bf16", file=sys.stderr)
    return target


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def copy_named(folder: Path, name: str, target: Path) -> Path:
    """Copies the folder into which the named adapter was merged to `target`, without the record of the cache."""
    from swift.model.folder_record import RECORD as FILES

    with atomic_folder(target) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns(FILES))
        record = json_object(new / RECORD)
        model_card.merged(new, name, record.get("template_type"), None, "with its adapter merged into its weights")
    print(f"{target}: {name}, merged", file=sys.stderr)
    return target
