"""The text files of one folder, to read only: `SWIFT_FILES=docs swift agent run --tools examples/agent/files.py ...`.

SWIFT_FILES names the folder, by default the current one. Paths are relative to it. No path leads out of it, also not
through a symbolic link. Hidden files are not there.
"""

import os
import re
from pathlib import Path

from swift import read_only

FOLDER = Path(os.environ.get("SWIFT_FILES", ".")).resolve()
MOST = 200
"""Files or lines in one result."""
MOST_BYTES = 2_000_000
"""Size of the largest file that is read."""


@read_only
def list_files(pattern: str = "*") -> list[str]:
    """List the files of the folder, with their sizes in bytes.

    Args:
        pattern: Which files, such as *.md; * matches files in sub-folders too.
    """
    found = [f"{_shown(file)} ({file.stat().st_size} bytes)" for file in _files(pattern)]
    return _limited(found, "files") or [f"no file matches {pattern}"]


@read_only
def read_file(path: str, first_line: int = 1, lines: int = MOST) -> str:
    """Read lines of a text file.

    Args:
        path: The path of the file in the folder.
        first_line: The number of the first line, from 1.
        lines: How many lines, at most 200.
    """
    text = _text(_inside(path)).splitlines()
    if not 1 <= first_line <= max(1, len(text)):
        raise ValueError(f"{path} has {len(text)} lines")
    end = min(len(text), first_line - 1 + max(1, min(lines, MOST)))
    more = f"\n[lines {first_line} to {end} of {len(text)}]" if end - first_line + 1 < len(text) else ""
    return "\n".join(text[first_line - 1 : end]) + more


@read_only
def search_files(text: str, pattern: str = "*") -> list[str]:
    """Find the lines that contain a text, in all files of the folder, as path:number: line.

    Args:
        text: What to find; upper and lower case are the same.
        pattern: Which files, such as *.md.
    """
    if not text.strip():
        raise ValueError("there is no text to find")
    wanted = re.compile(re.escape(text), re.IGNORECASE)
    found = []
    for file in _files(pattern):
        try:
            lines = _text(file).splitlines()
        except ValueError:
            continue  # not text, or too large
        found += [f"{_shown(file)}:{n}: {line.strip()[:300]}" for n, line in enumerate(lines, 1) if wanted.search(line)]
        if len(found) > MOST:
            break
    return _limited(found, "lines") or [f"no file contains {text!r}"]


def _inside(path: str) -> Path:
    """The file at a path. What leads out of the folder does not exist, whether or not there is a file."""
    file = _visible(FOLDER / path)
    if file is None:
        raise FileNotFoundError(f"there is no file {path} in the folder")
    return file


def _visible(path: Path) -> Path | None:
    """The file that a path leads to; None if it is none, is hidden, or is not in the folder."""
    try:
        file = path.resolve()
        inside = file.is_relative_to(FOLDER) and file.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, links in a circle, a NUL
        return None
    hidden = inside and any(part.startswith(".") for part in file.relative_to(FOLDER).parts)
    return file if inside and not hidden else None


def _files(pattern: str) -> list[Path]:
    """The files that match, in order. Links to folders are not followed."""
    found = []
    for folder, folders, names in os.walk(FOLDER):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        found += [path for path in paths if _matches(path, pattern) and _visible(path)]
    return found


def _matches(file: Path, pattern: str) -> bool:
    return pattern in ("", "*") or file.match(pattern) or _shown(file) == pattern


def _text(file: Path) -> str:
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"{_shown(file)} is larger than {MOST_BYTES:,} bytes")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{_shown(file)} is not a text file") from None


def _shown(file: Path) -> str:
    return file.relative_to(FOLDER).as_posix()


def _limited(found: list[str], what: str) -> list[str]:
    return found if len(found) <= MOST else [*found[:MOST], f"[more than {MOST} {what}: narrow it down]"]
