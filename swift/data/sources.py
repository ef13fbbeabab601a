"""Names, hub ids and files -> rows with line numbers. Knows no row shape and no tokenizer.

Local first, network last: a path, a built-in or known name, the ModelScope cache, the Hugging Face cache, a download.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from swift.data import hubs, layout, registry, self_cognition
from swift.data.fields import BadRow, Row
from swift.data.registry import Catalogue, Entry, near
from swift.data.repairs import Repair, as_it_is

Numbered = Iterator[tuple[int, "Row | BadRow"]]

# Files -> rows --------------------------------------------------------------------------------------------------------


def read_rows(path: str | Path) -> Numbered:
    """The rows of one file with their line numbers (row numbers in Parquet); a row that cannot be read is a BadRow.

    A file that cannot be read at all is a ValueError.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a data file")
    if not path.exists():
        raise ValueError(f"{path}: no such file{near(path.name, _neighbours(path))}")
    suffix = layout.suffix(path.name)
    if suffix not in READERS:
        packed = " and ".join(layout.PACKED)
        raise ValueError(f"{path}: unknown kind of file; known: {', '.join(READERS)}, each also as {packed}")
    return _rows(path, READERS[suffix])


def _rows(path: Path, read: Callable[[Path], Numbered]) -> Numbered:
    empty = True
    try:
        for numbered in read(path):
            empty = False
            yield numbered
    except UnicodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if empty:
        raise ValueError(f"{path}: the file is empty")


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow  # only who has such a file waits for it

        return io.BufferedReader(pyarrow.CompressedInputStream(path.open("rb"), "zstd"))
    return path.open("rb")


def _json_lines(path: Path) -> Numbered:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = _without_mark(line)
            if line.strip():
                yield number, _json_row(line)


def _without_mark(start: bytes) -> bytes:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnicodeError("it is UTF-16; save it as UTF-8")
    return start.removeprefix(b"\xef\xbb\xbf")


def _json_row(line: bytes) -> Row | BadRow:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return BadRow("not-utf8", f"byte {error.start + 1} is no UTF-8", repr(line[:80])[2:-1])
    try:
        return _object(json.loads(text), text)
    except (ValueError, RecursionError) as error:
        return _bad_json(error, text)


def _object(value: Any, text: str) -> Row | BadRow:
    if isinstance(value, dict):
        return value
    return BadRow("not-an-object", "a row must be a JSON object", text[:80].strip())


def _bad_json(error: ValueError | RecursionError, text: str) -> BadRow:
    if isinstance(error, json.JSONDecodeError):
        start = max(0, error.pos - 40)
        return BadRow("bad-json", f"{error.msg} at column {error.colno}", text[start : start + 80].strip())
    return BadRow("bad-json", str(error), text[:80].strip())


_decode = json.JSONDecoder().raw_decode
_blanks = re.compile(r"[\s,]*")


def _json_document(path: Path) -> Numbered:
    """A JSON array of rows, one row, or (as many .json files are) JSON lines."""
    with _open(path) as file:
        text = _without_mark(file.read()).decode()
    start = text.lstrip()
    if start.startswith("["):
        yield from _json_array(text, len(text) - len(start) + 1)
    elif start:
        row = _json_row(text.encode())
        if isinstance(row, dict):
            yield 1, row
        else:
            yield from _json_lines(path)


def _json_array(text: str, at: int) -> Numbered:
    line, counted = 1, 0
    while True:
        at = _end_of_blanks(text, at)
        line, counted = line + text.count("\n", counted, at), at
        if at == len(text) or text[at] == "]":
            break
        try:
            row, end = _decode(text, at)
        except json.JSONDecodeError as error:
            yield error.lineno, _bad_json(error, text)
            return  # there is no telling where the next row begins
        except RecursionError as error:
            yield line, _bad_json(error, text[at:])
            return
        yield line, _object(row, text[at : at + 80])
        at = end
    if text[at:].strip() != "]":
        yield line, BadRow("bad-json", "the list is not closed, or more follows it", text[-80:].strip())


def _end_of_blanks(text: str, at: int) -> int:
    match = _blanks.match(text, at)
    assert match is not None
    return match.end()


def _csv(path: Path) -> Numbered:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB a cell is less than a long dialogue
    with _open(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, strict=True)
        header = reader.fieldnames or []
        if len(set(header)) < len(header):
            raise ValueError(f"{path}: the header names a column twice: {', '.join(header)}")
        while True:
            line = reader.line_num + 1
            try:
                row: dict[str | None, Any] = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, BadRow("bad-csv", str(error))
                continue
            if None in row:
                yield line, BadRow("bad-csv", f"more cells than the {len(header)} of the header", str(row[None])[:80])
            else:
                yield line, {str(key): cell for key, cell in row.items() if cell is not None}


def _parquet(path: Path) -> Numbered:
    import pyarrow.parquet as parquet

    with _open(path) as file:
        data = file.read() if path.suffix in layout.PACKED else None
    try:
        table = parquet.ParquetFile(path if data is None else io.BytesIO(data))
        number = 0
        for batch in table.iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                number += 1
                # An empty cell is None, or NaN when the file came from pandas: both mean that the key is absent.
                yield number, {key: value for key, value in row.items() if value is not None and value == value}
    except (ValueError, OSError, NotImplementedError) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None


READERS: dict[str, Callable[[Path], Numbered]] = {
    ".jsonl": _json_lines,
    ".json": _json_document,
    ".csv": _csv,
    ".parquet": _parquet,
}
assert tuple(READERS) == layout.SUFFIXES, layout.SUFFIXES


# Names -> files -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One value of --dataset: `[MS::|HF::]name[:subset/subset][#count]`."""

    name: str
    count: int | None = None
    hub: str = ""
    subsets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Files to read rows from, and what to do with their rows."""

    name: str
    files: tuple[Path, ...]
    count: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    repair: Repair = as_it_is


def parse(text: str) -> Item:
    """Takes a value of --dataset apart; a path that exists is never taken apart."""
    rest, hub, count, subsets = text, "", None, ""
    if rest[:4].upper() in ("MS::", "HF::"):
        hub, rest = rest[:2].upper(), rest[4:]
    if not Path(rest).expanduser().exists() and "#" in rest:
        rest, _, digits = rest.rpartition("#")
        if not (digits.isascii() and digits.isdigit()) or int(digits) == 0:
            raise ValueError(f"{text}: after '#' comes a number of rows from 1 on, not {digits!r}")
        count = int(digits)
    if not Path(rest).expanduser().exists() and ":" in rest:
        rest, _, subsets = rest.partition(":")
    if not rest:
        raise ValueError(f"{text!r} names no data set")
    return Item(rest, count, hub, tuple(filter(None, subsets.split("/"))))


def resolve(text: str, catalogue: Catalogue | None = None, held_out: bool = False) -> Source:
    """A value of --dataset -> the files to read; ValueError says everything that was tried.

    `catalogue` has the sets with a name (the published ones). `held_out` reads, of a set that has them, the splits
    that are not for training.
    """
    catalogue = registry.known() if catalogue is None else catalogue
    item = parse(text)
    path = Path(item.name).expanduser()
    if not item.hub and path.exists():
        return Source(item.name, data_files(path), item.count)
    name, entry = _entry(item, catalogue)
    if name == self_cognition.NAME:
        return Source(name, (self_cognition.FILE,), item.count)
    if not entry.ids and not entry.path:
        what = (
            "no such file" if layout.suffix(path.name) in READERS else "no file, folder or known data set of that name"
        )
        raise ValueError(f"{text}: {what}{near(path.name, _neighbours(path)) or near(item.name, catalogue)}")
    if entry.modality not in registry.TRAINABLE:
        raise ValueError(f"{text}: its rows hold {entry.modality}; only text can be trained on")
    repair = registry.row_function(name, entry)
    split = entry.held_out or entry.split if held_out else entry.split
    files = _files(text, item, entry, split, "" if name in catalogue else near(item.name, catalogue))
    return Source(name, files, item.count or entry.count, entry.columns, repair)


def data_files(path: Path) -> tuple[Path, ...]:
    """The path itself, or a folder's data files in the order of their names."""
    if not path.is_dir():
        return (path,)
    found = sorted(file for file in path.iterdir() if file.is_file() and layout.suffix(file.name) in READERS)
    files = tuple(file for file in found if not file.name.startswith(".") and not layout.is_index(file))
    if not files:
        raise ValueError(f"{path}: the folder holds no data file ({', '.join(READERS)})")
    return files


def _files(text: str, item: Item, entry: Entry, split: tuple[str, ...], hint: str) -> tuple[Path, ...]:
    """The files of a set: its own path, the hubs' caches, and last the network."""

    def pick(names: Iterable[str], folder: Path) -> list[str]:
        return layout.choose(names, folder, item.subsets or entry.read_by_default, split, entry.subsets)

    if entry.path and not item.hub:
        path = Path(entry.path)
        if not path.is_dir():
            return (path,)  # reading it says where it is missing
        try:
            return tuple(path / name for name in pick(layout.names(path), path))
        except ValueError as error:
            raise ValueError(f"{text}: {path} {error}") from None
    tried = [] if item.hub else ["a file or folder of that name"]
    for folders in (hubs.cached(entry.ms, entry.hf, tried), hubs.fetched(entry.ms, entry.hf, pick, tried)):
        for folder in folders:
            try:
                return hubs.picked(folder, pick)
            except ValueError as error:
                tried.append(f"{folder} ({error})")
    unknown = entry.subsets and set(item.subsets) - set(entry.subsets)
    known = f"; its subsets are {', '.join(entry.subsets)}" if unknown else ""
    raise ValueError(f"{text}: not found{hint}; tried {', '.join(tried)}{known}")


def _entry(item: Item, catalogue: Catalogue) -> tuple[str, Entry]:
    """The known set that a name or hub id means; an unknown hub id stands for itself."""
    name = item.name if item.name in catalogue else _by_id(item, catalogue)
    if name:
        entry = catalogue[name]
        if item.hub and not {"MS": entry.ms, "HF": entry.hf}[item.hub]:
            raise ValueError(f"{item.hub}::{item.name}: {name} is not published on that hub")
        return name, _only(entry, item.hub)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", item.name) and layout.suffix(item.name) not in READERS:
        return item.name, _only(Entry(ms=item.name, hf=item.name), item.hub)
    return item.name, Entry()


def _by_id(item: Item, catalogue: Catalogue) -> str:
    """The set with this hub id; of several, the one with these subsets. Empty where there is none."""
    ids = {name: [known.lower() for known in entry.ids] for name, entry in catalogue.items() if not entry.of}
    names = [name for name in ids if item.name.lower() in ids[name]]
    if len(names) > 1 and item.subsets:
        names = [name for name in names if set(item.subsets) <= set(catalogue[name].subsets)]
    if len(names) > 1:
        raise ValueError(f"{item.name} is published as several sets: name one of {', '.join(names)}")
    return names[0] if names else ""


def _only(entry: Entry, hub: str) -> Entry:
    return replace(entry, ms="" if hub == "HF" else entry.ms, hf="" if hub == "MS" else entry.hf)


def _neighbours(path: Path) -> list[str]:
    if not path.parent.is_dir():
        return []
    return [file.name for file in path.parent.iterdir() if layout.suffix(file.name) in READERS]
