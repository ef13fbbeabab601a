"""What this machine offers a process: processors, memory, disk, and what limits them. Standard library only."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq")
NVIDIA_DRIVER = (Path("/proc/driver/nvidia/version"), Path("/sys/module/nvidia/version"))
FIXED_GOVERNORS = ("powersave", "userspace")
"""Governors of the driver acpi-cpufreq that hold the processor at a low frequency."""
PACKAGE_MANAGERS = {
    "apt-get": "sudo apt-get install g++",
    "dnf": "sudo dnf install gcc-c++",
    "zypper": "sudo zypper install gcc-c++",
    "pacman": "sudo pacman -S gcc",
    "apk": "sudo apk add g++",
    "brew": "brew install llvm",
}


class Memory(NamedTuple):
    """Bytes; 0 where the system does not report them. `limited`: a container has less than the machine."""

    total: int
    free: int
    limited: bool = False


def cpus() -> int:
    """The processors that this process may use: its affinity, or less if its container has a quota."""
    offered = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(offered, math.ceil(quota())) if quota() else offered


def quota() -> float:
    """The processors of a container with a limit; 0 without one."""
    limit, _, period = _text(CGROUP / "cpu.max").partition(" ")
    if not period:  # the first version of control groups
        limit, period = (_text(CGROUP / "cpu" / f"cpu.cfs_{part}_us") for part in ("quota", "period"))
    return int(limit) / int(period) if limit.isdecimal() and period.isdecimal() and int(period) else 0.0


def load() -> float:
    """Processes that wanted a processor in the last minute, on average; 0 where it is unknown."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def memory() -> Memory:
    """Of the machine, or of the container if that has less."""
    found = {key: int(rest.split()[0]) << 10 for key, _, rest in map(_parts, _text(MEMINFO).splitlines()) if rest}
    total, free = found.get("MemTotal", 0), found.get("MemAvailable", 0)
    if not total:
        try:
            from psutil import virtual_memory
        except ImportError:
            return Memory(0, 0)
        total, free = virtual_memory().total, virtual_memory().available
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        allowed, taken = _text(CGROUP / limit), _text(CGROUP / used)
        if allowed.isdecimal() and taken.isdecimal() and int(allowed) < total:
            return Memory(int(allowed), min(free, max(int(allowed) - int(taken), 0)), limited=True)
    return Memory(total, free)


def free_space(folder: Path) -> int:
    """Free bytes of the disk on which `folder` is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size(folder: Path) -> int:
    """Bytes of the files in a folder, links not followed; 0 if there is none."""
    return sum(_sizes(folder))


def _sizes(folder: Path) -> Iterable[int]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _sizes(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield entry.stat(follow_symlinks=False).st_size


def slow_governor() -> str:
    """The frequency governor, if it keeps the processor slow; empty otherwise and where it cannot be read.

    "powersave" of the drivers intel_pstate and amd-pstate is not slow: it raises the frequency under load.
    """
    governor, driver = _text(FREQUENCY / "scaling_governor"), _text(FREQUENCY / "scaling_driver")
    return governor if governor in FIXED_GOVERNORS and "pstate" not in driver else ""


def has_nvidia_driver() -> bool:
    """Whether the kernel has NVIDIA's driver, or its tool is there, as in containers."""
    return any(file.exists() for file in NVIDIA_DRIVER) or shutil.which("nvidia-smi") is not None


def compiler_command() -> str:
    """The command that installs a C++ compiler with this system's package manager."""
    return next((command for name, command in PACKAGE_MANAGERS.items() if shutil.which(name)), "install g++ or clang++")


def _parts(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _text(file: Path) -> str:
    """The text of one of the system's files; empty where there is none."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
