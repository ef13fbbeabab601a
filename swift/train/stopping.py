"""When a run ends: its last step, a signal, the time limit, or the death of another process. Knows no model."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainingArguments


@dataclass
class StopControl(TrainerCallback):  # type: ignore[misc]
    """Logs and evaluates the last step; a run that stops early saves a checkpoint first."""

    stop: int = 0
    """Number of the signal that stops the run; 0 for none."""
    late: bool = False
    """Whether the time limit is reached."""

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if self.stop or self.late:
            control.should_save = control.should_training_stop = True
        elif state.global_step >= state.max_steps and args.eval_strategy == "steps":
            control.should_evaluate = True  # so that short runs have a best checkpoint too
        control.should_log |= control.should_training_stop


@contextmanager
def deaths_told(tell: Callable[[str], str]) -> Iterator[None]:
    """Raises ChildProcessError(tell(reason)) for an error that reports the death of another process of the run.

    torch's handler of SIGCHLD may report the death a second time while the first report is being handled: use it twice,
    one inside the other.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        main = threading.current_thread() is threading.main_thread()
        # torch's handler would report the death again at any later point
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if main else None
        if reason := _died(error):
            raise ChildProcessError(tell(reason)) from error
        if main:
            signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
        raise


def _died(error: Exception) -> str:
    """Which process died, if a library's error reports a death; empty for any other error."""
    text = str(error)
    reported = "DataLoader worker" in text and not text.startswith("Caught ")  # Caught: an exception within a worker
    # a worker that dies while it hands over a batch breaks the connection before its death is noticed
    broken = isinstance(error, ConnectionError | EOFError) and any(
        frame.name == "_try_get_data" for frame in traceback.extract_tb(error.__traceback__)
    )
    if reported or broken:
        return "a data loader process (--dataloader_num_workers) died, perhaps out of memory"
    if any(sign in text for sign in ("Connection closed by peer", "Connection reset by peer", "NCCL communicator")):
        return "another process of this run is gone"
    return ""
