"""Applies the umask to written files, also where a library restricts them to their owner. Standard library only."""

from __future__ import annotations

import stat
from pathlib import Path


def apply_umask(folder: Path) -> None:
    """Gives each file below `folder` the permissions of `folder` without the execute bits.

    safetensors writes files with mode 0600, which another account could not serve.
    """
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)
