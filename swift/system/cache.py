"""Where files lie that can be made again: unpacked models, images, compiled code, rows. Standard library only."""

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
    """Where large files go that nobody keeps: `$TMPDIR`, or /var/tmp, as /tmp is memory on many systems.

    Raises OSError that says so where it is full.
    """
    ours = not os.environ.get("TMPDIR") and os.access("/var/tmp", os.W_OK)
    folder = "/var/tmp" if ours else tempfile.gettempdir()
    try:
        yield folder
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(f"no room in {folder} for rows and their tokens: set TMPDIR to a disk with more") from error
