"""Installs the build of PyTorch for this machine into the running Python: `python torch_build.py auto`.

PyTorch's wheels on the package index contain CUDA. CPU builds are called `+cpu` and lie on an index of PyTorch's own,
which uv knows (`--torch-backend`) and pip does not. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
DRIVER_FILES = ("/proc/driver/nvidia/version", "/sys/module/nvidia/version")
CHOICES = "auto, cpu, cuda, or a backend of uv such as cu128, rocm6.4, xpu"
BACKEND = re.compile(r"cu\d{2,3}|rocm\d+(\.\d+)+|xpu")
INDEX = re.compile(r"(https?|file)://.")
NEEDED_GB = {True: 2.5, False: 9.0}
"""Free disk space that an install needs at most, downloads included: of a CPU build, of another."""
Run = Callable[[list[str]], bool]
"""Runs a command and returns whether it succeeded."""


class Attempt(NamedTuple):
    """A way to get a build: what it is called on the terminal, and how."""

    title: str
    install: Callable[[], bool]


def has_nvidia_driver() -> bool:
    """Whether the kernel has NVIDIA's driver, or its tool is there, as in containers."""
    return any(Path(file).exists() for file in DRIVER_FILES) or shutil.which("nvidia-smi") is not None


def requirement() -> str:
    """`torch==VERSION` of constraints.txt."""
    found = re.search(r"^torch==[\w.]+$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{CONSTRAINTS} has no torch=="
    return found[0]


def attempts(choice: str, nvidia: bool, run: Run, index: str = "") -> list[Attempt]:
    """The ways to get the chosen build, best first. An index is one that pip asks besides its own.

    Raises ValueError for an unknown choice, and for an index that cannot be one or is not asked.
    """
    if index and not (INDEX.match(index) or Path(index).is_dir()):
        raise ValueError(f"TORCH_INDEX={index} is neither a URL (https://...) nor a folder")
    if index and BACKEND.fullmatch(choice):
        raise ValueError(f"TORCH_INDEX does nothing with TORCH={choice}: uv knows that index: leave TORCH_INDEX out")
    torch = requirement()
    added = ["--extra-index-url", index] if index else []

    def pip(*wanted: str) -> Callable[[], bool]:
        # -q hides the list of what is already there, and pip's progress bars fill a log
        command = [sys.executable, "-m", "pip", "install", "-q", "--progress-bar", "off", "-c", str(CONSTRAINTS)]
        return lambda: run([*command, *added, *wanted])

    def uv(backend: str) -> Callable[[], bool]:
        def install() -> bool:
            with uv_program(run) as program:
                command = [program, "pip", "install", "--python", sys.executable, "-c", str(CONSTRAINTS)]
                return bool(program) and run([*command, "--torch-backend", backend, torch])

        return install

    cpu = [Attempt("the CPU build, by pip", pip(f"{torch}+cpu")), Attempt("the CPU build, by uv", uv("cpu"))]
    # where pip's links or index have the CPU build too, `torch==VERSION` alone would select it
    cuda = Attempt("the CUDA build (about 5 GB), by pip", pip(f"{torch},!={torch.partition('==')[2]}+cpu"))
    if choice == "cpu":
        return cpu
    if choice == "cuda":
        return [cuda]
    if choice == "auto":
        return [Attempt("the build for this GPU's driver, by uv", uv("auto")), cuda] if nvidia else [*cpu, cuda]
    if BACKEND.fullmatch(choice):
        return [Attempt(f"the {choice} build, by uv", uv(choice))]
    raise ValueError(f"TORCH={choice} is none of {CHOICES}")


@contextmanager
def uv_program(run: Run) -> Iterator[str]:
    """The path of uv: that of the user, or one that pip installs into a temporary folder; empty if pip cannot."""
    if own := shutil.which("uv"):
        yield own
        return
    with tempfile.TemporaryDirectory() as folder:
        installed = run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, "uv"])
        yield str(Path(folder) / "bin" / "uv") if installed else ""


def installed() -> str:
    """The version of torch in this Python, with its build (`2.13.0+cpu`); empty if there is none."""
    for distribution in metadata.distributions(name="torch"):
        return distribution.version
    return ""


def short_of_space(cpu: bool) -> str:
    """A line that says how much space is missing on the disk of this Python; empty if there is enough."""
    free, needed = shutil.disk_usage(sys.prefix).free / 1e9, NEEDED_GB[cpu]
    return "" if free >= needed else f"{sys.prefix}: {free:.1f} GB are free, and this needs up to {needed} GB"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Install the build of PyTorch for this machine")
    parser.add_argument("choice", metavar="TORCH", help=CHOICES)
    parser.add_argument("--index", default="", help="an index that pip asks besides its own")
    parser.add_argument("--check", action="store_true", help="install nothing: only look for wrong values")
    parser.add_argument("--log", type=Path, default=None, help="file to which the output of pip and uv is appended")
    given = parser.parse_args(arguments)

    def run(command: list[str]) -> bool:
        if given.log is None:
            return subprocess.run(command).returncode == 0
        with given.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode == 0

    try:
        ways = attempts(given.choice, has_nvidia_driver(), run, given.index)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if given.check:
        return 0
    where = f" (log: {given.log})" if given.log else ""
    for way in ways:
        print(f"torch: {way.title}{where} ...", flush=True)
        if not installed() and (problem := short_of_space("CPU" in way.title)):
            print(problem, file=sys.stderr)
            return 1
        if way.install():
            print(f"torch: {fresh_version()}")
            return 0
    if given.log:
        print(*given.log.read_text(encoding="utf-8").splitlines()[-8:], sep="\n", file=sys.stderr)
    print(f"failed: no build of {requirement()} was found for TORCH={given.choice}{where}", file=sys.stderr)
    if given.choice == "cpu":
        print(
            'Name PyTorch\'s index of CPU builds, TORCH_INDEX=URL: its page "Start Locally" shows it for pip and CPU.\n'
            "Or take the CUDA build, TORCH=cuda, which runs without a GPU too.",
            file=sys.stderr,
        )
    return 1


def fresh_version() -> str:
    """The version that a new process of this Python finds: this one may have cached an earlier answer."""
    code = "from importlib.metadata import version; print(version('torch'))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() or "not found"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
