"""Starts processes, and says which one a record means and whether it still lives. Knows no run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Sight = Literal["lives", "suspended", "gone", "elsewhere"]
"""`elsewhere`: the process is on another machine or in another container, where it cannot be seen from here."""
PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process, so that another one with the same pid is not mistaken for it.

    `boot` and `namespace`: the boot of the machine and the space of its pids, empty where the system names neither.
    `start`: when the process began, in the system's own units.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    start: str


def of(pid: int) -> Process:
    """The process that has this pid now."""
    return Process(socket.gethostname(), _boot(), _namespace(), pid, _start(pid))


def look(process: Process) -> Sight:
    """Whether a process lives."""
    if process.host != socket.gethostname():
        return "elsewhere"
    if process.boot != _boot():
        return "gone"
    if process.namespace != _namespace():
        return "elsewhere"
    if not process.start or _start(process.pid) != process.start:
        return "gone"
    return _sight(process.pid)


def start(command: Sequence[str], folder: str | Path, environment: Mapping[str, str], output: Path) -> int:
    """Starts a command in a session of its own, which outlives the terminal, and returns its pid.

    What it prints is appended to `output`. Raises OSError where it cannot be started.
    """
    with output.open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ).pid


def send(process: Process, number: signal.Signals) -> None:
    """Sends a signal to a process, which may be gone. Raises PermissionError for another user's."""
    if look(process) in ("lives", "suspended"):
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return


def kill_all(process: Process) -> None:
    """Kills a process and all that it started, which a kill of the first alone would leave behind."""
    import psutil  # 30 ms to import

    if look(process) not in ("lives", "suspended"):
        return
    try:
        below = psutil.Process(process.pid).children(recursive=True)
        send(process, signal.SIGKILL)
        for each in below:
            each.kill()  # psutil refuses a pid that another process has by now
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise PermissionError(f"pid {error.pid} belongs to another user") from error


def killed_for_memory() -> int | None:
    """How many processes this machine has killed since its boot for lack of memory; None where it does not count."""
    try:
        lines = (PROC / "vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def _boot() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str((PROC / "self/ns/pid").readlink())
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; the second, a name, may contain anything."""
    text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()


def _start(pid: int) -> str:
    """Empty if there is no such process."""
    if (PROC / "self/stat").exists():
        try:
            return _stat(pid)[22 - 3]  # clock ticks since boot, proc(5)
        except (OSError, IndexError):
            return ""
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""


def _sight(pid: int) -> Sight:
    if (PROC / "self/stat").exists():
        try:
            letter = _stat(pid)[0]
        except (OSError, IndexError):
            return "gone"
        return "gone" if letter in "ZXx" else "suspended" if letter in "Tt" else "lives"
    import psutil

    try:
        status = psutil.Process(pid).status()
    except psutil.Error:
        return "gone"
    return "gone" if status == psutil.STATUS_ZOMBIE else "suspended" if status == psutil.STATUS_STOPPED else "lives"
