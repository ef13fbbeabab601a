"""Data sets by name: the published ones and those in the user's TOML files. Reads no row and is offline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from swift.data.preprocessors import PREPROCESSORS, Preprocessor, as_rows, with_labels, with_query
from swift.data.row_values import BadRow, Row
from swift.system import toml_file, user_code
from swift.system.nearest import closest

TRAINABLE = ("text",)
"""The modalities that can be trained on."""

SECTIONS = ("datasets", "models")
"""The tables that a user's file may have; `models` is read by `swift.model`."""


@dataclass(frozen=True)
class Entry:
    """One table of datasets.toml, which documents the keys. Paths are absolute."""

    ms: str = ""
    hf: str = ""
    path: str = ""
    of: str = ""
    subsets: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    split: tuple[str, ...] = ("train",)
    held_out: tuple[str, ...] = ()
    rows: str = ""
    query: str = ""
    labels: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    count: int | None = None
    modality: str = "text"
    size: int | None = None
    tags: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(name for name in (self.ms, self.hf) if name)

    @property
    def read_by_default(self) -> tuple[str, ...]:
        """The subsets that are read by default; empty for a data set without subsets."""
        return self.read or self.subsets


Catalogue = Mapping[str, Entry]


@cache
def known() -> Catalogue:
    """The published data sets by name."""
    file = Path(__file__).with_name("datasets.toml")
    return _entries(toml_file.read(file), file, {})


def catalogue(files: Sequence[str] = ()) -> Catalogue:
    """The published data sets and those of the user's files. Later files override earlier ones. Raises ValueError."""
    found = known()
    for name in files:
        file = Path(name).expanduser()
        tables = toml_file.read(file)
        for section in tables:
            if section not in SECTIONS:
                hint = near(section, SECTIONS) or f"; did you mean [datasets.{section}]?"
                raise ValueError(f"{file}: unknown table [{section}]{hint}")
        found = {**found, **_entries(tables.get("datasets", {}), file, found)}
    return found


def preprocessor_for(name: str, entry: Entry) -> Preprocessor:
    """The function that preprocesses each row of a data set, before its format is detected. Raises ValueError."""
    steps = [_user_function(entry.rows) if ":" in entry.rows else _built_in(name, entry.rows)]
    if entry.query:
        steps.append(with_query(entry.query))
    if entry.labels:
        steps.append(with_labels(entry.labels))
    return steps[0] if len(steps) == 1 else _in_turn(steps)


def near(word: str, choices: Iterable[str]) -> str:
    """A suggestion of the choice most similar to `word`; "" if none is."""
    close = closest(word, list(choices), 1)
    return f"; did you mean {close[0]}?" if close else ""


# TOML -> entries ------------------------------------------------------------------------------------------------------

LISTS = ("subsets", "read", "split", "held_out", "labels", "tags")
NUMBERS = ("count", "size")
MAPPINGS = ("columns",)


def _entries(tables: Any, file: Path, others: Catalogue) -> dict[str, Entry]:
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError(f"{file}: data sets are tables, [datasets.NAME]")
    whole = {name: _entry(file, name, table, Entry()) for name, table in tables.items() if "of" not in table}
    found = {}
    for name, table in tables.items():
        found[name] = whole.get(name) or _entry(file, name, table, _original(file, name, table["of"], whole, others))
    return found


def _original(file: Path, name: str, of: object, whole: Catalogue, others: Catalogue) -> Entry:
    """The data set that a variant refers to by `of`. It must not be a variant itself."""
    originals = {name: entry for name, entry in {**others, **whole}.items() if not entry.of}
    if of not in originals:
        raise ValueError(f"{file}: {name}: of: unknown data set {of!r}{near(str(of), originals)}")
    return replace(originals[str(of)], count=None, size=None)


def _entry(file: Path, name: str, table: dict[str, Any], original: Entry) -> Entry:
    """The table's values, with those of the original as defaults."""
    keys = [item.name for item in fields(Entry)]
    given = {}
    for key, value in table.items():
        if key not in keys:
            raise ValueError(f"{file}: {name}: unknown key {key!r}{near(key, keys)}")
        given[key] = _value(f"{file}: {name}: {key}", key, value)
    for key in ("path", "rows"):
        if key in given and (key == "path" or ":" in given[key]):  # FILE.py:NAME is a user function
            given[key] = str(file.resolve().parent / Path(given[key]).expanduser())
    entry = replace(original, **given)
    if not entry.ids and not entry.path:
        raise ValueError(f"{file}: {name}: has no location: set ms, hf or path")
    return entry


def _value(where: str, key: str, value: object) -> Any:
    if key in LISTS:
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return tuple(value)
        raise ValueError(f"{where} must be a list of strings, not {value!r}")
    if key in NUMBERS:
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise ValueError(f"{where} must be an integer >= 1, not {value!r}")
    if key in MAPPINGS:
        if isinstance(value, dict) and all(isinstance(part, str) for part in value.values()):
            return value
        raise ValueError(f'{where} must be {{theirs = "ours"}}, not {value!r}')
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"{where} must be a string, not {value!r}")


# Preprocessors --------------------------------------------------------------------------------------------------------


def _in_turn(steps: Sequence[Preprocessor]) -> Preprocessor:
    def preprocess(row: Row) -> list[Row]:
        rows = [row]
        for step in steps:
            rows = [after for before in rows for after in as_rows(step(before))]
        return rows

    return preprocess


def _built_in(name: str, rows: str) -> Preprocessor:
    if rows not in PREPROCESSORS:
        hint = near(rows, PREPROCESSORS) or "; for your own function write FILE.py:NAME"
        raise ValueError(f"{name}: rows = {rows!r}: unknown preprocessor{hint}")
    return PREPROCESSORS[rows]


def _user_function(spec: str) -> Preprocessor:
    """The user's function FILE.py:NAME. Its exceptions become BadRow."""
    file, _, name = spec.rpartition(":")
    try:
        function = user_code.load_function(spec)
    except ValueError as error:
        raise ValueError(f"rows: {error}") from None

    def preprocess(row: Row) -> Row | list[Row] | None:
        try:
            found = function(row)
        except BadRow:
            raise
        except Exception as error:  # user code may raise anything
            raise BadRow("row-function", f"{Path(file).name}:{name}: {type(error).__name__}: {error}") from None
        if found is None or isinstance(found, dict):
            return found
        if isinstance(found, list) and all(isinstance(row, dict) for row in found):
            return found
        kind = type(found).__name__
        raise BadRow("row-function", f"{Path(file).name}:{name} must return a dict, a list of them or None, not {kind}")

    return preprocess
