"""How this program was started, and commands and paths as its user would type them. Standard library only."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

VARIABLE = "SWIFT_PROGRAM"
"""What the launcher of several processes was started as; theirs is a module."""


def name() -> str:
    """`swift` where that is what PATH finds, else the path it was started by, or `python -m swift.cli`."""
    word = os.environ.get(VARIABLE) or sys.argv[0]
    path = Path(word)
    if path.name != "swift":
        return f"{shlex.quote(_known(sys.executable))} -m swift.cli"
    found = shutil.which("swift")
    if found and path.exists() and Path(found).samefile(path):
        return "swift"
    return shlex.quote(display_path(path))


def _known(executable: str) -> str:
    """`python` where PATH finds this interpreter by that word."""
    found = shutil.which("python")
    return "python" if found and Path(found) == Path(executable) else display_path(Path(executable))


def display_path(path: str | Path) -> str:
    """A path from where the user stands, if it lies below; else absolute."""
    whole = Path(path).expanduser().absolute()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(whole)


def command(*words: str | Path) -> str:
    """A line that can be pasted: `swift infer --ckpt_dir output/...`. A `Path` is shown from where the user stands."""
    return " ".join([name(), *(shlex.quote(display_path(word) if isinstance(word, Path) else word) for word in words)])
