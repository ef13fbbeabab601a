"""Commands and paths as the user would type them. Standard library only."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

VARIABLE = "SWIFT_PROGRAM"
"""How the launcher of several processes was started; the processes themselves are started as a module."""

KEPT = (
    *(
        "NPROC_PER_NODE",
        "NNODES",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "SWIFT_CACHE",
        "SWIFT_OFFLINE",
        "HF_HUB_OFFLINE",
        "HF_HOME",
        "MODELSCOPE_CACHE",
    ),
)
"""Environment variables that decide what a command does. None holds a secret."""


class Started(NamedTuple):
    """The words after `swift`, and the variables of `KEPT` that were set."""

    words: list[str]
    environment: dict[str, str]


_started = Started([], {})


def started() -> Started:
    """How this process was started; no words where it is not the program `swift`."""
    return _started


def set_started(words: Sequence[str]) -> None:
    """The program `swift` calls this first, since a run changes the environment."""
    global _started
    _started = Started(list(words), {name: os.environ[name] for name in KEPT if name in os.environ})


def program() -> str:
    """How this program was started: a path or a name."""
    return os.environ.get(VARIABLE) or sys.argv[0]


def name() -> str:
    """`swift` if PATH finds this program, else the path it was started by, or `python -m swift.cli`."""
    path = Path(program())
    if path.name != "swift":
        return f"{shlex.quote(_known(sys.executable))} -m swift.cli"
    found = shutil.which("swift")
    if found and path.exists() and Path(found).samefile(path):
        return "swift"
    return shlex.quote(display_path(path))


def _known(executable: str) -> str:
    """`python` if PATH finds this interpreter, else its path."""
    found = shutil.which("python")
    return "python" if found and Path(found) == Path(executable) else display_path(Path(executable))


def display_path(path: str | Path) -> str:
    """A path relative to the current folder if it is inside; else absolute."""
    absolute = Path(path).expanduser().absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def command(*words: str | Path) -> str:
    """A quoted command line, such as `swift infer --ckpt_dir output/...`; `Path`s become display paths."""
    return " ".join([name(), *(shlex.quote(display_path(word) if isinstance(word, Path) else word) for word in words)])
