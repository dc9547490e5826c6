"""CSV and Parquet files of people: read whole as columns of text, every fault named with its row."""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mer_ray.config import addresses
from mer_ray.data.storage import Store
from mer_ray.errors import ManifestError

_SHOWN = 20
_MAX_CELL_CHARACTERS = 2**31 - 1
_NOT_CSV = {
    b"PK\x03\x04": "an Excel workbook or zip",
    b"\x1f\x8b": "compressed",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


@dataclass
class Problems:
    """The faults of one file, gathered so that it is refused with all of them at once."""

    path: str
    found: list[str] = field(default_factory=list)

    def add(self, place: str, reason: str) -> None:
        """Note that ``place`` (such as ``row 7``) is at fault."""
        self.found.append(f"{place}: {reason}")

    def refuse(self, hints: Sequence[str] = ()) -> None:
        """Refuse the file when anything was found.

        Raises:
            ManifestError: the message names the file, the first twenty faults and their number.
        """
        if not self.found:
            return
        lines = [f"{self.path} is refused, {len(self.found)} fault(s):", *self.found[:_SHOWN]]
        if len(self.found) > _SHOWN:
            lines.append(f"... and {len(self.found) - _SHOWN} more")
        raise ManifestError("\n  ".join([*lines, *hints]))


@dataclass(frozen=True)
class Sheet:
    """Columns of equal length; a blank cell is None.

    Attributes:
        path: the file it was read from.
        columns: cells by the column's name.
        places: what each row is called in messages: ``row 2`` is the first below a CSV's header, as spreadsheets count;
            in Parquet the first is ``row 1``.
    """

    path: str
    columns: Mapping[str, Sequence[str | None]]
    places: Sequence[str]

    def column(self, name: str) -> Sequence[str | None]:
        """The cells of a column; all None when there is no such column."""
        return self.columns.get(name) or [None] * len(self.places)


def read(uri: str, damaged_text: str = "refuse") -> Sheet:
    """Read a CSV (UTF-8, with or without a byte order mark) or Parquet file, told apart by content.

    Args:
        uri: local path or ``s3://`` address.
        damaged_text: ``refuse`` bytes that are not UTF-8, or ``mark`` them by U+FFFD in the cell.

    Raises:
        ManifestError: there is no such file, it is empty, its bytes are not UTF-8, a row has another number of cells
            than the header, or a column's name comes twice.
        StorageError: S3 refused to be read.
    """
    data = _fetch(uri)
    if data.startswith(b"PAR1"):
        return _read_parquet(uri, data)
    for magic, kind in _NOT_CSV.items():
        if data.startswith(magic):
            raise ManifestError(f"{uri} is {kind}; save it as CSV in UTF-8, or as Parquet")
    return _read_csv(uri, data, damaged_text)


def _fetch(uri: str) -> bytes:
    if "://" in uri and not uri.startswith("s3://"):
        raise ManifestError(
            addresses.refusal(uri)
            or f"files of the scheme {uri.partition('://')[0]}:// are not read; give a path or s3:// address"
        )
    try:
        if uri.startswith("s3://"):
            return Store(posixpath.dirname(uri)).read(posixpath.basename(uri))
        return Path(os.path.expanduser(uri)).read_bytes()
    except FileNotFoundError as error:
        raise ManifestError(f"{uri} does not exist") from error
    except (IsADirectoryError, PermissionError, NotADirectoryError, ValueError) as error:
        raise ManifestError(f"{uri} cannot be read as a file: {error}") from error


def _read_csv(uri: str, data: bytes, damaged_text: str) -> Sheet:
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode(errors="strict" if damaged_text == "refuse" else "replace")
    except UnicodeDecodeError as error:
        with _long_cells():
            row = sum(1 for _ in csv.reader(io.StringIO(data[: error.start].decode(), newline="")))
        raise ManifestError(
            f"{uri} is refused, bad encoding: row {max(row, 1)} holds bytes that are not UTF-8; save it as CSV in UTF-8"
        ) from error
    problems = Problems(uri)
    rows: list[list[str]] = []
    places: list[str] = []
    with _long_cells():
        for number, cells in _records(uri, text):
            if rows and len(cells) != len(rows[0]):
                reason = f"{len(cells)} cells, the header has {len(rows[0])} (put quotes around text with commas)"
                problems.add(f"row {number}", reason)
            rows.append(cells)
            places.append(f"row {number}")
    if not rows:
        raise ManifestError(f"{uri} is empty")
    problems.refuse()
    header = [name.strip() for name in rows[0]]
    _check_header(uri, header)
    cells_by_column = zip(*rows[1:], strict=True) if len(rows) > 1 else [()] * len(header)
    columns = {
        name: [c if c.strip() else None for c in cells] for name, cells in zip(header, cells_by_column, strict=True)
    }
    return Sheet(uri, columns, places[1:])


def _records(uri: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with their number."""
    number = 0
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), start=1):
            if cells:
                yield number, cells
    except csv.Error as error:
        raise ManifestError(
            f"{uri} is refused: row {number + 1}: {error}; a quote inside a quoted cell is written twice"
        ) from error


def _check_header(uri: str, header: Sequence[str]) -> None:
    for separator in ";\t":
        if len(header) == 1 and separator in header[0]:
            raise ManifestError(f"{uri} is refused: cells are separated by {separator!r}; save it with commas")
    twice = sorted(name for name, count in Counter(header).items() if name and count > 1)
    if twice:
        raise ManifestError(f"{uri} is refused: column {twice[0]!r} comes twice")


@contextmanager
def _long_cells() -> Iterator[None]:
    """Admit cells beyond the csv module's 128 KiB: a transcript may be enormous."""
    before = csv.field_size_limit(_MAX_CELL_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_parquet(uri: str, data: bytes) -> Sheet:
    problems = Problems(uri)
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(f"{uri} is truncated or is not Parquet: {error}") from error
    _check_header(uri, table.column_names)
    places = [f"row {number}" for number in range(1, table.num_rows + 1)]
    flat = [name for name in table.column_names if not pa.types.is_nested(table.schema.field(name).type)]
    columns = {name: _texts(table[name], name, places, problems) for name in flat}
    problems.refuse()
    return Sheet(uri, columns, places)


def _texts(column: pa.ChunkedArray, name: str, places: Sequence[str], problems: Problems) -> list[str | None]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    try:
        values = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:  # days before Christ, zones that there are not
        problems.add("whole file", f"column {name!r} of {column.type} holds no such value ({error}); save it as text")
        return [None] * len(places)
    return [_text(value, name, place, problems) for value, place in zip(values, places, strict=True)]


def _text(value: Any, name: str, place: str, problems: Problems) -> str | None:  # noqa: ANN401 - any Parquet value
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas writes a missing cell as NaN
        return None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            problems.add(place, f"bad encoding: {name} is not UTF-8")
            return None
    text = str(value)
    return text if text.strip() else None


def read_names(uri: str) -> tuple[str, ...]:
    """The clips of a candidates' list, a CSV with a column ``name``, in its order.

    Raises:
        ManifestError: see ``read``; or there is no such column, or a cell of it is blank.
    """
    sheet = read(uri)
    if "name" not in sheet.columns:
        raise ManifestError(f"{uri} is refused: it has no column name (it has: {', '.join(sheet.columns)})")
    problems = Problems(uri)
    for place in (p for p, cell in zip(sheet.places, sheet.columns["name"], strict=True) if not cell):
        problems.add(place, "name is blank")
    problems.refuse()
    return tuple(cell.strip() for cell in sheet.columns["name"] if cell)
