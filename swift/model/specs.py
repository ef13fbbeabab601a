"""The models known by name, and finding one by name, hub id or folder. Loads nothing, downloads nothing."""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A row of models.toml, which says what each column means.

    `lora_targets` is what the target `DEFAULT` adapts; `template` is empty for the tokenizer's own.
    """

    model_type: str
    ms: str
    hf: str
    template: str
    arch: str
    convert: str = ""
    quant: str = ""
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    revision: str = "master"
    modality: str = "text"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.model_type, self.ms, self.hf) if name)


@cache
def table() -> dict[str, ModelSpec]:
    """Every known model by its `model_type`."""
    rows = tomllib.loads((Path(__file__).parent / "models.toml").read_text(encoding="utf-8"))
    return {name: _spec(name, row) for name, row in rows.items()}


def _spec(name: str, row: dict[str, Any]) -> ModelSpec:
    if "lora" in row:
        row["lora_targets"] = tuple(row.pop("lora"))
    return ModelSpec(model_type=name, **row)


def find(name: str) -> ModelSpec | None:
    """The model meant by a `model_type`, a hub id (case does not matter) or a folder; None when nothing says so."""
    folder = Path(name).expanduser()
    return by_name(name) or (_of_folder(folder) if folder.is_dir() else None)


def by_name(name: str) -> ModelSpec | None:
    """The model of that `model_type` or hub id; folders are not looked at."""
    return _by_name().get(name.lower())


def choose(model_type: str | None, *names: str) -> ModelSpec | None:
    """The model of `model_type`, which must be a known one; without it, of the first name or folder that says so."""
    if model_type:
        if spec := by_name(model_type):
            return spec
        near = nearest(model_type)
        raise ValueError(f"unknown model_type {model_type!r}" + (f": did you mean {near}?" if near else ""))
    return next((spec for name in names if (spec := find(name))), None)


def nearest(name: str) -> str:
    """The known name most like `name`, or an empty string."""
    found = difflib.get_close_matches(name.lower(), _by_name(), n=1, cutoff=0.5)
    if not found:
        return ""
    spec = _by_name()[found[0]]
    return next(known for known in spec.names if known.lower() == found[0])


@cache
def _by_name() -> dict[str, ModelSpec]:
    return {name.lower(): spec for spec in table().values() for name in spec.names}


@cache
def _by_last_part() -> dict[str, ModelSpec]:
    return {name.lower().rsplit("/", 1)[-1]: spec for spec in table().values() for name in spec.names}


def _of_folder(folder: Path) -> ModelSpec | None:
    """What the folder's own records say, else what its name says."""
    for record in ("configuration.json", "sft_args.json"):
        model_type = _recorded_model_type(folder / record)
        if model_type in table():
            return table()[model_type]
    name = folder.resolve().name
    if folder.resolve().parent.name == "snapshots":  # Hugging Face cache: models--ORG--NAME/snapshots/COMMIT
        name = folder.resolve().parents[1].name.rsplit("--", 1)[-1]
    return _by_last_part().get(name.lower().replace("___", "."))  # ModelScope's cache writes `.` as `___`


def _recorded_model_type(file: Path) -> str:
    if not file.is_file():
        return ""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    model_type = record.get("model_type") if isinstance(record, dict) else None
    return model_type if isinstance(model_type, str) else ""
