"""A file system in memory: folders, text files and files of which only the size is known. Touches no real file."""

import posixpath
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from swift import read_only

_TODAY = "2026-03-02"
"""When a file that a tool writes was changed."""


@dataclass(frozen=True)
class _File:
    """`text` is None in a file that is not text. `size` is in bytes, `modified` is YYYY-MM-DD."""

    text: str | None
    size: int
    modified: str = _TODAY


def _text(text: str, modified: str = _TODAY) -> _File:
    return _File(text, len(text.encode()), modified)


_FILES: dict[str, _File] = {
    "/etc/hosts": _text("127.0.0.1 localhost\n10.0.0.7 files\n", "2025-01-09"),
    "/etc/app/config.yaml": _text("port: 8080\ntimeout: 30\nlog: /var/log/app.log\n", "2026-02-11"),
    "/home/ana/.profile": _text("export EDITOR=nano\n", "2024-06-01"),
    "/home/ana/notes.txt": _text("Ideas for the garden:\n- roses\n- a pond\n", "2026-01-20"),
    "/home/ana/photos/beach.jpg": _File(None, 3_410_000, "2025-08-14"),
    "/home/ana/photos/cat.jpg": _File(None, 870_000, "2025-12-24"),
    "/home/ana/photos/sunset.png": _File(None, 5_120_000, "2025-08-15"),
    "/home/ana/report.docx": _File(None, 61_000, "2026-02-27"),
    "/home/ana/todo.md": _text("- phone the plumber\n- renew passport\n", "2026-02-28"),
    "/home/ben/thesis/chapter1.md": _text("# Rivers\nWater finds its way.\n", "2026-01-05"),
    "/home/ben/thesis/chapter2.md": _text("# Lakes\nTODO: measure the depth.\n", "2026-02-19"),
    "/home/ben/thesis/sources.bib": _text("@book{rivers, year = {1998}}\n", "2026-01-30"),
    "/srv/backup/site.zip": _File(None, 940_000, "2025-11-03"),
    "/srv/backup/upload.csv": _text("day,visits\n2025-11-01,310\n", "2025-11-03"),
    "/srv/site/app.js": _text("// todo: remove\nconsole.log('ready');\n", "2026-02-02"),
    "/srv/site/index.html": _text("<h1>Welcome</h1>\n", "2026-02-02"),
    "/srv/site/style.css": _text("h1 { color: teal; }\n", "2025-10-10"),
    "/tmp/cache/a.tmp": _File(None, 120_000, "2026-03-01"),
    "/tmp/upload.csv": _text("day,visits\n2026-03-01,452\n", "2026-03-01"),
    "/var/log/app.log": _text("".join(f"10:{n:02} GET /page/{n} 200\n" for n in range(40)) + "10:40 GET /old 404\n"),
    "/var/log/app.log.1": _text("09:59 request timeout\n", "2026-03-01"),
    "/var/log/mail.log": _text("08:00 12 messages sent\n"),
}
_FOLDERS = {"/"}
"""Every folder, also an empty one."""


@read_only
def list_folder(
    path: str, sort_by: Literal["name", "size", "modified"] = "name", show_hidden: bool = False
) -> list[str]:
    """List the files and folders directly inside a folder.

    Args:
        path: The absolute path of the folder.
        sort_by: The order: by name from A to Z, by size with the largest first, or by modified with the newest first.
        show_hidden: Whether names that begin with a dot are listed too.
    """
    folder = _folder(path)
    inside = [each for each in [*_FOLDERS, *_FILES] if each != "/" and posixpath.dirname(each) == folder]
    inside = sorted(each for each in inside if show_hidden or not posixpath.basename(each).startswith("."))
    if sort_by == "size":
        inside.sort(key=_size, reverse=True)
    elif sort_by == "modified":
        inside.sort(key=lambda each: max((_FILES[file].modified for file in _below(each)), default=""), reverse=True)
    return [f"{posixpath.basename(each)}{'/' if each in _FOLDERS else ''} ({_size(each)} bytes)" for each in inside]


@read_only
def read_file(path: str, part: Literal["all", "head", "tail"] = "all", lines: int = 10) -> str:
    """Read a text file, or only its beginning or its end.

    Args:
        path: The absolute path of the file.
        part: Which part: the whole file, its first lines (head) or its last lines (tail).
        lines: How many lines of the head or the tail.
    """
    text = _file(path).text
    if text is None:
        raise ValueError(f"{path} is not a text file")
    if lines < 1:
        raise ValueError(f"lines must be at least 1, not {lines}")
    split = text.splitlines(keepends=True)
    return "".join({"all": split, "head": split[:lines], "tail": split[-lines:]}[part])


def write_file(path: str, text: str, append: bool = False) -> str:
    """Write a text file: a new one, or one that exists and is replaced or continued.

    Args:
        path: The absolute path of the file.
        text: The text exactly as given, without quotes around it.
        append: Whether the text goes to the end of the file, which keeps what it contains.
    """
    file = _absolute(path)
    if file in _FOLDERS:
        raise ValueError(f"{path} is a folder")
    before = read_file(file) if append and file in _FILES else ""
    line_break = "\n" if before and not before.endswith("\n") else ""
    _put(file, _text(before + line_break + text))
    return f"{file} has {_FILES[file].size} bytes"


def make_folder(path: str) -> str:
    """Make a new, empty folder, with the folders above it where they are missing.

    Args:
        path: The absolute path of the new folder.
    """
    folder = _absolute(path)
    _refuse_existing(folder)
    _add_folders(folder)
    return f"{folder} made"


def move(path: str, folder: str, overwrite: bool = False) -> str:
    """Move a file or folder into another folder. It keeps its name.

    Args:
        path: The absolute path of what is moved.
        folder: The absolute path of the folder into which it goes.
        overwrite: Whether something of the same name in that folder is replaced.
    """
    source = _existing(path)
    return _transfer(source, posixpath.join(_folder(folder), posixpath.basename(source)), overwrite, keep=False)


def rename(path: str, new_name: str) -> str:
    """Give a file or folder another name. It stays in its folder.

    Args:
        path: The absolute path, with the old name.
        new_name: The new name alone, without a folder.
    """
    if not new_name or "/" in new_name:
        raise ValueError(f"{new_name!r} is not a name without a folder")
    source = _existing(path)
    return _transfer(source, posixpath.join(posixpath.dirname(source), new_name), overwrite=False, keep=False)


def copy(source: str, destination: str, overwrite: bool = False) -> str:
    """Copy a file, or a folder with everything in it.

    Args:
        source: The absolute path of the original.
        destination: The absolute path of the copy, with its name.
        overwrite: Whether something that exists at the destination is replaced.
    """
    return _transfer(_existing(source), _absolute(destination), overwrite, keep=True)


def delete(path: str, recursive: bool = False) -> str:
    """Delete a file or a folder for good.

    Args:
        path: The absolute path of what is deleted.
        recursive: Whether a folder is deleted with everything in it. Without it, only an empty folder is deleted.
    """
    gone = _existing(path)
    if gone in _FOLDERS and len(_tree(gone)) > 1 and not recursive:
        raise ValueError(f"{path} is not empty")
    _remove(gone)
    return f"{gone} deleted"


@read_only
def find_files(
    pattern: str, folder: str = "/", min_kb: int | None = None, modified_since: str | None = None
) -> list[str]:
    """Find files by their name, and by size or date where given. Looks into sub-folders, not into the files.

    Args:
        pattern: The name of the file, where * stands for any characters: *.txt for all names that end in .txt.
        folder: The absolute path of the folder to look in.
        min_kb: The smallest size in kilobytes (1 MB is 1000 kB).
        modified_since: The earliest date of the last change, as YYYY-MM-DD.
    """
    return [
        file
        for file in _below(_folder(folder))
        if fnmatchcase(posixpath.basename(file), pattern)
        and _FILES[file].size >= 1000 * (min_kb or 0)
        and _FILES[file].modified >= (modified_since or "")
    ]


@read_only
def search_text(text: str, folder: str = "/", ignore_case: bool = False) -> list[str]:
    """Find the lines of text files that contain a text. Looks into sub-folders and into the files, not at names.

    Args:
        text: The text to find, without quotes around it.
        folder: The absolute path of the folder to look in.
        ignore_case: Whether upper and lower case count as the same.
    """

    def folded(line: str) -> str:
        return line.lower() if ignore_case else line

    lines = [(file, line) for file in _below(_folder(folder)) for line in (_FILES[file].text or "").splitlines()]
    return [f"{file}: {line}" for file, line in lines if folded(text) in folded(line)]


@read_only
def disk_usage(path: str, unit: Literal["bytes", "kB", "MB"] = "kB", by_folder: bool = False) -> dict[str, float]:
    """Measure how much space a file, or a folder with everything in it, takes up.

    Args:
        path: The absolute path of the file or folder.
        unit: The unit of the sizes.
        by_folder: Whether the sizes of the folders directly inside it are listed too.
    """
    top = _existing(path)
    measured = [top]
    if by_folder:
        measured += sorted(each for each in _FOLDERS if each not in ("/", top) and posixpath.dirname(each) == top)
    return {each: _size(each) / {"bytes": 1, "kB": 1e3, "MB": 1e6}[unit] for each in measured}


def make_archive(paths: list[str], archive: str, compression: Literal["fast", "normal", "best"] = "normal") -> str:
    """Pack files and folders into a new archive. The originals stay.

    Args:
        paths: The absolute paths of what is packed, in the order in which the user names them.
        archive: The absolute path of the archive, which ends in .zip or .tar.gz.
        compression: How hard to compress: fast is the quickest, best makes the smallest archive.
    """
    if not paths:
        raise ValueError("there is nothing to pack")
    target = _absolute(archive)
    if not target.endswith((".zip", ".tar.gz")):
        raise ValueError(f"{archive} does not end in .zip or .tar.gz")
    _refuse_existing(target)
    share = {"fast": 0.7, "normal": 0.6, "best": 0.5}[compression]
    size = round(share * sum(_size(_existing(path)) for path in paths))
    _put(target, _File(None, size))
    return f"{target} has {size} bytes"


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is not an absolute path")
    return "/" + posixpath.normpath(path).lstrip("/")


def _existing(path: str) -> str:
    found = _absolute(path)
    if found not in _FILES and found not in _FOLDERS:
        raise ValueError(f"there is no {path}")
    return found


def _refuse_existing(path: str) -> None:
    if path in _FILES or path in _FOLDERS:
        raise ValueError(f"{path} exists already")


def _folder(path: str) -> str:
    found = _existing(path)
    if found not in _FOLDERS:
        raise ValueError(f"{path} is not a folder")
    return found


def _file(path: str) -> _File:
    found = _existing(path)
    if found not in _FILES:
        raise ValueError(f"{path} is a folder")
    return _FILES[found]


def _tree(path: str) -> list[str]:
    """The path and everything below it."""
    return [each for each in [*_FOLDERS, *_FILES] if each == path or each.startswith(path.rstrip("/") + "/")]


def _below(path: str) -> list[str]:
    """The files of a folder and its sub-folders; of a file, the file."""
    return sorted(each for each in _tree(path) if each in _FILES)


def _size(path: str) -> int:
    return sum(_FILES[file].size for file in _below(path))


def _add_folders(folder: str) -> None:
    """Add a folder and those above it that are missing; none if a file is in the way."""
    missing = []
    while folder not in _FOLDERS:
        if folder in _FILES:
            raise ValueError(f"{folder} is a file")
        missing.append(folder)
        folder = posixpath.dirname(folder)
    _FOLDERS.update(missing)


def _put(path: str, file: _File) -> None:
    _add_folders(posixpath.dirname(path))
    _FILES[path] = file


def _remove(path: str) -> None:
    if path == "/":
        raise ValueError("the root folder stays")
    for each in _tree(path):
        _FOLDERS.discard(each)
        _FILES.pop(each, None)


def _transfer(source: str, target: str, overwrite: bool, keep: bool) -> str:
    if target == source or target.startswith(source.rstrip("/") + "/") or source.startswith(target.rstrip("/") + "/"):
        raise ValueError(f"{source} cannot become {target}")
    if overwrite and (target in _FILES or target in _FOLDERS):
        _remove(target)
    _refuse_existing(target)
    _add_folders(posixpath.dirname(target))
    for each in _tree(source):
        moved = target + each[len(source) :]
        if each in _FOLDERS:
            _add_folders(moved)
        else:
            _put(moved, _FILES[each])
    if not keep:
        _remove(source)
    return f"{source} {'copied' if keep else 'moved'} to {target}"


for _path in list(_FILES):
    _add_folders(posixpath.dirname(_path))
