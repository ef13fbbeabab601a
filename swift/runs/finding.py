"""Finds runs below folders, and the one that a name means. Changes nothing."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from swift.runs import record
from swift.runs.record import Run
from swift.system.nearest import closest, nearest_path

DEPTH = 8
"""Levels below a folder that are searched."""
MOST_FOLDERS = 20_000
LEFT_OUT = ("checkpoint-", "node_modules", "__pycache__", "site-packages")
"""Beginnings of the names of folders that have no runs; hidden folders have none either."""


class Found(NamedTuple):
    """`faults`: what could not be read, a line each."""

    runs: list[Run]
    faults: list[str]


def default_folders() -> list[Path]:
    """The current folder, which has ./output; ./output first, in case it has more than can be searched."""
    here = Path.cwd()
    output = here / "output"
    return [output, here] if output.is_dir() else [here]


def find(folders: Iterable[Path]) -> Found:
    """The runs below folders, the one that began last first. Raises FileNotFoundError for a folder that is missing."""
    found: dict[Path, Run] = {}
    faults: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}{nearest_path(folder)}")
        searched, complete = _with_record(folder.resolve(), seen)
        if not complete:
            faults.append(f"{folder}: searched only {MOST_FOLDERS:,} folders: name the folder that has the runs")
        for path in searched:
            try:
                found[path] = record.read(path)
            except FileNotFoundError:
                continue  # deleted since
            except (ValueError, OSError) as error:
                faults.append(str(error))
    return Found(sorted(found.values(), key=lambda run: run.record.started, reverse=True), faults)


def _with_record(root: Path, seen: set[tuple[int, int]]) -> tuple[list[Path], bool]:
    """The folders with a record, and whether all folders were searched. `seen`: device and inode of those before."""
    found: list[Path] = []
    left, count = deque([(root, 0)]), 0
    while left:
        folder, depth = left.popleft()
        try:
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                continue  # a link leads here, or another folder of the list contains it
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(folder) as entries:
                below = [entry for entry in entries if entry.name == record.FILE or _may_have_runs(entry)]
        except OSError:
            continue  # not ours to read
        count += 1
        if count > MOST_FOLDERS:
            return found, False
        for entry in below:
            if entry.name == record.FILE:
                found.append(folder)
            elif depth < DEPTH:
                left.append((folder / entry.name, depth + 1))
    return found, True


def _may_have_runs(entry: os.DirEntry[str]) -> bool:
    try:
        return not entry.name.startswith((".", *LEFT_OUT)) and entry.is_dir()
    except OSError:
        return False


# --- names ------------------------------------------------------------------------------------------------------------


def names(folders: Sequence[Path]) -> dict[Path, str]:
    """The shortest end of each path, of whole parts, that no other path has."""
    return {folder: _short(folder, folders) for folder in folders}


def _short(folder: Path, folders: Sequence[Path]) -> str:
    for count in range(1, len(folder.parts)):
        end = folder.parts[-count:]
        if sum(other.parts[-count:] == end for other in folders) == 1:
            return str(Path(*end))
    return str(folder)


def named(name: str, runs: Sequence[Run]) -> Run:
    """The run whose folder is `name`, or ends with it, or whose last part begins with it.

    Raises ValueError for an unknown or ambiguous name, with the names that are near.
    """
    path = Path(name).expanduser()
    if (path / record.FILE).is_file():
        return record.read(path.resolve())
    if not runs:
        raise ValueError(f"no run {name!r}: there are no runs here (--folder names where they are)")
    wanted = name.rstrip("/")
    tests = (
        lambda folder: folder.parts[-len(Path(wanted).parts) :] == Path(wanted).parts,
        lambda folder: str(folder).endswith(wanted),
        lambda folder: folder.name.startswith(wanted),
    )
    short = names([run.folder for run in runs])
    for test in tests if wanted else ():
        matching = [run for run in runs if test(run.folder)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            shown = ", ".join(short[run.folder] for run in matching[:5])
            more = f" and {len(matching) - 5} more" if len(matching) > 5 else ""
            raise ValueError(f"{name!r} is the name of {len(matching)} runs: {shown}{more}")
    near = closest(wanted, short.values(), n=3, cutoff=0.4) or list(short.values())[:3]
    raise ValueError(
        f"no run {name!r}: there are {', '.join(near)}" if len(near) > 1 else f"no run {name!r}: there is {near[0]}"
    )
