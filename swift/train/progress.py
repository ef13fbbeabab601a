"""Progress of a run: a live bar in a terminal, else plain lines. Knows only log lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift.system import terminal
from swift.system.durations import duration
from swift.system.terminal import is_live


class ShowProgress(TrainerCallback):  # type: ignore[misc]
    """Shows loss, tokens per second and time left, in the first process only.

    Log lines stay in the terminal's history; a live bar is below the last one and moves with each step. `note`
    receives the lines too.
    """

    def __init__(
        self, console: Console | None = None, live: bool = True, note: Callable[[str], None] = lambda _: None
    ) -> None:
        self.console, self.note = console or terminal.console(stderr=True), note
        self.live = live and (console.is_terminal if console else is_live(sys.stderr))
        self.bar = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TextColumn("left {task.fields[left]}"),
            console=self.console,
            disable=not self.live,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._began, self._first = 0.0, 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._began, self._first = time.perf_counter(), state.global_step
        self.bar.start()
        self.task = self.bar.add_task(
            "train", total=state.max_steps, completed=state.global_step, facts="the first step is under way", left="?"
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            pace = (time.perf_counter() - self._began) / max(state.global_step - self._first, 1)
            self.bar.update(
                self.task, completed=state.global_step, facts=f"{pace:.2g} s a step", left=self._left(state)
            )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        if "eval_loss" in logs:
            self._say(state, f"held-out loss {logs['eval_loss']:.4f}{_accuracy(logs, 'eval_')}")
        elif "loss" in logs:
            facts = f"loss {logs['loss']:.4f}{_accuracy(logs)}  {logs['tokens_per_second']:,.0f} tokens/s"
            memory, rate = f"{logs['memory_gib']:.1f} GiB", f"lr {logs['learning_rate']:.2e}"
            self._say(state, f"{facts}  {rate}  {memory}  left {self._left(state)}")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._say(state, f"saved checkpoint-{state.global_step}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.stop()

    def _say(self, state: TrainerState, text: str) -> None:
        line = f"step {state.global_step}/{state.max_steps}  {text}"
        self.console.print(line, highlight=False, soft_wrap=True)
        self.note(line)

    def _left(self, state: TrainerState) -> str:
        done = state.global_step - self._first
        seconds = (time.perf_counter() - self._began) / max(done, 1) * (state.max_steps - state.global_step)
        return duration(seconds)


def _accuracy(logs: dict[str, float], prefix: str = "") -> str:
    """The share of right tokens, or of pairs with the higher reward for the chosen completion, if it is known."""
    names = {"acc": "accuracy", "rewards/accuracies": "reward accuracy", "rewards/margins": "reward margin"}
    return "".join(f"  {said} {logs[prefix + name]:.3f}" for name, said in names.items() if prefix + name in logs)
