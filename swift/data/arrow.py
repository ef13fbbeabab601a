"""Columns of Arrow -> rows as in JSON. Knows no row format.

A struct has the keys of all rows, and null in a row that lacks one. Arrow does not distinguish these nulls from nulls
in the data, so a null in a struct means that the key is absent. Nulls in lists, maps and JSON text are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as parquet

from swift.data.row_values import BadRow, Row

Clean = Callable[[Any], Any]


def rows(file: Path | IO[bytes]) -> Iterator[Row | BadRow]:
    """The rows of a Parquet file. Raises ValueError, OSError or NotImplementedError for an unreadable file."""
    table = parquet.ParquetFile(file)
    cleans = {field.name: clean for field in table.schema_arrow if (clean := _clean(field.type)) is not None}
    for batch in table.iter_batches(batch_size=1000):
        for row in _values(batch):
            yield row if isinstance(row, BadRow) else _row(row, cleans)


def _values(batch: pa.RecordBatch) -> Iterator[Row | BadRow]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for at in range(len(batch)):  # one by one, to keep the good rows
            try:
                yield batch.slice(at, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield BadRow("not-utf8", f"byte {error.start + 1} of a text is not UTF-8", str(error.object[:80])[2:-1])


def _row(row: Row, cleans: dict[str, Clean]) -> Row | BadRow:
    # An empty cell is None, or NaN in a file from pandas: both mean that the key is absent.
    cells = {key: value for key, value in row.items() if value is not None and value == value}
    try:
        return {key: cleans[key](value) if key in cleans else value for key, value in cells.items()}
    except BadRow as bad:
        return bad


def _clean(kind: pa.DataType) -> Clean | None:
    """Converts values of a type to JSON; None if they are JSON already."""
    if isinstance(kind, pa.BaseExtensionType):
        return _clean(kind.storage_type)
    if pa.types.is_struct(kind):
        return _of_struct(kind)
    if pa.types.is_map(kind):
        return _of_map(kind)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _clean(kind.value_type)
    # Arrow has six list types and no predicate that covers them all.
    inner = _clean(kind.value_type) if hasattr(kind, "value_field") else None  # only lists have one
    return None if inner is None else lambda values: [_or_none(inner, value) for value in values]


def _of_struct(kind: pa.StructType) -> Clean:
    cleans = {field.name: inner for field in kind if (inner := _clean(field.type)) is not None}

    def clean(value: Row) -> Row:
        present = {key: part for key, part in value.items() if part is not None}
        return {key: cleans[key](part) if key in cleans else part for key, part in present.items()}

    return clean


def _of_map(kind: pa.MapType) -> Clean:
    inner = _clean(kind.item_type) or (lambda part: part)

    def clean(entries: list[tuple[Any, Any]]) -> Row:
        found: Row = {}
        for key, part in entries:
            if str(key) in found:
                raise BadRow("duplicate-key", f"a map has the key {key!r} twice")
            found[str(key)] = _or_none(inner, part)
        return found

    return clean


def _or_none(clean: Clean, value: Any) -> Any:
    return None if value is None else clean(value)
