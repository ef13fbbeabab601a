"""Signals during training: SIGTERM and Ctrl-C save and stop; a second signal after Ctrl-C ends at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NOTICE = "\nCtrl-C: saves a checkpoint after this step and stops; once more ends at once\n"
_SHOW_CURSOR = "\x1b[?25h"  # a live bar hides it, and a process that ends at once does not restore it


class Signals:
    """The signal that this process received; 0 for none."""

    def __init__(self) -> None:
        self.received = 0

    @contextmanager
    def listening(self, aloud: bool) -> Iterator[None]:
        """Within, signals are recorded; `aloud`: this process prints the notice."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python allows signal handlers in the main thread only
            return
        own = os.getpid()

        def hear(number: int, _: Any) -> None:
            if os.getpid() != own:
                return  # a data loader process: a terminal sends Ctrl-C to it too
            self.received = max(self.received, number)
            if number == signal.SIGINT:
                for each in (signal.SIGINT, signal.SIGTERM):  # torch's launcher sends SIGTERM after a second Ctrl-C
                    signal.signal(each, signal.SIG_DFL)
                if aloud:  # not print, which may be what was interrupted
                    os.write(2, (NOTICE + (_SHOW_CURSOR if sys.stderr.isatty() else "")).encode())

        self.received = 0
        before = {each: signal.signal(each, hear) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
