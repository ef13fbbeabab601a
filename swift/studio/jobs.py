"""Other `swift` commands as processes, each with a folder; they outlive the pages' server. Knows no command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from swift.runs import processes
from swift.runs.processes import Process
from swift.system import invocation

State = Literal["starting", "running", "finished", "failed", "stopped", "killed"]
FILE, LOG, END = "job.json", "output.log", "end.json"
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
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 400 * last))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line.rpartition("\r")[2]) for line in text.split("\n")]
        return "\n".join(lines[-last - 1 :])


class Jobs:
    """The jobs of a folder. Holds no state of its own: another process with the same folder sees the same jobs."""

    def __init__(self, folder: Path, working_folder: Path) -> None:
        self.folder, self.working_folder = folder, working_folder

    def start(self, words: Sequence[str]) -> Job:
        """Starts `swift WORDS` in a session of its own. Raises OSError where it cannot be started."""
        folder = self._new(words[0])
        content = {"words": list(words), "started": time.time()}
        (folder / FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.setdefault(invocation.VARIABLE, invocation.program())
        with (folder / LOG).open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", "swift.studio.job_process", str(folder)],
                cwd=self.working_folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
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
        _write(job.folder / "stop.json", {"now": now})  # so that its end is recorded as wanted
        if job.process is not None:
            if now:
                processes.kill_all(job.process)
            else:
                processes.send(job.process, signal.SIGTERM)

    def _new(self, verb: str) -> Path:
        begin = f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^a-z0-9_-]', '', verb)}"
        for count in range(1000):
            folder = self.folder / (begin if count == 0 else f"{begin}-{count}")
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                continue
        raise OSError(f"{self.folder} has too many jobs of this second")


def read(folder: Path) -> Job:
    """The job of a folder. Raises OSError or ValueError where there is none."""
    content = _json(folder / FILE)
    words, started = tuple(content["words"]), float(content["started"])
    running, end = _optional(folder / "process.json"), _optional(folder / END)
    process = Process(**running) if running else None
    if end is not None:
        code = int(end["code"])
        state, reason = _ended(folder, code)
        return Job(folder.name, folder, words, state, reason, started, float(end["ended"]), code, process)
    if process is None:
        late = time.time() - started > STARTING
        return Job(folder.name, folder, words, "failed" if late else "starting", _last(folder) if late else "", started)
    if processes.look(process) == "gone" and _optional(folder / END) is None:
        time.sleep(0.05)  # its end is written just after it is gone
        if (folder / END).exists():
            return read(folder)
        return Job(
            folder.name,
            folder,
            words,
            "killed",
            "its process is gone without a last word",
            started,
            None,
            None,
            process,
        )
    return Job(folder.name, folder, words, "running", "", started, None, None, process)


def began(folder: Path, process: Process) -> None:
    """Records the process of a job."""
    _write(folder / "process.json", asdict(process))


def ended(folder: Path, code: int) -> None:
    """Records the end of a job."""
    _write(folder / END, {"code": code, "ended": time.time()})


def _ended(folder: Path, code: int) -> tuple[State, str]:
    stop = _optional(folder / "stop.json")
    if stop is not None and code != 0:
        return ("killed", "by the studio") if stop.get("now") else ("stopped", "by the studio")
    if code == 0:
        return "finished", ""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        memory = ": this machine may have been short of memory" if -code == signal.SIGKILL else ""
        return "killed", f"by {name}{memory}"
    return "failed", _last(folder) or f"exit code {code}"


def _last(folder: Path) -> str:
    """The last line of the log, without the program's name."""
    try:
        text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.rpartition("\r")[2].strip() for line in text[-8000:].splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return last.partition("swift: error: ")[2] or last


def _json(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file} has no JSON object")
    return content


def _optional(file: Path) -> dict[str, Any] | None:
    try:
        return _json(file)
    except (OSError, ValueError):
        return None


def _write(file: Path, content: object) -> None:
    new = file.with_name(f".{file.name}.new")
    new.write_text(json.dumps(content), encoding="utf-8")
    new.replace(file)
