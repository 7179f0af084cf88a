"""Read an annotation file (TSV, CSV or Parquet, plain or .gz) into a staging table, every column as text or as stored.

TSV fields are taken as they stand: a quotation mark is a character, as RNAcentral writes them (5" end). CSV fields
may be quoted. An empty field is NULL.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import duckdb

from index import duck
from index.errors import StoreError

LONGEST_LINE = 4 << 20

# RNAcentral's files come without a header line; the columns are those of its and Rfam's documentation.
ID_MAPPING = ["urs", "database", "external_id", "taxid", "rna_type", "gene"]
RFAM_ANNOTATIONS = [
    "urs",
    "rfam_acc",
    "score",
    "e_value",
    "sequence_start",
    "sequence_stop",
    "model_start",
    "model_stop",
    "rfam_name",
]
_URS = re.compile(r"URS[0-9A-F]{10}(_\d+)?")


@dataclass(frozen=True)
class Staged:
    """A file as read: `table` holds it with columns c0, c1, ... for `columns`, in the file's order (rowid).

    Attributes:
        typed: the columns carry their own types (Parquet), so none are to be inferred.
        first_line: 1 for data from the first line on, 2 after a header; 0 for Parquet.
    """

    path: Path
    table: str
    columns: list[str]
    typed: bool
    first_line: int


def stage(connection: duckdb.DuckDBPyConnection, path: Path, table: str) -> Staged:
    """Read `path` into the new table `table`.

    Raises:
        StoreError: no such file, empty, damaged, not UTF-8, ragged lines, or no usable header; with file and line.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
    if not magic:
        raise StoreError(f"{path}: is empty")
    if magic == b"PAR1":
        return _stage_parquet(connection, path, table)
    if path.suffix.lower() in (".parquet", ".pq"):
        raise StoreError(f"{path}: is not a Parquet file, or is damaged")
    return _stage_text(connection, path, table, gzipped=magic[:2] == b"\x1f\x8b")


def _stage_parquet(connection: duckdb.DuckDBPyConnection, path: Path, table: str) -> Staged:
    source = duck.parquet([path])
    try:
        columns = [str(row[0]) for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
        _check_names(path, columns, line=0)
        chosen = ", ".join(f"{duck.identifier(name)} AS c{place}" for place, name in enumerate(columns))
        connection.execute(f"CREATE TABLE {table} AS SELECT {chosen} FROM {source}")
    except duckdb.Error as error:
        raise StoreError(f"{path}: cannot be read as Parquet: {duck.first_lines(error)}") from error
    return Staged(path, table, columns, typed=True, first_line=0)


def _stage_text(connection: duckdb.DuckDBPyConnection, path: Path, table: str, *, gzipped: bool) -> Staged:
    line = _first_line(path, gzipped)
    delimiter = _delimiter(path, line)
    fields = line.split("\t") if delimiter == "\t" else next(csv.reader([line], delimiter=delimiter))
    known = _known_shape(fields) if delimiter == "\t" else None
    columns = known or [name.strip().removeprefix("#").strip() for name in fields]
    columns = [name or f"column_{place}" for place, name in enumerate(columns, 1)]
    _check_names(path, columns, line=1)
    types = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(columns)))
    options: dict[str, Any] = {
        "auto_detect": "false",
        "columns": "{" + types + "}",
        "header": "false" if known else "true",
        "delim": duck.literal(delimiter),
        "quote": "''" if delimiter == "\t" else "'\"'",
        "escape": "''" if delimiter == "\t" else "'\"'",
        "nullstr": "''",
        "compression": "'gzip'" if gzipped else "'none'",
        "max_line_size": LONGEST_LINE,
        "buffer_size": 2 * LONGEST_LINE,
        "strict_mode": "true",
    }
    arguments = ", ".join(f"{name} = {value}" for name, value in options.items())
    source = f"read_csv({duck.literal(duck.escape_glob(path))}, {arguments})"
    try:
        connection.execute(f"CREATE TABLE {table} AS SELECT * FROM {source}")
    except duckdb.Error as error:
        raise _bad_line(path, error, len(columns), delimiter) from error
    return Staged(path, table, columns, typed=False, first_line=1 if known else 2)


def _first_line(path: Path, gzipped: bool) -> str:
    try:
        with _binary(path, gzipped) as stream:
            raw = stream.readline(LONGEST_LINE)
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(f"{path}: damaged gzip file ({error})") from error
    if not raw.strip():
        raise StoreError(f"{path}: is empty" if not raw else f"{path}: line 1 is empty; put the column names there")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw:
        raise StoreError(f"{path}: is not text in UTF-8 (UTF-16 or binary); save it as UTF-8 TSV or CSV")
    try:
        return raw.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: line 1 is not UTF-8; {_HOW_TO_RECODE.format(path=path)}") from error


_HOW_TO_RECODE = "if it is Latin-1, convert it: iconv -f latin1 -t utf8 {path}"


def _binary(path: Path, gzipped: bool) -> BinaryIO:
    return gzip.open(path, "rb") if gzipped else path.open("rb")  # type: ignore[return-value]


def _delimiter(path: Path, line: str) -> str:
    """The first that occurs in the first line: tab before comma before semicolon, but comma first in a .csv file."""
    names = path.name.lower().removesuffix(".gz")
    order = ",;\t" if names.endswith(".csv") else "\t,;"
    for delimiter in order:
        if delimiter in line:
            return delimiter
    raise StoreError(
        f"{path}: line 1 has one column only ({line[:60]!r}); an annotation file has an id column and others, "
        "separated by tabs or commas"
    )


def _known_shape(fields: list[str]) -> list[str] | None:
    """Column names of RNAcentral's header-less files, told by the form of their first line."""
    if not _URS.fullmatch(fields[0]):
        return None
    if len(fields) == len(ID_MAPPING) and fields[3].isdigit():
        return ID_MAPPING
    if len(fields) == len(RFAM_ANNOTATIONS) and re.fullmatch(r"RF\d{5}", fields[1]):
        return RFAM_ANNOTATIONS
    return None


def _check_names(path: Path, columns: list[str], line: int) -> None:
    if len(columns) < 2:
        raise StoreError(f"{path}: has one column only; an annotation file has an id column and at least one more")
    folded = [name.lower() for name in columns]
    for name in columns:
        if folded.count(name.lower()) > 1:
            where = f"line {line}: " if line else ""
            raise StoreError(f"{path}: {where}two columns are called {name!r} (case is ignored); rename one")


def _bad_line(path: Path, error: duckdb.Error, num_columns: int, delimiter: str) -> StoreError:
    text = str(error)
    found = re.search(r"[Ll]ine:?\s+(\d+)", text)
    where = f"{path}: line {found[1]}" if found else f"{path}"
    ragged = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
    if ragged:
        separator = {"\t": "tabs", ",": "commas", ";": "semicolons"}[delimiter]
        return StoreError(f"{where} has {ragged[2]} columns instead of {num_columns}; check its {separator}")
    if re.search(r"unicode|utf-?8", text, re.IGNORECASE):
        return StoreError(f"{where} is not UTF-8; {_HOW_TO_RECODE.format(path=path)}")
    if isinstance(error, duckdb.OutOfMemoryException) or "No space left" in text:
        return StoreError(f"{path}: no room to read it: {duck.first_lines(error)}")
    return StoreError(f"{where} cannot be read: {duck.first_lines(error, 3)}")
