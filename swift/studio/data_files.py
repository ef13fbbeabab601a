"""The data files in the folders of the studio, and names for dropped ones. Reads none."""

from __future__ import annotations

import os
from pathlib import Path

from swift.data.readers import READERS
from swift.data.repository_layout import suffix
from swift.studio.folders import Folders

MOST, DEEPEST = 200, 3


def data_files(folders: Folders) -> list[Path]:
    """The first data files by name, hidden folders left out."""
    found: list[Path] = []
    for top in folders.named.values():
        for folder, below, names in os.walk(top):
            deep = len(Path(folder).relative_to(top).parts) >= DEEPEST
            below[:] = [] if deep else sorted(name for name in below if not name.startswith((".", "node_modules")))
            found += [Path(folder) / name for name in sorted(names) if is_data(name)]
            if len(found) >= MOST:
                return found[:MOST]
    return found


def is_data(name: str) -> bool:
    return suffix(name) in READERS and not name.startswith(".")


def add_upload(folder: Path, name: str) -> Path:
    """A free path for an uploaded file. Raises ValueError if its type is not that of a data file."""
    name = Path(name.replace("\\", "/")).name
    if not is_data(name):
        raise ValueError(f"{name}: unknown file type; supported: {', '.join(READERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    stem, end = name.split(".", 1)
    numbered = (folder / (f"{stem}.{end}" if number == 1 else f"{stem}-{number}.{end}") for number in range(1, 10_000))
    return next(path for path in numbered if not path.exists())
