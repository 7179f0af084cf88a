"""Read an annotation file (TSV, CSV, GFF3, BED, Rfam's seed or Parquet, plain or .gz) into a staging table, every
column as text or as stored.

TSV fields are taken as they stand: a quotation mark is a character, as RNAcentral writes them (5" end). CSV fields
may be quoted. An empty field is NULL. Rows that cannot be read are kept aside, unless they are most.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import duckdb

from index import duck
from index.annotation_gff import spread_attributes
from index.annotation_rejects import HOW_TO_RECODE, keep_aside
from index.annotation_seed import is_seed, read_seed
from index.annotation_shapes import LOOKED_AT, find_shape
from index.errors import StoreError

LONGEST_LINE = 4 << 20


@dataclass(frozen=True)
class Staged:
    """A file as read: `table` holds it with columns c0, c1, ... for `columns`, in the file's order (rowid).

    Attributes:
        typed: the columns carry their own types (Parquet), so none are to be inferred.
        header: whether line 1 names the columns.
        kind: "table", "gff" or "bed".
        rejected: rows that could not be read; the table `rejected` has them.
    """

    path: Path
    table: str
    columns: list[str]
    typed: bool
    header: bool
    kind: str = "table"
    rejected: int = 0


def stage(connection: duckdb.DuckDBPyConnection, path: Path, table: str) -> Staged:
    """Read `path` into the new table `table`, and into the new table `rejected` what could not be read.

    Raises:
        StoreError: no such file, empty, damaged, mostly not UTF-8 or ragged, or no usable header; with file and line.
    """
    connection.execute("CREATE OR REPLACE TABLE rejected (line BIGINT, reason VARCHAR, text VARCHAR)")
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
    return Staged(path, table, columns, typed=True, header=False)


def _stage_text(connection: duckdb.DuckDBPyConnection, path: Path, table: str, *, gzipped: bool) -> Staged:
    first = _first_line(path, gzipped)
    if is_seed(first):
        with _opened(path, gzipped) as stream:
            columns = read_seed(connection, path, stream, table)
        return Staged(path, table, columns, typed=False, header=False)
    shape = find_shape(path, first, lambda: _lines(path, gzipped))
    _check_names(path, shape.columns, line=1)
    types = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(shape.columns)))
    tsv = shape.delimiter == "\t"
    options = {
        "auto_detect": "false",
        "columns": "{" + types + "}",
        "header": "true" if shape.header else "false",
        "delim": duck.literal(shape.delimiter),
        "quote": "''" if tsv else "'\"'",
        "escape": "''" if tsv else "'\"'",
        "nullstr": f"[{', '.join(map(duck.literal, ('', *shape.nulls)))}]",
        "compression": "'gzip'" if gzipped else "'none'",
        "max_line_size": LONGEST_LINE,
        "buffer_size": 2 * LONGEST_LINE,
        "strict_mode": "true",
        "store_rejects": "true",
        "rejects_limit": 0,
    }
    arguments = ", ".join(f"{name} = {value}" for name, value in options.items())
    source = f"read_csv({duck.literal(duck.escape_glob(path))}, {arguments})"
    rows = f"{source} WHERE c0 IS NULL OR NOT starts_with(c0, '#')" if shape.comments else source
    try:
        connection.execute(f"CREATE TABLE {table} AS SELECT * FROM {rows}")
    except duckdb.Error as error:
        raise _unreadable(path, error) from error
    rejected = keep_aside(connection, path, table, shape)
    columns = spread_attributes(connection, table) if shape.kind == "gff" else shape.columns
    return Staged(path, table, columns, typed=False, header=shape.header, kind=shape.kind, rejected=rejected)


def _first_line(path: Path, gzipped: bool) -> str:
    with _opened(path, gzipped) as stream:
        raw = stream.readline(LONGEST_LINE)
    if not raw.strip():
        raise StoreError(f"{path}: is empty" if not raw else f"{path}: line 1 is empty; put the column names there")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw:
        raise StoreError(f"{path}: is not text in UTF-8 (UTF-16 or binary); save it as UTF-8 TSV or CSV")
    try:
        return raw.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: line 1 is not UTF-8; {HOW_TO_RECODE.format(path=path)}") from error


def _lines(path: Path, gzipped: bool) -> Iterator[str]:
    with _opened(path, gzipped) as stream:
        for raw in islice(stream, LOOKED_AT):
            yield raw.decode("utf-8", errors="replace").rstrip("\r\n")


@contextmanager
def _opened(path: Path, gzipped: bool) -> Iterator[BinaryIO]:
    try:
        with gzip.open(path, "rb") if gzipped else path.open("rb") as stream:
            yield stream  # type: ignore[misc]
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(f"{path}: {'damaged gzip file' if gzipped else 'cannot be read'} ({error})") from error


def _check_names(path: Path, columns: list[str], line: int) -> None:
    if len(columns) < 2:
        raise StoreError(f"{path}: has one column only; an annotation file has an id column and at least one more")
    folded = [name.lower() for name in columns]
    for name in columns:
        if folded.count(name.lower()) > 1:
            where = f"line {line}: " if line else ""
            raise StoreError(f"{path}: {where}two columns are called {name!r} (case is ignored); rename one")


def _unreadable(path: Path, error: duckdb.Error) -> StoreError:
    """What was no matter of single rows."""
    if isinstance(error, duckdb.OutOfMemoryException) or "No space left" in str(error):
        return StoreError(f"{path}: no room to read it: {duck.first_lines(error)}")
    found = re.search(r"[Ll]ine:?\s+(\d+)", str(error))
    where = f"{path}: line {found[1]}" if found else f"{path}"
    return StoreError(f"{where} cannot be read: {duck.first_lines(error, 3)}")
