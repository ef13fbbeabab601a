"""What a training run reports: lines at its start and end, its result, and its page."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.assembly import next_commands, run_page
from swift.flag_groups import ModelFlags
from swift.system import invocation

if TYPE_CHECKING:
    from swift.assembly.training_data import Data
    from swift.train.trainer import SftTrainer

Say = Callable[[str], None]


def say_start(data: Data, trainer: SftTrainer, steps: int, say: Say) -> None:
    """The data mixture, the steps and the first row."""
    from swift.train.report import as_text, counted, total

    args, everything = trainer.args, total(data.shares)
    for name, share in data.shares.items():
        part = share.trained_tokens / everything.trained_tokens
        say(f"mixture: {name}: {share.counted}, {share.trained_tokens:,} trained tokens ({part:.1%} of all)")
    part = everything.trained_tokens / everything.tokens
    say(f"mixture: {everything.counted}, {everything.tokens:,} tokens, {part:.1%} of them trained")
    size = f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps} x {args.world_size}"
    held_out = counted(data.held_out, len(data.val))
    say(f"steps: {steps:,} of {size} {unit(data)}s (batch x accumulation x processes); held out: {held_out}")
    say(f"first row:\n{as_text(data.first_row)}\n")


def unit(data: Data) -> str:
    """What makes up a step: samples, or rows where each row is one sample."""
    return "row" if all(share.samples == share.rows for share in data.shares.values()) else "sample"


def result(trainer: SftTrainer, data: Data, folder: Path, seconds: float) -> dict[str, Any]:
    """What the command returns. Folders are absolute, the metric is in nats per weighted token."""
    from swift.train import checkpoint
    from swift.train.report import peak_memory, total

    everything, throughput, state = total(data.shares), trainer.throughput, trainer.state
    last = checkpoint.newest_saved(folder)
    return {
        "output_dir": str(folder),
        "last_model_checkpoint": str(last) if last else None,
        "best_model_checkpoint": state.best_model_checkpoint,
        "best_metric": state.best_metric,
        "global_step": state.global_step,
        "train_time": seconds,
        "tokens_per_second": throughput.tokens_per_second,
        "padding_share": throughput.padding,
        "trained_token_share": everything.trained_tokens / everything.tokens,
        "memory_gib": peak_memory() / 2**30,
        "log_history": state.log_history,
    }


def write_page(folder: Path) -> None:
    """Writes the page of a run that has ended, however it ended. Warns where the file cannot be written."""
    from swift.runs import record

    if not (folder / record.FILE).exists():
        return  # it could not be written, which has been said
    try:
        run_page.write(record.read(folder))
    except (OSError, ValueError) as error:
        print(f"swift: warning: {folder / run_page.FILE} cannot be written: {error}", file=sys.stderr)


def say_end(result: dict[str, Any], model: ModelFlags, say: Say) -> None:
    """Speed and memory, the best and the last checkpoint, and the commands that come next."""
    from swift.system.durations import duration

    speed = f"{result['tokens_per_second']:,.0f} tokens/s, {result['padding_share']:.1%} padding"
    say(f"{result['global_step']} steps in {duration(result['train_time'])}: {speed}, {result['memory_gib']:.2f} GiB")
    best, last = result["best_model_checkpoint"], result["last_model_checkpoint"]
    say(f"report: {invocation.display_path(Path(result['output_dir']) / run_page.FILE)}")
    if last is None:
        say("no checkpoint was saved (--save_strategy no), so there is nothing to talk to")
        return
    if best:
        say(f"best: {invocation.display_path(best)} (held-out loss {result['best_metric']:.4f})")
    if last != best:
        say(f"last: {invocation.display_path(last)}")
    say("\n".join(["next:", *(f"  {line}" for line in next_commands.commands(Path(best or last), model))]))


def why_stopped(trainer: SftTrainer) -> str:
    """Where and why the run ended before its last step, in one line."""
    step = f"after step {trainer.state.global_step} of {trainer.state.max_steps}"
    if trainer.late:
        return f"{step}: the time limit of --max_minutes is reached"
    return f"{step} by {signal.Signals(trainer.stopped).name}"
