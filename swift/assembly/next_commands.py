"""The commands that come after training, ready to paste."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from swift.flag_groups import ModelFlags
from swift.system import invocation


def commands(checkpoint: Path, model: ModelFlags, more: Sequence[str] = ()) -> list[str]:
    """Commands that talk to a checkpoint, serve it and export it. `more`: further words for `swift infer`."""
    named: list[str | Path] = ["--ckpt_dir", checkpoint]
    for name in ("trust_remote_code", "use_hf"):  # flags that the checkpoint's record does not set
        named += [f"--{name}", "true"] if vars(model)[name] else []
    writes = _export(checkpoint)
    return [
        invocation.command("infer", *named, *more),
        invocation.command("deploy", *named),
        *([invocation.command("export", *named, *writes)] if writes else []),
    ]


def _export(checkpoint: Path) -> tuple[str, ...]:
    """The flags of `swift export` for this checkpoint; none for an adapter that cannot be merged."""
    from swift.tuner import merge

    note = checkpoint / "adapter_config.json"
    if not note.is_file():
        return ("--to_gguf", "F16")
    kind = json.loads(note.read_text(encoding="utf-8")).get("peft_type")
    return () if kind in merge.UNMERGEABLE else ("--merge_lora", "true")
