"""Keeps run.json up to date from a thread, so that no step waits for a disk. Knows no trainer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from swift.runs import processes, record
from swift.runs.record import Record, State

SECONDS = 1.0
"""Between two writings."""


class Writer:
    """Writes a record at once, then whenever it has changed, at most once in `seconds`.

    A file that cannot be written is reported to `warn` once, and does not end the run.
    """

    def __init__(
        self,
        folder: Path,
        begun: Record,
        warn: Callable[[str], None],
        seconds: float = SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.seconds, self.now = folder, seconds, now
        self._warn, self._warned = warn, False
        self._record = begun
        self._lock, self._changed, self._closed = threading.Lock(), threading.Event(), threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._run, name="run.json", daemon=True)
        self._thread.start()

    def beat(self, state: State | None = None, progress: Mapping[str, Any] | None = None) -> None:
        """A sign of life, with what it changes: the state, fields of `Progress`."""
        with self._lock:
            found = self._record
            self._record = replace(
                found,
                heartbeat=self.now(),
                state=state or found.state,
                progress=replace(found.progress, **progress) if progress else found.progress,
            )
        self._changed.set()

    def close(self, state: State, reason: str) -> None:
        """Writes how the run ended."""
        self._closed.set()
        self._thread.join()
        now = self.now()
        progress = replace(self._record.progress, seconds_left=None)
        self._record = replace(self._record, state=state, reason=reason, heartbeat=now, ended=now, progress=progress)
        self._write()

    def _run(self) -> None:
        while not self._closed.wait(self.seconds):
            if self._changed.is_set():
                self._changed.clear()
                self._write()

    def _write(self) -> None:
        with self._lock:
            found = replace(self._record, killed_for_memory=processes.killed_for_memory())
        try:
            record.write(self.folder, found)
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(
                    f"warning: {self.folder / record.FILE} cannot be written ({error.strerror}); training goes on"
                )
