"""Where files lie that can be made again: unpacked models, images, compiled code, rows. Standard library only."""

import os
from pathlib import Path


def cache_root() -> Path:
    """`$SWIFT_CACHE`, or `~/.cache/swift`."""
    return Path(os.environ.get("SWIFT_CACHE") or "~/.cache/swift").expanduser()


def passing() -> str | None:
    """Where large files go that nobody keeps: None for `$TMPDIR`, else /var/tmp, as /tmp is memory on many systems."""
    return None if os.environ.get("TMPDIR") or not os.access("/var/tmp", os.W_OK) else "/var/tmp"
