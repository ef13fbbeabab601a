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


def end_tokens(folder: Path) -> tuple[int, ...]:
    """The ids that end a reply by the model's generation_config.json; none where it says nothing."""
    file = folder / "generation_config.json"
    own = json_object(file).get("eos_token_id") if file.is_file() else None
    ids = own if isinstance(own, list) else [own]
    return tuple(each for each in ids if isinstance(each, int))
