"""The catalog of known models: lookup by name, hub id or folder. Loads nothing, downloads nothing.

`registry`: TOML files of the user, whose tables [models.NAME] have the keys of models.toml. A name in a later file
overrides the same name in an earlier one and in models.toml.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from swift.system import toml_file
from swift.system.nearest import closest

RECORD = "sft_args.json"
"""The file in which training records its flags, next to what it saves."""
SECTIONS = ("models", "datasets")
"""The tables a user's file may have; its data sets are read elsewhere."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A row of models.toml, which documents each column.

    `lora_targets`: the modules that the target DEFAULT means. `template`: empty for the tokenizer's own chat template.
    `adapter`: the folder of an adapter, which makes this model of the model `base`.
    """

    model_type: str
    ms: str = ""
    hf: str = ""
    template: str = ""
    arch: str = ""
    convert: str = ""
    quant: str = ""
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    revision: str = "master"
    modality: str = "text"
    path: str = ""
    model: str = ""
    tokenizer: str = ""
    base: str = ""
    adapter: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.model_type, self.ms, self.hf) if name)


def table(registry: Sequence[str] = ()) -> Mapping[str, ModelSpec]:
    """Every known model by its `model_type`."""
    found = _published()
    for name in registry:
        file = Path(name).expanduser()
        for model_type, row in _tables(file).items():
            found = {**found, model_type: _own(file, model_type, row, found)}
    return found


@cache
def _published() -> Mapping[str, ModelSpec]:
    here = Path(__file__).parent
    rows = toml_file.read(here / "models.toml")
    placed = {
        name: row | {"adapter": str(here / row["adapter"])} if "adapter" in row else row for name, row in rows.items()
    }
    return {name: ModelSpec(name, **_renamed(row)) for name, row in placed.items()}


def _renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    lora = {"lora_targets": tuple(row["lora"])} if "lora" in row else {}
    return {key: value for key, value in row.items() if key != "lora"} | lora


def find(name: str, registry: Sequence[str] = ()) -> ModelSpec | None:
    """The model of a `model_type`, a hub id (case-insensitive) or a folder; None if unknown."""
    folder = Path(name).expanduser()
    return by_name(name, registry) or (_of_folder(folder, registry) if folder.is_dir() else None)


def by_name(name: str, registry: Sequence[str] = ()) -> ModelSpec | None:
    """The model of a `model_type` or hub id; looks at no folder."""
    return _by_name(registry).get(name.lower())


def choose(model_type: str | None, *names: str, registry: Sequence[str] = ()) -> ModelSpec | None:
    """The model of `model_type`, else of the first name or folder that is known.

    Raises ValueError for an unknown `model_type`.
    """
    if model_type:
        if spec := by_name(model_type, registry):
            return spec
        near = nearest(model_type, registry)
        raise ValueError(
            f"unknown model_type {model_type!r}"
            + (f": did you mean {near}?" if near else "")
            + ("" if registry else " (register a name of your own with --registry FILE.toml)")
        )
    return next((spec for name in names if (spec := find(name, registry))), None)


def nearest(name: str, registry: Sequence[str] = ()) -> str:
    """The known name most similar to `name`; empty if none is."""
    known = _by_name(registry)
    found = closest(name.lower(), known, n=1, cutoff=0.5)
    return next(each for each in known[found[0]].names if each.lower() == found[0]) if found else ""


def _by_name(registry: Sequence[str]) -> Mapping[str, ModelSpec]:
    return _indexed(registry) if registry else _published_by_name()


@cache
def _published_by_name() -> Mapping[str, ModelSpec]:
    return _indexed(())


def _indexed(registry: Sequence[str]) -> Mapping[str, ModelSpec]:
    return {name.lower(): spec for spec in table(registry).values() for name in spec.names}


# The user's tables ---------------------------------------------------------------------------------------------


def _tables(file: Path) -> dict[str, Any]:
    """The tables [models.NAME] of a file. Raises ValueError for other tables and invalid TOML."""
    content = toml_file.read(file)
    for section in content:
        if section not in SECTIONS:
            hint = _near(section, SECTIONS) or f"; did you mean [models.{section}]?"
            raise ValueError(f"{file}: unknown table [{section}]{hint}")
    models = content.get("models", {})
    if not isinstance(models, dict) or not all(isinstance(row, dict) for row in models.values()):
        raise ValueError(f"{file}: models must be tables, [models.NAME]")
    return models


_TAKEN = ("model_type", "lora_targets", "convert", "base")
"""Fields that a table does not set: `convert` follows from a folder's config.json, `base` is what `of` names."""


def _own(file: Path, name: str, row: Mapping[str, Any], known: Mapping[str, ModelSpec]) -> ModelSpec:
    """A row of the user's table; with `of`, the rest except the location comes from that model."""
    keys = ["of", "lora", *(each.name for each in fields(ModelSpec) if each.name not in _TAKEN)]
    for key, value in row.items():
        if key not in keys:
            raise ValueError(f"{file}: {name}: unknown key {key!r}{_near(key, keys)}")
        listed = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if not (listed if key == "lora" else isinstance(value, str)):
            raise ValueError(f"{file}: {name}: {key} must be {'a list of strings' if key == 'lora' else 'a string'}")
    of = row.get("of")
    if of is not None and of not in known:
        raise ValueError(f"{file}: {name}: of: there is no model {of!r}{_near(of, known)}")
    original = (
        replace(known[of], ms="", hf="", path="", revision="master", base="", adapter="") if of else ModelSpec("")
    )
    given = _renamed({key: value for key, value in row.items() if key != "of"})
    for key in (
        "path",
        "model",
        "tokenizer",
        "adapter",
    ):  # relative to the folder of the file; a function is FILE.py:NAME
        if given.get(key):
            given[key] = str(file.resolve().parent / Path(given[key]).expanduser())
    spec = replace(original, **given, model_type=name)
    if spec.adapter:
        if not of:
            raise ValueError(f"{file}: {name}: adapter needs of, the model that it is for")
        if own := next((key for key in ("ms", "hf", "path", "model", "tokenizer", "revision") if key in row), None):
            raise ValueError(f"{file}: {name}: {own} has no effect beside adapter: give it to the model that of names")
        return replace(spec, base=of, model="", tokenizer="")
    if not (spec.ms or spec.hf or spec.path):
        raise ValueError(f"{file}: {name}: has no location: add ms, hf, path or adapter")
    return spec


def _near(word: str, choices: Iterable[str]) -> str:
    close = closest(word, list(choices), 1)
    return f"; did you mean {close[0]}?" if close else ""


# Folders --------------------------------------------------------------------------------------------------------------


def _of_folder(folder: Path, registry: Sequence[str]) -> ModelSpec | None:
    """The model of a folder by the user's tables, else by the folder's own records, else by its name."""
    known = table(registry)
    for spec in known.values():
        if spec.path and Path(spec.path).resolve() == folder.resolve():
            return spec
    for record in ("configuration.json", RECORD):
        model_type = _recorded_model_type(folder / record)
        if model_type in known:
            return known[model_type]
    name = folder.resolve().name
    if folder.resolve().parent.name == "snapshots":  # Hugging Face cache: models--ORG--NAME/snapshots/COMMIT
        name = folder.resolve().parents[1].name.rsplit("--", 1)[-1]
    last_part = {each.rsplit("/", 1)[-1]: spec for each, spec in _by_name(registry).items()}
    return last_part.get(name.lower().replace("___", "."))  # ModelScope's cache writes `.` as `___`


def _recorded_model_type(file: Path) -> str:
    if not file.is_file():
        return ""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    model_type = record.get("model_type") if isinstance(record, dict) else None
    return model_type if isinstance(model_type, str) else ""
