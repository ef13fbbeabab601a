"""The mode of written files: what the umask says, also where a library keeps them to their owner. Imports nothing."""

from __future__ import annotations

import stat
from pathlib import Path


def apply_umask(folder: Path) -> None:
    """Gives each file below `folder` the mode that the umask gave `folder`, without the bits to execute.

    safetensors writes with mode 0600, so another account could not serve what was trained.
    """
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)
