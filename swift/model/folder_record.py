"""`files.json` in a folder that was made here: tells a whole folder from a half-written one. Knows no model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

RECORD = "files.json"
"""Written last: the name, size and SHA-256 of every file."""


def write_record(folder: Path) -> None:
    record = {file.name: {"size": file.stat().st_size, "sha256": sha256(file)} for file in sorted(folder.iterdir())}
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def is_complete(folder: Path) -> bool:
    """Whether every recorded file has its size, and all but the weights their checksum.

    Hashing the 270 MB of weights would take longer than loading them.
    """
    try:
        record: dict[str, dict[str, int | str]] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(
        (folder / name).is_file()
        and (folder / name).stat().st_size == entry["size"]
        and (name.endswith(".safetensors") or sha256(folder / name) == entry["sha256"])
        for name, entry in record.items()
    )


def sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
