"""Where files are kept that can be made again: unpacked models, images, compiled code. Standard library only."""

import os
from pathlib import Path


def cache_root() -> Path:
    """`$SWIFT_CACHE`, or `~/.cache/swift`."""
    return Path(os.environ.get("SWIFT_CACHE") or "~/.cache/swift").expanduser()
