"""Names, hub ids and files -> rows with line numbers. Knows no row shape and no tokenizer.

Local first, network last: a path, a built-in or known name, the ModelScope cache, the Hugging Face cache, a download.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import gzip
import importlib
import io
import json
import os
import re
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

from swift.data import self_cognition
from swift.data.repairs import REPAIRS, Repair, as_it_is
from swift.data.rows import BadRow, Row

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
        raise ValueError(f"{path}: no such file{_near(path.name, _neighbours(path))}")
    suffix = _suffix(path)
    if suffix not in READERS:
        raise ValueError(f"{path}: unknown kind of file; known: {', '.join(READERS)}, each also as .gz")
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
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


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
        data = file.read() if path.suffix == ".gz" else None
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


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


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


@dataclass(frozen=True)
class Entry:
    """One table of datasets.toml."""

    ms: str = ""
    hf: str = ""
    subsets: tuple[str, ...] = ()
    split: tuple[str, ...] = ("train",)
    rows: str = ""
    count: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@cache
def known() -> dict[str, Entry]:
    """The data sets of datasets.toml by name."""
    with Path(__file__).with_name("datasets.toml").open("rb") as file:
        tables = tomllib.load(file)
    return {name: _table(table) for name, table in tables.items()}


def _table(table: dict[str, Any]) -> Entry:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return Entry(**fields)


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


def resolve(text: str) -> Source:
    """A value of --dataset -> the files to read; ValueError says everything that was tried."""
    item = parse(text)
    path = Path(item.name).expanduser()
    if not item.hub and path.exists():
        return Source(item.name, data_files(path), item.count)
    if item.name == self_cognition.NAME:
        return Source(item.name, (self_cognition.FILE,), item.count)
    name, entry = _entry(item)
    if not entry.ms and not entry.hf:
        what = "no such file" if _suffix(path) in READERS else "no file, folder or known data set of that name"
        raise ValueError(f"{text}: {what}{_near(path.name, _neighbours(path)) or _near(item.name, names())}")
    tried: list[str] = [] if item.hub else ["a file or folder of that name"]
    for look in (_in_modelscope_cache, _in_hugging_face_cache, _from_network):
        for folder in look(entry, tried):
            files = _chosen(folder, item.subsets or entry.subsets, entry.split)
            if files:
                return Source(name, files, item.count or entry.count, entry.columns, REPAIRS[entry.rows])
            tried.append(f"{folder} (holds no such data file)")
    near = "" if name in known() else _near(item.name, names())
    raise ValueError(f"{text}: not found{near}; tried {', '.join(tried)}")


def names() -> list[str]:
    """Every name that needs no path."""
    return [self_cognition.NAME, *known()]


def data_files(path: Path) -> tuple[Path, ...]:
    """The path itself, or a folder's data files in the order of their names."""
    if not path.is_dir():
        return (path,)
    found = sorted(file for file in path.iterdir() if file.is_file() and _suffix(file) in READERS)
    files = tuple(file for file in found if not file.name.startswith(".") and not _is_index(file))
    if not files:
        raise ValueError(f"{path}: the folder holds no data file ({', '.join(READERS)})")
    return files


def _entry(item: Item) -> tuple[str, Entry]:
    """The known set that a name or hub id means; an unknown hub id stands for itself."""
    for name, entry in known().items():
        if item.name == name or item.name.lower() in (entry.ms.lower(), entry.hf.lower()):
            published = {"": True, "MS": entry.ms, "HF": entry.hf}[item.hub]
            if not published:
                raise ValueError(f"{item.hub}::{item.name}: {name} is not published on that hub")
            return name, _only(entry, item.hub)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", item.name) and _suffix(Path(item.name)) not in READERS:
        return item.name, _only(Entry(ms=item.name, hf=item.name), item.hub)
    return item.name, Entry()


def _only(entry: Entry, hub: str) -> Entry:
    return replace(entry, ms="" if hub == "HF" else entry.ms, hf="" if hub == "MS" else entry.hf)


def _in_modelscope_cache(entry: Entry, tried: list[str]) -> Iterator[Path]:
    if not entry.ms:
        return
    root = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
    tried.append(f"the ModelScope cache {root}")
    owner, name = entry.ms.split("/")
    for layout in ("hub/datasets", "datasets", "hub"):
        # ModelScope writes a dot in a name as ___, since Python could not import a folder with a dot.
        for spelled in dict.fromkeys((name, name.replace(".", "___"))):
            folder = root / layout / owner / spelled
            if folder.is_dir():
                yield folder


def _in_hugging_face_cache(entry: Entry, tried: list[str]) -> Iterator[Path]:
    if not entry.hf:
        return
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    tried.append(f"the Hugging Face cache {hub}")
    snapshots = hub / f"datasets--{entry.hf.replace('/', '--')}" / "snapshots"
    if snapshots.is_dir():
        yield from sorted(snapshots.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)


def _from_network(entry: Entry, tried: list[str]) -> Iterator[Path]:
    for name in ("SWIFT_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").lower() in ("1", "true", "yes", "on"):
            tried.append(f"no network ({name} is set)")
            return
    fetches = [(entry.ms, "ModelScope", _fetch_modelscope), (entry.hf, "Hugging Face", _fetch_hugging_face)]
    if os.environ.get("USE_HF", "").lower() in ("1", "true"):
        fetches.reverse()
    for repository, hub, fetch in fetches:
        if not repository:
            continue
        try:
            yield fetch(repository)
        except ImportError as error:
            tried.append(f"{hub} (needs the package {error.name})")
        except (OSError, ValueError) as error:
            tried.append(f"{hub} ({str(error).splitlines()[0][:120]})")


SECONDS = 5.0  # how long a hub may take to answer at all


def _fetch_hugging_face(repository: str) -> Path:
    hub = importlib.import_module("huggingface_hub")
    return Path(hub.snapshot_download(repository, repo_type="dataset", etag_timeout=SECONDS))


def _fetch_modelscope(repository: str) -> Path:
    hub = importlib.import_module("modelscope")
    # The package waits a minute and retries; whether the hub answers at all is known sooner.
    with contextlib.suppress(urllib.error.HTTPError):  # an answer, if not a kind one
        urllib.request.urlopen("https://www.modelscope.cn", timeout=SECONDS).close()
    return Path(hub.dataset_snapshot_download(repository))


SPLITS = ("train", "test", "validation", "valid", "val", "dev")


def _chosen(folder: Path, subsets: tuple[str, ...], split: tuple[str, ...]) -> tuple[Path, ...]:
    """The data files of a downloaded repository: those of the subsets asked for, and of the split."""
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if _suffix(file) in READERS}
    # A hidden folder holds a hub's unfinished downloads.
    named = {name: found[name] for name in sorted(found) if not re.search(r"(^|/)\.", name) and found[name].is_file()}
    named = {name: file for name, file in named.items() if not _is_index(file)}
    if subsets:
        named = {name: file for name, file in named.items() if _has_word(name, subsets)}
    of_split = [file for name, file in named.items() if _has_word(name, split)]
    return tuple(of_split or [file for name, file in named.items() if not _has_word(name, SPLITS)])


def _has_word(name: str, words: tuple[str, ...]) -> bool:
    return any(re.search(rf"(?<![0-9A-Za-z]){re.escape(word)}(?![0-9A-Za-z])", name) for word in words)


def _is_index(file: Path) -> bool:
    """A hub's own JSON about the data, such as {"default": {"train": {"meta": "train.csv"}}}; never a row."""
    if file.suffix != ".json" or file.stat().st_size > 1_000_000:
        return False
    if file.name in ("config.json", "configuration.json", "dataset_info.json", "state.json"):
        return True
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool(value) and all(isinstance(part, dict) for part in value.values())


def _neighbours(path: Path) -> list[str]:
    if not path.parent.is_dir():
        return []
    return [file.name for file in path.parent.iterdir() if _suffix(file) in READERS]


def _near(name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, 1)
    return f"; did you mean {near[0]}?" if near else ""
