"""Files -> numbered rows, one reader per file type. Knows no row format and no data set name."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from swift.agent.jsontext import has_lone_surrogate, loads, raw_decode
from swift.data import repository_layout
from swift.data.registry import near
from swift.data.row_values import BadRow, Row, rule_of
from swift.system.nearest import nearest_path

Numbered = Iterator[tuple[int, "Row | BadRow"]]
Note = Callable[[str], None]
"""Called with remarks about a file that is read nevertheless."""

Reader = Callable[[Path, Note], Numbered]


def _no_note(_: str) -> None:
    pass


def read_rows(path: str | Path, note: Note = _no_note) -> Numbered:
    """(line number, row) of each row of a file; row numbers for Parquet. A row that cannot be read is a BadRow.

    Raises ValueError for a file that cannot be read at all.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a data file")
    if not path.exists():
        raise ValueError(missing(path))
    suffix = repository_layout.suffix(path.name)
    if suffix not in READERS:
        packed = " and ".join(repository_layout.PACKED)
        raise ValueError(f"{path}: unknown file type; supported: {', '.join(READERS)}, also compressed as {packed}")
    return _rows(path, READERS[suffix], note)


def missing(path: Path) -> str:
    """What to say of a data file that does not exist: it may be another file of its folder, or in another folder."""
    return f"{path}: no such file{near(path.name, neighbours(path)) or nearest_path(path)}"


def neighbours(path: Path) -> list[str]:
    """The names of the data files in the folder of a path."""
    if not path.parent.is_dir():
        return []
    return [file.name for file in path.parent.iterdir() if repository_layout.suffix(file.name) in READERS]


def _rows(path: Path, read: Reader, note: Note) -> Numbered:
    empty = True
    try:
        for numbered in read(path, note):
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
        return gzip.open(path, "rb")  # type: ignore[return-value]  # typeshed: GzipFile is no IO[bytes]
    if path.suffix == ".zst":
        import pyarrow  # slow to import, and rarely needed

        return io.BufferedReader(pyarrow.CompressedInputStream(path.open("rb"), "zstd"))
    return path.open("rb")


# UTF-8 ----------------------------------------------------------------------------------------------------------------

_BOM = b"\xef\xbb\xbf"


def _without_bom(start: bytes) -> bytes:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        raise UnicodeError("it is UTF-16 or UTF-32; save it as UTF-8")
    return start.removeprefix(_BOM)


def _not_utf8(data: bytes) -> str:
    """The first byte that is not UTF-8, and the likely encoding."""
    text = data.decode(errors="surrogateescape")
    stray = [at for at, letter in enumerate(text) if "\udc80" <= letter <= "\udcff"]
    where = f"byte {len(text[: stray[0]].encode()) + 1} is not UTF-8"
    return f"{where}; the text is valid GB18030 (GBK): save it as UTF-8" if _is_gbk(data, text, len(stray)) else where


def _is_gbk(data: bytes, text: str, stray: int) -> bool:
    """Whether text is GB18030: most non-ASCII is invalid UTF-8 and all of it decodes. In broken UTF-8 most is valid."""
    letters = sum(not letter.isascii() for letter in text) - stray
    try:
        return stray > max(letters, 1) and bool(data.decode("gb18030"))
    except UnicodeDecodeError:
        return False


def _escaped(text: str) -> str:
    """A text with invalid bytes as escapes."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace").strip()


# JSON -----------------------------------------------------------------------------------------------------------------


def _json_lines(path: Path, note: Note) -> Numbered:
    return ((number, row) for number, row, _, _ in json_lines(path))


def json_lines(path: Path) -> Iterator[tuple[int, Row | BadRow, int, int]]:
    """(line number, row, the byte at which its line begins, that at which it ends) of each line that is not blank."""
    start = 0
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            end = start + len(line)
            line = _without_bom(line) if number == 1 else line
            if line.strip():
                yield number, json_row(line), start, end
            start = end


def json_row(line: bytes) -> Row | BadRow:
    """The row of a line of JSON."""
    line = line.removeprefix(_BOM)
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return BadRow("not-utf8", _not_utf8(line), repr(line[:80])[2:-1])
    try:
        return _object(loads(text, once=True), text)
    except ValueError as error:
        return _bad_json(error, text)


def _object(value: Any, text: str) -> Row | BadRow:
    if isinstance(value, dict):
        return value
    return BadRow("not-an-object", "a row must be a JSON object", text[:80].strip())


def _bad_json(error: ValueError, text: str) -> BadRow:
    if isinstance(error, json.JSONDecodeError):
        start = max(0, error.pos - 40)
        return BadRow("bad-json", f"{error.msg} at column {error.colno}", _escaped(text[start : start + 80]))
    return BadRow(rule_of(error, "bad-json"), str(error), _escaped(text[:80]))


_lenient = json.JSONDecoder().raw_decode  # finds the end of a value that is not RFC 8259 JSON
_blanks = re.compile(r"[\s,]*")


def _json_document(path: Path, note: Note) -> Numbered:
    """A JSON array of rows, one row, or JSON lines, as in many .json files."""
    with _open(path) as file:
        data = _without_bom(file.read())
    text = data.decode(errors="surrogateescape")  # an invalid byte costs only its row
    if has_lone_surrogate(text) and "GB18030" in (wrong := _not_utf8(data)):
        raise UnicodeError(wrong)
    start = text.lstrip()
    if start.startswith("["):
        yield from _json_array(text, len(text) - len(start) + 1)
    elif start:
        if _is_one_value(start):
            yield 1, json_row(data)
        else:
            yield from _json_lines(path, note)


def _is_one_value(text: str) -> bool:
    try:
        _, end = _lenient(text)
    except (ValueError, RecursionError):
        return False
    return not text[end:].strip()


def _json_array(text: str, at: int) -> Numbered:
    line, counted = 1, 0
    while True:
        at = _end_of_blanks(text, at)
        line, counted = line + text.count("\n", counted, at), at
        if at == len(text) or text[at] == "]":
            break
        try:
            row, end = raw_decode(text, at, once=True)
        except json.JSONDecodeError as error:
            yield error.lineno, _broken(error, text)
            return  # the start of the next row is unknown
        except ValueError as error:
            bad, end = _refused(error, text, at)
            yield line, bad
        else:
            yield line, _object(row, text[at : at + 80])
        if end == len(text):
            return
        at = end
    if text[at:].strip() != "]":
        yield line, BadRow("bad-json", "the list is not closed, or text follows it", _escaped(text[-80:]))


def _broken(error: json.JSONDecodeError, text: str) -> BadRow:
    bad = _bad_json(error, text)
    if not has_lone_surrogate(text[error.pos : error.pos + 1]):
        return bad
    return BadRow("not-utf8", f"the byte at column {error.colno} is not UTF-8", bad.excerpt)


def _refused(error: ValueError, text: str, at: int) -> tuple[BadRow, int]:
    """(the error of the row that begins at `at`, its end)."""
    try:
        _, end = _lenient(text, at)
    except RecursionError:
        end = len(text)
    raw = text[at:end]
    if has_lone_surrogate(raw):
        return BadRow("not-utf8", _not_utf8(raw.encode(errors="surrogateescape")), _escaped(raw[:80])), end
    return _bad_json(error, raw), end


def _end_of_blanks(text: str, at: int) -> int:
    match = _blanks.match(text, at)
    assert match is not None
    return match.end()


# CSV ------------------------------------------------------------------------------------------------------------------

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}


def _csv(path: Path, note: Note) -> Numbered:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB per cell is too small for long dialogues
    with _open(path) as start:
        _without_bom(start.read(4))
    with _open(path) as file, io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        header = text.readline()
        declared = re.fullmatch(r"sep=(.)\r?\n", header)  # Excel's line above the header
        header = text.readline() if declared else header
        separator = declared[1] if declared else _separator(header)
        if separator != ",":
            note(f"{path}: columns are separated by {SEPARATORS.get(separator, repr(separator))}")
        yield from _cells(path, _following(header, text), separator, 1 if declared else 0)


def _following(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _separator(header: str) -> str:
    """The separator that gives the header the most columns."""
    return max(SEPARATORS, key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def _cells(path: Path, text: Iterator[str], separator: str, above: int) -> Numbered:
    reader = csv.DictReader(text, strict=True, delimiter=separator)
    header = reader.fieldnames or []
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: the header has a duplicate column: {', '.join(header)}")
    if has_lone_surrogate("".join(header)):
        raise UnicodeError(f"the header: {_not_utf8(','.join(header).encode(errors='surrogateescape'))}")
    while True:
        line = reader.line_num + 1 + above
        try:
            row: dict[str | None, Any] = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, BadRow("bad-csv", str(error))
            continue
        if None in row:
            yield (
                line,
                BadRow("bad-csv", f"more cells than the {len(header)} columns of the header", str(row[None])[:80]),
            )
            continue
        cells = {str(key): cell for key, cell in row.items() if cell is not None}
        whole = separator.join(cells.values())
        if has_lone_surrogate(whole):
            what = _not_utf8(whole.encode(errors="surrogateescape"))
            yield line, BadRow("not-utf8", what, _escaped(whole[:80]))
        else:
            yield line, cells


# Parquet --------------------------------------------------------------------------------------------------------------


def _parquet(path: Path, note: Note) -> Numbered:
    from swift.data import arrow  # slow to import, and rarely needed

    with _open(path) as file:
        data = file.read() if path.suffix in repository_layout.PACKED else None
    try:
        yield from enumerate(arrow.rows(path if data is None else io.BytesIO(data)), 1)
    except (ValueError, OSError, NotImplementedError) as error:  # the last: what pyarrow lacks
        raise ValueError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None


READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".json": _json_document,
    ".csv": _csv,
    ".parquet": _parquet,
}
assert tuple(READERS) == repository_layout.SUFFIXES, repository_layout.SUFFIXES
