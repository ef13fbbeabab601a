"""The last lines of a run: the checkpoint to take, and what comes next, ready to paste."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swift.flag_groups import ModelFlags
from swift.system import invocation

Say = Callable[[str], None]


def say_end(result: dict[str, Any], model: ModelFlags, say: Say) -> None:
    """Figures of the run, its best and its last checkpoint, and the commands that follow."""
    from swift.train.progress import duration

    speed = f"{result['tokens_per_second']:,.0f} tokens/s, {result['padding_share']:.1%} padding"
    say(f"{result['global_step']} steps in {duration(result['train_time'])}: {speed}, {result['memory_gib']:.2f} GiB")
    best, last = result["best_model_checkpoint"], result["last_model_checkpoint"]
    say(f"report: {invocation.display_path(Path(result['output_dir']) / 'summary.html')}")
    if last is None:
        say("no checkpoint was saved (--save_strategy no), so there is nothing to talk to")
        return
    if best:
        say(f"best: {invocation.display_path(best)} (held-out loss {result['best_metric']:.4f})")
    if last != best:
        say(f"last: {invocation.display_path(last)}")
    say("\n".join(["next:", *(f"  {line}" for line in commands(Path(best or last), model))]))


def commands(checkpoint: Path, model: ModelFlags, more: Sequence[str] = ()) -> list[str]:
    """What to do with a checkpoint: talk, serve, write for other programs. `more`: words for the dialogue alone."""
    beside: list[str | Path] = ["--ckpt_dir", checkpoint]
    for name in ("trust_remote_code", "use_hf"):  # what the checkpoint's own record leaves to the user
        beside += [f"--{name}", "true"] if vars(model)[name] else []
    writes = _export(checkpoint)
    return [
        invocation.command("infer", *beside, *more),
        invocation.command("deploy", *beside),
        *([invocation.command("export", *beside, *writes)] if writes else []),
    ]


def _export(checkpoint: Path) -> tuple[str, ...]:
    """The flags of the export that suits it; none for an adapter that cannot be merged."""
    from swift.tuner import merge

    note = checkpoint / "adapter_config.json"
    if not note.is_file():
        return ("--to_gguf", "F16")
    kind = json.loads(note.read_text(encoding="utf-8")).get("peft_type")
    return () if kind in merge.UNMERGEABLE else ("--merge_lora", "true")
