"""Other `swift` commands as processes, each with a folder; they outlive the pages' server. Knows no command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from swift.runs import processes
from swift.runs.processes import Process
from swift.system import invocation
from swift.system.atomic_write import atomic_file

State = Literal["starting", "running", "finished", "failed", "stopped", "killed"]
FILE, LOG, PROCESS, STOP, END = "job.json", "output.log", "process.json", "stop.json", "end.json"
STARTING = 10.0
"""Seconds that a job may take to write its first record."""


@dataclass(frozen=True)
class Job:
    """A command as a reader sees it now. `words`: those after `swift`. Times are seconds since 1970.

    `process`: of the command itself; None until it has started. `code`: its exit code, negative for a signal.
    """

    name: str
    folder: Path
    words: tuple[str, ...]
    state: State
    reason: str
    started: float
    ended: float | None = None
    code: int | None = None
    process: Process | None = None

    @property
    def is_active(self) -> bool:
        return self.state in ("starting", "running")

    @property
    def verb(self) -> str:
        return self.words[0]

    def log(self, last: int = 200) -> str:
        """The last lines that it has printed; progress bars as they stand now."""
        return _log(self.folder, last)


class Jobs:
    """The jobs of a folder. Holds no state of its own: another process with the same folder sees the same jobs."""

    def __init__(self, folder: Path, working_folder: Path) -> None:
        self.folder, self.working_folder = folder, working_folder

    def start(self, words: Sequence[str]) -> Job:
        """Starts `swift WORDS` in a session of its own. Raises OSError where it cannot be started."""
        self.folder.mkdir(parents=True, exist_ok=True)
        begin = f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^a-z0-9_-]', '', words[0])}-"
        folder = Path(tempfile.mkdtemp(prefix=begin, dir=self.folder))
        write(folder / FILE, {"words": list(words), "started": time.time()})
        environment = {invocation.VARIABLE: invocation.program(), **os.environ, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "swift.studio.jobs", str(folder)]
        processes.start(command, self.working_folder, environment, folder / LOG)
        return read(folder)

    def all(self) -> list[Job]:
        """The one that began last first."""
        found = []
        for file in self.folder.glob(f"*/{FILE}"):
            try:
                found.append(read(file.parent))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # deleted since, or not ours
        return sorted(found, key=lambda job: job.started, reverse=True)

    def named(self, name: str) -> Job:
        """Raises ValueError for an unknown name."""
        folder = self.folder / name
        if Path(name).name != name or not (folder / FILE).is_file():
            raise ValueError(f"there is no job {name!r}")
        return read(folder)

    def stop(self, name: str, now: bool = False) -> None:
        """Asks a job to end, as Ctrl-C does, or kills it with all that it started; does not wait.

        Raises ValueError for a job that has ended.
        """
        job = self.named(name)
        if not job.is_active:
            raise ValueError(f"{name} is not running: {job.state}")
        write(job.folder / STOP, {"now": now})  # so that its end is recorded as wanted
        if job.process is not None:
            if now:
                processes.kill_all(job.process)
            else:
                processes.send(job.process, signal.SIGTERM)


def read(folder: Path) -> Job:
    """The job of a folder. Raises OSError or ValueError where there is none."""
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    running, end = _optional(folder / PROCESS), _optional(folder / END)
    process = Process(**running) if running else None
    if end is None and process and processes.look(process) == "gone":
        time.sleep(0.05)  # its end is written just after it is gone
        end = _optional(folder / END)
    state, reason = _state(folder, process, end, time.time() - content["started"])
    times = (content["started"], end["ended"] if end else None)
    return Job(
        folder.name, folder, tuple(content["words"]), state, reason, *times, end["code"] if end else None, process
    )


def _state(folder: Path, process: Process | None, end: dict[str, Any] | None, age: float) -> tuple[State, str]:
    """The state of a job that began `age` seconds ago, and the reason."""
    if end is None:
        if process is None:
            return ("failed", _last(folder)) if age > STARTING else ("starting", "")
        gone = processes.look(process) == "gone"
        return ("killed", "its process is gone without a last word") if gone else ("running", "")
    code, stop = end["code"], _optional(folder / STOP)
    if code == 0:
        return "finished", ""
    if stop is not None:
        return "killed" if stop["now"] else "stopped", "by the studio"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        memory = ": this machine may have been short of memory" if -code == signal.SIGKILL else ""
        return "killed", f"by {name}{memory}"
    return "failed", _last(folder) or f"exit code {code}"


def _log(folder: Path, last: int) -> str:
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 400 * last))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line.rpartition("\r")[2]) for line in text.split("\n")]
    return "\n".join(lines[-last - 1 :])


def _last(folder: Path) -> str:
    """The last line of the log, without the program's name."""
    last = next((line.strip() for line in reversed(_log(folder, 20).splitlines()) if line.strip()), "")
    return last.partition("swift: error: ")[2] or last


def _optional(file: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def write(file: Path, content: object) -> None:
    """Records what is known of a job, whole or not at all."""
    with atomic_file(file) as new:
        new.write_text(json.dumps(content), encoding="utf-8")


def main(folder: Path) -> int:
    """The process of a job: runs its command, and writes how it ended, which nobody else could later."""
    words = json.loads((folder / FILE).read_text(encoding="utf-8"))["words"]
    command = subprocess.Popen([sys.executable, "-m", "swift.cli", *words])
    signal.signal(signal.SIGTERM, lambda number, _: command.send_signal(number))
    write(folder / PROCESS, asdict(processes.of(command.pid)))
    code = command.wait()
    write(folder / END, {"code": code, "ended": time.time()})
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
