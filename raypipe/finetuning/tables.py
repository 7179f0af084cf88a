"""Read the columns of a table: CSV, TSV (both also compressed) and Parquet, with the line of every row."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.errors import InputError, UsageError
from raypipe.finetuning.rows import Rejects
from raypipe.tables import ID_COLUMNS, LONGEST_FIELD, SEQUENCE_COLUMNS, table_kind
from raypipe.unpacking import open_unpacked

_LINE = "__raypipe_line"
TESTED, CHOSEN = "--test-where", "--where"
"""Columns of yes or no that conditions give, by the options that name them."""


@dataclass(frozen=True)
class Wanted:
    """Which columns are read.

    Attributes:
        id, sequence: their names, or None for the usual ones.
        labels: names of the label columns; where there are none the first of `usual_labels` that is there.
        others: further columns, which must be there.
        need_id, need_sequence: whether their absence is an error.
        where: SQL condition on all columns of the table.
        marks: name of a further column -> condition: it says of each row whether that holds.
        ask: what the user shall name where there is none of `usual_labels`, and by which option.
    """

    id: str | None
    sequence: str | None
    labels: tuple[str, ...]
    usual_labels: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    need_id: bool = False
    need_sequence: bool = True
    where: str | None = None
    marks: Mapping[str, str] = field(default_factory=dict)
    ask: str = "the label column with --labels"


@dataclass(frozen=True)
class Columns:
    """Columns of a table, and where each of its rows stands.

    Attributes:
        file: its path.
        id, sequence: what these columns are called, None where there is none.
        labels: the label columns.
        values: by column N Python values, texts where the file holds text only.
        lines: N of them.
        read: rows of the file, those that the condition did not choose included.
    """

    file: str
    id: str | None
    sequence: str | None
    labels: tuple[str, ...]
    values: dict[str, list[Any]]
    lines: list[int]
    read: int

    def column(self, name: str | None) -> list[Any]:
        """The values of a column; None for each row where there is no such column."""
        return [None] * len(self.lines) if name is None else self.values[name]


def read_table(path: str, wanted: Wanted, rejects: Rejects) -> Columns:
    """Read a table.

    Raises:
        InputError: the file is damaged, or lacks a column.
        UsageError: nobody says which column holds labels, or the condition is no SQL or speaks of other columns.
    """
    lines: Sequence[int]
    if table_kind(path) == "parquet":
        table = _read_parquet(path)
        lines = range(1, table.num_rows + 1)
    else:
        table, lines = _read_delimited(path, table_kind(path) or "csv", rejects)
    present = table.column_names
    id_ = _find(path, present, wanted.id, ID_COLUMNS, "id", wanted.need_id)
    sequence = _find(path, present, wanted.sequence, SEQUENCE_COLUMNS, "sequence", wanted.need_sequence)
    labels = wanted.labels or tuple(name for name in wanted.usual_labels if name in present)[:1]
    if not labels:
        raise UsageError(f"{path}: name {wanted.ask}; it has: {', '.join(present)}")
    for name in (*labels, *wanted.others):
        _check_present(path, present, name)
    table = table.append_column(_LINE, pa.array(lines, pa.int64()))
    read = table.num_rows
    if wanted.where:
        table = table.filter(pa.array(_holds(path, table, wanted.where, CHOSEN)))
        rejects.unread += read - table.num_rows
    chosen = dict.fromkeys(name for name in (id_, sequence, *labels, *wanted.others) if name)
    values = {name: table[name].to_pylist() for name in chosen}
    values |= {name: _holds(path, table, condition, name).tolist() for name, condition in wanted.marks.items()}
    return Columns(path, id_, sequence, labels, values, table[_LINE].to_pylist(), read)


def _read_parquet(path: str) -> pa.Table:
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged or no Parquet file ({error}); copy or make it again") from error
    return _distinct(path, table)


def _read_delimited(path: str, kind: str, rejects: Rejects) -> tuple[pa.Table, list[int]]:
    with open_unpacked(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="replace", newline="")
        header = text.readline()
        if not header.strip():
            raise InputError(f"{path}: empty, there is no header to read")
        # As `raypipe.tables` reads them: in TSV a quotation mark is a character, unless the header is quoted too.
        delimiter = "\t" if kind == "tsv" else next((mark for mark in ",;\t" if mark in header), ",")
        quoting = csv.QUOTE_NONE if delimiter == "\t" and not header.startswith('"') else csv.QUOTE_MINIMAL
        csv.field_size_limit(LONGEST_FIELD)
        names = [field.strip() for field in next(csv.reader([header], delimiter=delimiter, quoting=quoting))]
        reader = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)
        rows: list[list[str]] = []
        lines: list[int] = []
        line = 2
        try:
            for row in reader:
                begin, line = line, reader.line_num + 2
                if len(row) == len(names):
                    rows.append(row)
                    lines.append(begin)
                elif row:
                    rejects.broken(path, begin, None, f"{len(row)} columns where the header has {len(names)}")
        except csv.Error as error:
            raise InputError(
                f"{path}, line {line}: broken table ({error}); look for a quotation mark without its partner"
            ) from error
    arrays = [pa.array([row[place] for row in rows], pa.string()) for place in range(len(names))]
    return _distinct(path, pa.Table.from_arrays(arrays, names=names)), lines


def _distinct(path: str, table: pa.Table) -> pa.Table:
    twice = [name for name in table.column_names if table.column_names.count(name) > 1]
    if twice:
        raise InputError(f"{path}: {twice.count(twice[0])} columns are called {twice[0]!r}; rename all but one")
    return table


def _find(
    path: str, present: Sequence[str], asked: str | None, usual: tuple[str, ...], what: str, needed: bool
) -> str | None:
    if asked is not None:
        # One file of several may do without ids; a column that was named must be there.
        _check_present(path, present, asked)
        return asked
    by_lower = {name.lower(): name for name in reversed(present)}
    found = next((by_lower[name] for name in usual if name in by_lower), None)
    if found is None and needed:
        raise InputError(
            f"{path}: no {what} column {usual[0]!r} or {usual[1]!r}; it has: {', '.join(present)}; name it with "
            f"--{what}-column"
        )
    return found


def _check_present(path: str, present: Sequence[str], name: str) -> None:
    if name not in present:
        near = difflib.get_close_matches(name, present, 1)
        hint = f"did you mean {near[0]!r}? It" if near else "it"
        raise InputError(f"{path}: no column {name!r}; {hint} has: {', '.join(present)}")


def _holds(path: str, table: pa.Table, where: str, option: str) -> np.ndarray:
    """(rows,) bool: for which of them a condition holds."""
    import duckdb

    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.register("data", table)
        try:
            # The condition stands on lines of its own, so that a comment in it ends there.
            found = connection.execute(f"SELECT {_LINE} FROM data WHERE (\n{where}\n)").fetchnumpy()[_LINE]
        except duckdb.Error as error:
            reason = " ".join(str(error).split())
            raise UsageError(
                f"{option} {where!r} of {path}: {reason}. Columns: {', '.join(table.column_names[:-1])}"
            ) from error
    return np.isin(table[_LINE].to_numpy(), found)
