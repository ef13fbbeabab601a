"""A TOML file -> a dict: tomllib, which Python has from 3.11 on, else tomli."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from swift.system.nearest import nearest_path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read(path: Path) -> dict[str, Any]:
    """The content of a file. Raises ValueError with the path for a file that cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}{nearest_path(path)}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
