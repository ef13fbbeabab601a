"""The commands that come after training, ready to paste."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from swift.flag_groups import ModelFlags
from swift.system import invocation


def commands(checkpoint: Path, model: ModelFlags, more: Sequence[str] = ()) -> list[str]:
    """Commands that talk to a checkpoint, serve it and export it, and that find a minimum confidence of calls for it if
    the model that it was trained from has one. `more`: further words for `swift infer`."""
    named: list[str | Path] = ["--ckpt_dir", checkpoint]
    for name in ("trust_remote_code", "use_hf"):  # flags that the checkpoint's record does not set
        named += [f"--{name}", "true"] if vars(model)[name] else []
    writes, least = _export(checkpoint), _least_confidence(checkpoint)
    return [
        invocation.command("infer", *named, *more),
        invocation.command("deploy", *named),
        *([invocation.command("export", *named, *writes)] if writes else []),
        *([invocation.command("eval", *named, *_calibrates(least))] if least else []),
    ]


def _export(checkpoint: Path) -> tuple[str, ...]:
    """The flags of `swift export` for this checkpoint; none for an adapter that cannot be merged."""
    from swift.tuner import merge

    note = checkpoint / "adapter_config.json"
    if not note.is_file():
        return ("--to_gguf", "F16")
    kind = json.loads(note.read_text(encoding="utf-8")).get("peft_type")
    return () if kind in merge.UNMERGEABLE else ("--merge_lora", "true")


def _calibrates(least: float) -> tuple[str, ...]:
    return ("--tasks", "calls", "--calibrate", "true", "--min_confidence", f"{least:g}")


def _least_confidence(checkpoint: Path) -> float:
    """The minimum confidence of the model that a checkpoint without one was trained from; 0 for none."""
    from swift.assembly.checkpoints import is_named_adapter, recorded
    from swift.infer.calibration_file import read_calibration
    from swift.model.location import locate

    record = recorded(checkpoint)
    start = str(record.get("init_adapter") or record.get("model_id_or_path") or record.get("model_type") or "")
    if read_calibration(checkpoint) is not None or not start:
        return 0.0
    is_named = is_named_adapter(ModelFlags(model_id_or_path=start))
    try:
        found = read_calibration(locate(start) if is_named else Path(start))  # models of hubs have none
    except (ValueError, OSError):  # a damaged file or a model that is gone: no reason to end a training with an error
        return 0.0
    return found.min_confidence if found else 0.0
