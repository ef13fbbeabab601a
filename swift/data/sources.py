"""Data set names and hub ids -> files. Reads no row.

Tried in order: a path, a built-in or registered name, the ModelScope cache, the Hugging Face cache, a download.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from swift.data import registry, repositories, repository_layout, self_cognition
from swift.data.preprocessors import Preprocessor, unchanged
from swift.data.readers import READERS, neighbours
from swift.data.registry import Catalogue, Entry, near
from swift.system.nearest import nearest_path


@dataclass(frozen=True)
class Item:
    """One value of --dataset: `[MS::|HF::]name[:subset/subset][#count]`."""

    name: str
    count: int | None = None
    hub: str = ""
    subsets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Files to read rows from, and how to preprocess the rows."""

    name: str
    files: tuple[Path, ...]
    count: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    preprocess: Preprocessor = unchanged


def parse(text: str) -> Item:
    """Parses a value of --dataset. An existing path is taken as it is. Raises ValueError."""
    rest, hub, count, subsets = text, "", None, ""
    if rest[:4].upper() in ("MS::", "HF::"):
        hub, rest = rest[:2].upper(), rest[4:]
    if not Path(rest).expanduser().exists() and "#" in rest:
        rest, _, digits = rest.rpartition("#")
        if not (digits.isascii() and digits.isdigit()) or int(digits) == 0:
            raise ValueError(f"{text}: '#' must be followed by a number of rows, at least 1, not {digits!r}")
        count = int(digits)
    if not Path(rest).expanduser().exists() and ":" in rest:
        rest, _, subsets = rest.partition(":")
    if not rest:
        raise ValueError(f"{text!r} does not name a data set")
    return Item(rest, count, hub, tuple(filter(None, subsets.split("/"))))


def resolve(text: str, catalogue: Catalogue | None = None, held_out: bool = False) -> Source:
    """A value of --dataset -> the files to read. Raises ValueError with everything that was tried.

    `catalogue`: the registered data sets (default: the published ones). `held_out` reads the splits that are not for
    training, if the data set has any.
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
        raise _no_such(text, item, catalogue)
    if entry.modality not in registry.TRAINABLE:
        raise ValueError(f"{text}: its modality is {entry.modality}; only text can be trained on")
    preprocess = registry.preprocessor_for(name, entry)
    split = entry.held_out or entry.split if held_out else entry.split
    files = _files(text, item, entry, split, "" if name in catalogue else near(item.name, catalogue))
    return Source(name, files, item.count or entry.count, entry.columns, preprocess)


def check(text: str, catalogue: Catalogue) -> None:
    """Raises ValueError for a value of --dataset that is neither a local file nor a possible hub id. Offline."""
    item = parse(text)
    path = Path(item.name).expanduser()
    if not item.hub and path.exists():
        data_files(path)
        return
    name, entry = _entry(item, catalogue)
    if name != self_cognition.NAME and not entry.ids and not entry.path:
        raise _no_such(text, item, catalogue)


def _no_such(text: str, item: Item, catalogue: Catalogue) -> ValueError:
    path = Path(item.name).expanduser()
    what = (
        "no such file"
        if repository_layout.suffix(path.name) in READERS
        else "no file, folder or known data set of that name"
    )
    by_folder = nearest_path(path) if path.parent != Path() else ""
    hint = near(path.name, neighbours(path)) or by_folder or near(item.name, catalogue)
    return ValueError(f"{text}: {what}{hint}")


def data_files(path: Path) -> tuple[Path, ...]:
    """The path itself, or the data files of a folder, sorted by name. Raises ValueError if there are none."""
    if not path.is_dir():
        return (path,)
    found = sorted(file for file in path.iterdir() if file.is_file() and repository_layout.suffix(file.name) in READERS)
    files = tuple(file for file in found if not file.name.startswith(".") and not repository_layout.is_index(file))
    if not files:
        raise ValueError(f"{path}: the folder holds no data file ({', '.join(READERS)})")
    return files


def _files(text: str, item: Item, entry: Entry, split: tuple[str, ...], hint: str) -> tuple[Path, ...]:
    """The files of a data set: from its path, else the hubs' caches, else the network."""

    def pick(names: Iterable[str], folder: Path) -> list[str]:
        return repository_layout.choose(names, folder, item.subsets or entry.read_by_default, split, entry.subsets)

    if entry.path and not item.hub:
        path = Path(entry.path)
        if not path.is_dir():
            return (path,)  # reading it reports a missing file
        try:
            return tuple(path / name for name in pick(repository_layout.names(path), path))
        except ValueError as error:
            raise ValueError(f"{text}: {path} {error}") from None
    tried = [] if item.hub else ["a file or folder of that name"]
    for folders in (
        repositories.cached(entry.ms, entry.hf, tried),
        repositories.fetched(entry.ms, entry.hf, pick, tried),
    ):
        for folder in folders:
            try:
                return repositories.picked(folder, pick)
            except ValueError as error:
                tried.append(f"{folder} ({error})")
    unknown = entry.subsets and set(item.subsets) - set(entry.subsets)
    known = f"; its subsets are {', '.join(entry.subsets)}" if unknown else ""
    away = "; download its files elsewhere and pass them to --dataset" * any(
        "cannot be reached" in way for way in tried
    )
    raise ValueError(f"{text}: not found{hint}; tried {', '.join(tried)}{known}{away}")


def _entry(item: Item, catalogue: Catalogue) -> tuple[str, Entry]:
    """(name, entry) of the data set with a name or hub id. An unknown hub id gets an entry of its own."""
    name = item.name if item.name in catalogue else _by_id(item, catalogue)
    if name:
        entry = catalogue[name]
        if item.hub and not {"MS": entry.ms, "HF": entry.hf}[item.hub]:
            raise ValueError(f"{item.hub}::{item.name}: {name} is not published on that hub")
        return name, _only(entry, item.hub)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", item.name) and repository_layout.suffix(item.name) not in READERS:
        return item.name, _only(Entry(ms=item.name, hf=item.name), item.hub)
    return item.name, Entry()


def _by_id(item: Item, catalogue: Catalogue) -> str:
    """The name of the data set with this hub id and, if several have it, these subsets; "" if there is none."""
    ids = {name: [known.lower() for known in entry.ids] for name, entry in catalogue.items() if not entry.of}
    names = [name for name in ids if item.name.lower() in ids[name]]
    if len(names) > 1 and item.subsets:
        names = [name for name in names if set(item.subsets) <= set(catalogue[name].subsets)]
    if len(names) > 1:
        raise ValueError(f"{item.name} has several data sets: choose one of {', '.join(names)}")
    return names[0] if names else ""


def _only(entry: Entry, hub: str) -> Entry:
    return replace(entry, ms="" if hub == "HF" else entry.ms, hf="" if hub == "MS" else entry.hf)
