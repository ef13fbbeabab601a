"""Files and folders that appear under their names complete or not at all. Standard library only."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from swift.system import file_modes


def _never(_: Path) -> bool:
    return False


@contextmanager
def atomic_folder(target: Path, keep: Callable[[Path], bool] = _never) -> Iterator[Path]:
    """A new folder that replaces `target` when the block ends; an error removes it and leaves `target` as it was.

    `keep`: a `target` of which this is true, such as one that another process has just written, stays instead.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    folder, former = temporary / "new", temporary / "former"
    folder.mkdir()
    try:
        yield folder
        file_modes.apply_umask(folder)
        if target.exists() and not keep(target):
            target.rename(former)
        try:
            folder.rename(target)
        except OSError:
            if former.exists():
                former.rename(target)
                raise
            if not keep(target):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A path to write to; the file there replaces `target` when the block ends, and an error removes it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        written = Path(folder) / target.name
        yield written
        written.replace(target)
