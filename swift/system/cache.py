"""Folders for files that can be recreated: unpacked models, images, compiled code, rows. Standard library only."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_root() -> Path:
    """`$SWIFT_CACHE`, or `~/.cache/swift`."""
    return Path(os.environ.get("SWIFT_CACHE") or "~/.cache/swift").expanduser()


@contextmanager
def scratch_folder() -> Iterator[str]:
    """The folder for large temporary files: `$TMPDIR`, or /var/tmp, since /tmp is in memory on many systems.

    Raises OSError with a hint when it is full.
    """
    ours = not os.environ.get("TMPDIR") and os.access("/var/tmp", os.W_OK)
    folder = "/var/tmp" if ours else tempfile.gettempdir()
    try:
        yield folder
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(f"{folder} is full: set TMPDIR to a folder with more space for rows and their tokens") from error
