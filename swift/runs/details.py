"""The figures of a run as texts, for the terminal and the pages. Reads no file."""

from __future__ import annotations

from swift.runs.record import Progress, Run
from swift.system.durations import duration


def details(run: Run) -> dict[str, str]:
    """Title -> text; an empty text for what is not known."""
    found, progress = run.record, run.record.progress
    speed = "" if progress.tokens_per_second is None else f"{progress.tokens_per_second:,.0f} tokens/s"
    pace = "" if progress.step_seconds is None else f"{progress.step_seconds:.2g} s a step"
    return {
        "model": f"{found.model}, swift {found.verb}, {found.tuner}",
        "step": step(progress) + ("" if progress.epoch is None else f", epoch {progress.epoch:.2f}"),
        "loss": loss(progress.loss),
        "held-out loss": loss(progress.eval_loss),
        "speed": ", ".join(filter(None, (speed, pace))),
        "time left": time_left(run),
    }


def step(progress: Progress) -> str:
    return f"{progress.step:,}/{progress.steps:,}"


def loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def time_left(run: Run) -> str:
    """Empty for a run that has ended."""
    left = run.record.progress.seconds_left if run.is_active else None
    return "" if left is None else duration(left)
