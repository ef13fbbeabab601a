"""JSON files of a model's folder. Knows no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def json_object(file: Path) -> dict[str, Any]:
    """The JSON object of a file. Raises ValueError if it is damaged or holds something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: half-written or damaged: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: not a JSON object")
    return value


def end_tokens(folder: Path) -> tuple[int, ...]:
    """The stop tokens in the model's generation_config.json; empty if there are none."""
    file = folder / "generation_config.json"
    own = json_object(file).get("eos_token_id") if file.is_file() else None
    ids = own if isinstance(own, list) else [own]
    return tuple(each for each in ids if isinstance(each, int))
