"""Columns of a table as text, whatever its format: Parquet, CSV, TSV."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from raypipe.errors import InputError
from raypipe.tables import ID_COLUMNS, SEQUENCE_COLUMNS, table_kind
from raypipe.unpacking import open_unpacked

PARQUET = b"PAR1"


def read_columns(path: str) -> pa.Table:
    """A whole table; CSV and TSV (compressed or not) as text, no value taken for a number or for nothing.

    Raises:
        InputError: the file is missing, empty, damaged, or no table.
    """
    with open_unpacked(path) as file:
        start = file.peek(1 << 16)
        if not start.strip():
            raise InputError(f"{path}: empty, there is no header to read")
        kind = "parquet" if start.startswith(PARQUET) else table_kind(path)
        if kind is None:
            raise InputError(f"{path}: is no table; give Parquet, or a file whose name ends in .csv or .tsv")
        try:
            if kind == "parquet":
                return pq.read_table(path)
            header = start.partition(b"\n")[0]
            mark = b"\t" if kind == "tsv" else next((mark for mark in (b",", b";", b"\t") if mark in header), b",")
            quote = '"' if mark != b"\t" or header.startswith(b'"') else False
            names = [name.strip().strip('"') for name in header.decode("utf-8-sig").rstrip("\r").split(mark.decode())]
            return arrow_csv.read_csv(
                file,
                arrow_csv.ReadOptions(use_threads=False),
                arrow_csv.ParseOptions(delimiter=mark.decode(), quote_char=quote),
                arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
            )
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: damaged or no table ({' '.join(str(error).split())})") from error


def find_column(path: str, table: pa.Table, asked: str | None, usual: Sequence[str], option: str) -> str:
    """The name of a column.

    Args:
        path: of the table, for messages.
        table: the table.
        asked: the name that was asked for.
        usual: else the first of these, whatever their case.
        option: what names the column.

    Raises:
        InputError: there is none, or two of that name.
    """
    present: list[str] = table.column_names
    by_lower = {name.lower(): name for name in reversed(present)}
    names = [asked] if asked is not None else [by_lower[name] for name in usual if name in by_lower]
    found = next((name for name in names if name in present), None)
    if found is None:
        missing = " or ".join(map(repr, [asked] if asked is not None else usual[:2]))
        raise InputError(f"{path}: no column {missing}; it has: {', '.join(present)}; name another with {option}")
    if present.count(found) > 1:
        raise InputError(f"{path}: {present.count(found)} columns are called {found!r}; rename all but one")
    return found


def texts(path: str, table: pa.Table, name: str) -> list[str]:
    """A column as text, without blanks around it; "" for what is missing.

    Raises:
        InputError: it holds lists or the like.
    """
    try:
        column = pc.fill_null(table.column(name).cast(pa.large_string()), "")
    except pa.ArrowException as error:
        raise InputError(f"{path}: column {name!r} holds {table.column(name).type}, not text or numbers") from error
    return [value.strip() for value in column.to_pylist()]


def id_and_sequence(path: str, table: pa.Table, id_column: str | None, sequence_column: str | None) -> tuple[str, str]:
    """Names of the two columns that every table of sequences has."""
    return (
        find_column(path, table, id_column, ID_COLUMNS, "--id-column"),
        find_column(path, table, sequence_column, SEQUENCE_COLUMNS, "--sequence-column"),
    )
