"""Folders of training runs as files alone, for tests of what is said of them. Nothing is trained."""

from __future__ import annotations

import json
import math
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from swift.runs import processes, record
from swift.runs.record import Progress, Record, Run

GONE = replace(processes.of(os.getpid()), start="1")  # a process with this pid that began at another time


def lines(train: Sequence[float], held_out: dict[int, float] | None = None) -> Iterator[dict[str, Any]]:
    """Log lines: a training loss for each step from 1, held-out losses by step."""
    for step, loss in enumerate(train, 1):
        figures = {"learning_rate": 1e-4, "grad_norm": 0.5, "tokens_per_second": 600.0 + step % 7, "memory_gib": 1.5}
        yield {"step": step, "loss": loss, **figures}
        if held_out and step in held_out:
            yield {"step": step, "eval_loss": held_out[step], "eval_acc": 0.6}


def falling(
    steps: int, start: float = 2.66, end: float = 1.96, scale: float = 0.25, noise: float = 0.04
) -> list[float]:
    """Losses that fall fast, then slowly, with noise. `scale`: the share of the steps in which most of it happens."""
    chance = random.Random(1)
    return [end + (start - end) * math.exp(-step / (scale * steps)) + chance.gauss(0, noise) for step in range(steps)]


def run_folder(
    folder: Path,
    log: Sequence[dict[str, Any]] | Iterator[dict[str, Any]] = (),
    steps: int = 300,
    checkpoints: Sequence[int] = (),
    flags: dict[str, Any] | None = None,
    mixture: dict[str, Any] | None = None,
    **changes: Any,
) -> Run:
    """A run that has finished, unless `changes` of its record say otherwise. `checkpoints`: their steps."""
    logged = list(log)
    folder.mkdir(parents=True)
    reached = max((line["step"] for line in logged), default=0)
    settings: dict[str, Any] = {
        "verb": "sft",
        "model": "tiny",
        "tuner": "lora",
        "command": ["sft", "--model", "tiny", "--dataset", "my rows.jsonl"],
        "training": ["sft", "--model_id_or_path", "tiny"],
        "python": sys.executable,
        "working_folder": "/home/me",
        "environment": {},
        "process": GONE,
        "state": "finished",
        "progress": Progress(step=reached, steps=steps, epoch=1.0),
        "started": 1_790_000_000.0,
        "heartbeat": 1_790_000_257.0,
        "ended": 1_790_000_257.0,
        **changes,
    }
    record.write(folder, Record(**settings))
    text = "".join(json.dumps(line) + "\n" for line in logged)
    (folder / "logging.jsonl").write_text(text, encoding="utf-8")
    for step in checkpoints:
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}" / "optimizer.pt").touch()
    for name, content in (("sft_args.json", flags), ("mixture.json", mixture)):
        if content is not None:
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return record.read(folder)
