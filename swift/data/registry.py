"""Data sets by name: the table of published ones and TOML files of the user's own. Reads no row and asks no hub."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from swift.data.preprocessors import REPAIRS, Preprocessor, asked, labelled, outcome
from swift.data.row_values import BadRow, Row
from swift.system import user_code

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TRAINABLE = ("text",)
"""The modalities of which rows can be trained on."""

SECTIONS = ("datasets", "models")
"""What a file of the user's own may hold; its models are read elsewhere."""


@dataclass(frozen=True)
class Entry:
    """One table of datasets.toml, which says what the keys mean. Paths are whole."""

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
        """The subsets that are read when the user names none; empty where a set has no subsets."""
        return self.read or self.subsets


Catalogue = Mapping[str, Entry]


@cache
def known() -> Catalogue:
    """The published data sets by name."""
    file = Path(__file__).with_name("datasets.toml")
    return _entries(_load(file), file, {})


def catalogue(files: Sequence[str] = ()) -> Catalogue:
    """The published data sets and those of the user's files; a name in a later file beats the same in an earlier."""
    found = known()
    for name in files:
        file = Path(name).expanduser()
        tables = _load(file)
        for section in tables:
            if section not in SECTIONS:
                hint = near(section, SECTIONS) or f"; did you mean [datasets.{section}]?"
                raise ValueError(f"{file}: unknown table [{section}]{hint}")
        found = {**found, **_entries(tables.get("datasets", {}), file, found)}
    return found


def row_function(name: str, entry: Entry) -> Preprocessor:
    """What is done to each row of the set before its shape is looked at."""
    steps = [_own(entry.rows) if ":" in entry.rows else _built_in(name, entry.rows)]
    if entry.query:
        steps.append(asked(entry.query))
    if entry.labels:
        steps.append(labelled(entry.labels))
    return steps[0] if len(steps) == 1 else _in_turn(steps)


def near(word: str, choices: Iterable[str]) -> str:
    """A question about the choice that looks most like `word`; empty if none does."""
    close = difflib.get_close_matches(word, list(choices), 1)
    return f"; did you mean {close[0]}?" if close else ""


# TOML -> entries ------------------------------------------------------------------------------------------------------

LISTS = ("subsets", "read", "split", "held_out", "labels", "tags")
NUMBERS = ("count", "size")
MAPPINGS = ("columns",)


def _load(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{file}: not TOML: {error}") from None


def _entries(tables: Any, file: Path, others: Catalogue) -> dict[str, Entry]:
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError(f"{file}: data sets are tables, [datasets.NAME]")
    whole = {name: _entry(file, name, table, Entry()) for name, table in tables.items() if "of" not in table}
    found = {}
    for name, table in tables.items():
        found[name] = whole.get(name) or _entry(file, name, table, _original(file, name, table["of"], whole, others))
    return found


def _original(file: Path, name: str, of: object, whole: Catalogue, others: Catalogue) -> Entry:
    """The set that a variant is a variant of, which is none itself."""
    originals = {name: entry for name, entry in {**others, **whole}.items() if not entry.of}
    if of not in originals:
        raise ValueError(f"{file}: {name}: of: there is no set {of!r}{near(str(of), originals)}")
    return replace(originals[str(of)], count=None, size=None)


def _entry(file: Path, name: str, table: dict[str, Any], original: Entry) -> Entry:
    """What the table says and, for the rest, what the original does."""
    keys = [item.name for item in fields(Entry)]
    given = {}
    for key, value in table.items():
        if key not in keys:
            raise ValueError(f"{file}: {name}: unknown key {key!r}{near(key, keys)}")
        given[key] = _value(f"{file}: {name}: {key}", key, value)
    for key in ("path", "rows"):
        if key in given and (key == "path" or ":" in given[key]):  # a function of the user's own is FILE.py:NAME
            given[key] = str(file.resolve().parent / Path(given[key]).expanduser())
    entry = replace(original, **given)
    if not entry.ids and not entry.path:
        raise ValueError(f"{file}: {name}: says not where its rows are: give ms, hf or path")
    return entry


def _value(where: str, key: str, value: object) -> Any:
    if key in LISTS:
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return tuple(value)
        raise ValueError(f"{where} must be a list of texts, not {value!r}")
    if key in NUMBERS:
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise ValueError(f"{where} must be a number from 1 on, not {value!r}")
    if key in MAPPINGS:
        if isinstance(value, dict) and all(isinstance(part, str) for part in value.values()):
            return value
        raise ValueError(f'{where} must be {{theirs = "ours"}}, not {value!r}')
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"{where} must be a text, not {value!r}")


# Row functions --------------------------------------------------------------------------------------------------------


def _in_turn(steps: Sequence[Preprocessor]) -> Preprocessor:
    def repair(row: Row) -> list[Row]:
        rows = [row]
        for step in steps:
            rows = [after for before in rows for after in outcome(step(before))]
        return rows

    return repair


def _built_in(name: str, rows: str) -> Preprocessor:
    if rows not in REPAIRS:
        hint = near(rows, REPAIRS) or "; a function of your own is my_module.py:function"
        raise ValueError(f"{name}: rows = {rows!r}: there is no such row function{hint}")
    return REPAIRS[rows]


def _own(spec: str) -> Preprocessor:
    """The user's function FILE.py:NAME. What goes wrong in it is the row's fault and is told as such."""
    file, _, name = spec.rpartition(":")
    try:
        function = user_code.load_function(spec)
    except ValueError as error:
        raise ValueError(f"rows: {error}") from None

    def repair(row: Row) -> Row | list[Row] | None:
        try:
            found = function(row)
        except BadRow:
            raise
        except Exception as error:  # the function is the user's, and may be wrong in any way
            raise BadRow("row-function", f"{Path(file).name}:{name}: {type(error).__name__}: {error}") from None
        if found is None or isinstance(found, dict):
            return found
        if isinstance(found, list) and all(isinstance(row, dict) for row in found):
            return found
        kind = type(found).__name__
        raise BadRow("row-function", f"{Path(file).name}:{name} must return a dict, a list of them or None, not {kind}")

    return repair
