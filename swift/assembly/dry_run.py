"""`--dry_run`: a few real steps on the longest rows, from which the memory and the time of the whole run follow."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from swift import flags
from swift.assembly.training_config import TrainingConfig
from swift.system.durations import duration

if TYPE_CHECKING:
    import torch

    from swift.assembly.training_data import Data
    from swift.train.ranks import Ranks
    from swift.train.trainer import SftTrainer

C = TypeVar("C", bound=TrainingConfig)
STEPS = 3
"""The first one is not measured: it compiles and allocates."""


def check(cfg: TrainingConfig) -> None:
    """Raises ValueError for flags of a dry run that cannot be estimated."""
    if not cfg.train.dry_run:
        return
    for name in ("streaming", "lazy_tokenize"):
        if getattr(cfg.loader, name):
            raise ValueError(f"--dry_run counts tokens before training, which --{name} does not: leave one of them out")
    if cfg.train.saving.resume_from_checkpoint is not None:
        raise ValueError("--dry_run estimates a whole run: leave out --resume_from_checkpoint")


def shortened(cfg: C, data: Data, world: int) -> tuple[C, Data]:
    """The flags and the data of a run of `STEPS` steps, each on the longest rows of the data. It saves nothing."""
    from swift.train.lazy_datasets import lengths
    from swift.train.sample_cache import CompactSamples

    each = lengths(data.train)
    longest = sorted(range(len(each)), key=each.__getitem__, reverse=True)
    longest = longest[: cfg.train.batch_size * (cfg.train.gradient_accumulation_steps or 1) * world]
    train = CompactSamples.in_memory([data.train[row] for row in longest] * STEPS)
    changes = {"max_steps": STEPS, "save_strategy": "no", "eval_strategy": "no", "logging_steps": 1, "report_to": []}
    return flags.update(cfg, changes, "--dry_run"), data._replace(train=train, val=CompactSamples.in_memory([]))


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="swift-dry-run-") as name:
        yield Path(name)


def end(
    trainer: SftTrainer, data: Data, steps: int, device: torch.device, ranks: Ranks, say: Callable[[str], None]
) -> dict[str, Any]:
    """Reports and returns what the whole run takes: seconds of its steps, GiB of the first process.

    `data`: the whole. `steps`: of the whole. The speed is that of the steps after the first. Raises SystemExit for a
    signal that ended the steps before.
    """
    from swift.train.lazy_datasets import lengths
    from swift.train.report import peak_memory

    ranks.leave()
    if trainer.stopped:
        raise SystemExit(128 + trainer.stopped)
    args, each = trainer.args, lengths(data.train)
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    tokens = sum(each) / len(each) * min(rows, len(each)) * steps
    laps = [line["tokens_per_second"] for line in trainer.state.log_history if "tokens_per_second" in line][1:]
    speed = len(laps) / sum(1 / lap for lap in laps)
    memory, all_of_it = peak_memory() / 2**30, _memory(device) / 2**30
    say(f"memory: {memory:.2f} of {all_of_it:.1f} GiB in steps of the longest rows (up to {max(each):,} tokens)")
    say(
        f"time: about {duration(tokens / speed)} for {steps:,} steps of {tokens:,.0f} tokens, "
        f"at {speed:,.0f} a second; evaluation and checkpoints come on top"
    )
    say("dry run: nothing is written")
    return {
        "dry_run": True,
        "steps": steps,
        "tokens": round(tokens),
        "longest_row": max(each),
        "tokens_per_second": speed,
        "seconds": tokens / speed,
        "memory_gib": memory,
    }


def _memory(device: torch.device) -> int:
    """Bytes of the memory that a run has: of the GPU, else of the machine."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    from psutil import virtual_memory

    return int(virtual_memory().total)
