"""What a training run reports: lines at its start and end, its result, and the page summary.html."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift import flags
from swift.assembly import next_commands
from swift.assembly.training_config import TrainingConfig
from swift.flag_groups import ModelFlags
from swift.system import invocation

if TYPE_CHECKING:
    from swift.assembly.training_data import Data
    from swift.train.trainer import SftTrainer

Say = Callable[[str], None]


def say_start(data: Data, trainer: SftTrainer, steps: int, say: Say) -> None:
    """The data mixture, the steps and the first row."""
    from swift.train.report import counted, total

    args, everything = trainer.args, total(data.shares)
    for name, share in data.shares.items():
        part = share.trained_tokens / everything.trained_tokens
        say(f"mixture: {name}: {share.counted}, {share.trained_tokens:,} trained tokens ({part:.1%} of all)")
    part = everything.trained_tokens / everything.tokens
    say(f"mixture: {everything.counted}, {everything.tokens:,} tokens, {part:.1%} of them trained")
    size = f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps} x {args.world_size}"
    held_out = counted(data.held_out, len(data.val))
    say(f"steps: {steps:,} of {size} {unit(data)}s (batch x accumulation x processes); held out: {held_out}")
    say(f"first row:\n{data.first_row}\n")


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


def write_page(cfg: TrainingConfig, result: dict[str, Any], data: Data, folder: Path) -> None:
    """Writes summary.html."""
    from swift import html_page
    from swift.train import report

    numbers = [(name, value) for name, value in result.items() if name != "log_history"]
    shares = [(name, *share) for name, share in data.shares.items()]
    curves_by_title = report.curves(result["log_history"])
    losses = {name: points for name, points in curves_by_title.items() if name.endswith("_loss")}
    others = {name: points for name, points in curves_by_title.items() if not name.endswith("_loss")}
    written = html_page.render(
        f"{cfg.model.model_type}, {cfg.train.sft_type}",
        [
            html_page.Section("Outcome", html_page.table(("", ""), numbers)),
            html_page.Section("Loss", report.chart(losses)),
            html_page.Section(
                "Mixture", html_page.table(("source", "rows", "samples", "tokens", "trained tokens"), shares)
            ),
            html_page.Section("First row", html_page.code(data.first_row)),
            html_page.Section("Curves", "".join(report.chart({name: points}) for name, points in others.items())),
            html_page.Section("Flags", html_page.table(("flag", "value"), flags.to_dict(cfg).items())),
        ],
    )
    (folder / "summary.html").write_text(written, encoding="utf-8")


def say_end(result: dict[str, Any], model: ModelFlags, say: Say) -> None:
    """Speed and memory, the best and the last checkpoint, and the commands that come next."""
    from swift.system.durations import duration

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
    say("\n".join(["next:", *(f"  {line}" for line in next_commands.commands(Path(best or last), model))]))


def why_stopped(trainer: SftTrainer) -> str:
    """Where and why the run ended before its last step, in one line."""
    step = f"after step {trainer.state.global_step} of {trainer.state.max_steps}"
    if trainer.late:
        return f"{step}: the time limit of --max_minutes is reached"
    return f"{step} by {signal.Signals(trainer.stopped).name}"
