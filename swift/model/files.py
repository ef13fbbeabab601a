"""A file that must hold one JSON object. Knows no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def json_object(file: Path) -> dict[str, Any]:
    """What the file holds. ValueError where it is half-written, or holds something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: half-written or damaged: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: not a JSON object")
    return value
