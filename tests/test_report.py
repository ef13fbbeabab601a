"""What a run leaves to read."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from swift.chat import Sample
from swift.runs import history
from swift.train import report
from swift.train.progress import ShowProgress, duration

HISTORY = [{"step": step, "loss": 1 / step, "learning_rate": 1e-4} for step in range(1, 6)] + [
    {"step": 5, "eval_loss": 0.5, "eval_acc": 0.9}
]


def test_the_mixture_counts_rows_samples_tokens_and_trained_tokens_of_each_source() -> None:
    samples = [Sample([1, 2, 3], [1, 0, 1], "a"), Sample([1, 2], [0, 2.0], "a"), Sample([4, 5], [0, 0], "b")]
    shares = report.mixture(samples, {"a": 1, "b": 1})
    assert shares == {"a": report.Share(1, 2, 5, 2), "b": report.Share(1, 1, 2, 0)}
    assert report.total(shares) == report.Share(2, 3, 7, 2)
    assert [share.counted for share in shares.values()] == ["1 rows (2 samples)", "1 rows"]


def test_an_abbreviated_row_cuts_long_masked_text_and_names_weights() -> None:
    pieces = [("<|user|>" + "x" * 500 + "<end>", 0.0), ("Thought: hm\n", 1.0), ("Action: go", 2.0), ("\nshort", 0.0)]
    shown = report.abbreviate(pieces, keep=10)
    assert shown == "<|user|>xx[... 493 characters, not trained ...]xxxxx<end>Thought: hm\n[x2: Action: go]\nshort"


def test_a_curve_is_drawn_for_each_number_that_was_logged(tmp_path: Path) -> None:
    report.draw(history.curves(HISTORY), tmp_path / "images")
    files = sorted((tmp_path / "images").iterdir())
    assert [file.name for file in files] == ["eval_acc.png", "eval_loss.png", "learning_rate.png", "train_loss.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_a_log_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    (tmp_path / history.FILE).write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert history.read(tmp_path) == [{"step": 1, "loss": 2.0}]


def test_peak_memory_is_in_bytes() -> None:
    assert 2**26 < report.peak_memory() < 2**40  # torch alone takes more than 64 MiB


def test_progress_in_a_pipe_is_one_plain_line_for_each_log_line(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = ShowProgress(Console(file=stream, width=40))
    args, control = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"), TrainerControl()
    state = TrainerState(global_step=0, max_steps=20, is_world_process_zero=True)
    progress.on_train_begin(args, state, control)
    state.global_step = 10
    numbers = {"loss": 1.23456, "learning_rate": 1e-4, "tokens_per_second": 1234.0, "memory_gib": 1.5}
    progress.on_step_end(args, state, control)
    progress.on_log(args, state, control, logs=numbers)
    progress.on_log(args, state, control, logs={"eval_loss": 0.5, "eval_acc": 0.25})
    progress.on_save(args, state, control)
    progress.on_train_end(args, state, control)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("step 10/20  loss 1.2346  1,234 tokens/s  lr 1.00e-04  1.5 GiB  left 0:0")
    assert lines[1:] == ["step 10/20  held-out loss 0.5000  accuracy 0.250", "step 10/20  saved checkpoint-10"]


def test_progress_on_a_terminal_is_a_bar_with_loss_speed_and_time_left(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = ShowProgress(Console(file=stream, width=120, force_terminal=True))
    args, control = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"), TrainerControl()
    state = TrainerState(global_step=0, max_steps=20, is_world_process_zero=True)
    progress.on_train_begin(args, state, control)
    state.global_step = 10
    progress.on_step_end(args, state, control)
    numbers = {"loss": 1.0, "learning_rate": 1e-4, "tokens_per_second": 99.0, "memory_gib": 1.5}
    progress.on_log(args, state, control, logs=numbers)
    progress.on_train_end(args, state, control)
    shown = stream.getvalue()
    assert "10/20" in shown
    assert "left 0:0" in shown


def test_loss_lines_on_a_terminal_stay_above_the_bar(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = ShowProgress(Console(file=stream, width=120, force_terminal=True))
    args, control = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"), TrainerControl()
    state = TrainerState(global_step=0, max_steps=2, is_world_process_zero=True)
    progress.on_train_begin(args, state, control)
    for step, loss in ((1, 2.0), (2, 1.0)):
        state.global_step = step
        progress.on_step_end(args, state, control)
        numbers = {"loss": loss, "learning_rate": 1e-4, "tokens_per_second": 99.0, "memory_gib": 1.5}
        progress.on_log(args, state, control, logs=numbers)
    progress.on_train_end(args, state, control)
    drawn = re.split(r"\x1b\[2K|[\r\n]", stream.getvalue())  # each line is cleared before it is written
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in drawn]
    assert [line.split("  ")[:2] for line in lines if line.startswith("step ")] == [
        ["step 1/2", "loss 2.0000"],
        ["step 2/2", "loss 1.0000"],
    ]


def test_the_bar_speaks_from_the_first_step_on(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = ShowProgress(Console(file=stream, width=120, force_terminal=True))
    args, control = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"), TrainerControl()
    state = TrainerState(global_step=0, max_steps=20, is_world_process_zero=True)
    progress.on_train_begin(args, state, control)
    progress.bar.refresh()
    assert "the first step is under way" in stream.getvalue()
    state.global_step = 1
    progress.on_step_end(args, state, control)
    progress.bar.refresh()
    assert "s a step" in stream.getvalue()
    progress.on_train_end(args, state, control)


def test_only_the_first_process_shows_progress(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = ShowProgress(Console(file=stream))
    args, control = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"), TrainerControl()
    state = TrainerState(global_step=1, max_steps=2, is_world_process_zero=False)
    progress.on_train_begin(args, state, control)
    progress.on_log(args, state, control, logs={"loss": 1.0, "tokens_per_second": 1.0})
    progress.on_save(args, state, control)
    progress.on_train_end(args, state, control)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_smoothed_curve_follows_a_line_to_both_ends_and_drops_what_is_not_finite() -> None:
    line = [(float(step), 5 - step / 100) for step in range(300)]
    curve = history.smoothed([*line, (300.0, float("nan"))])
    assert [value for _, value in curve] == pytest.approx([value for _, value in line])
    noisy = [(step, value + (0.3 if step % 2 else -0.3)) for step, value in line]
    assert max(abs(value - 5 + step / 100) for step, value in history.smoothed(noisy)) < 0.12
    assert history.smoothed(noisy[:19]) == noisy[:19]


def test_a_curve_of_many_points_is_smoothed_in_no_time() -> None:
    curve = history.smoothed([(float(step), 1 / (1 + step)) for step in range(100_000)])
    assert len(curve) <= history.MOST
    assert 0 < curve[0][0] < curve[-1][0] < 100_000
