"""One annotation file into one table of a new annotation database: matched, typed, sorted by seq_id.

The database is attached as `new`. Its schema META_SCHEMA keeps what was said of each table, the rows that could not be
read, and of a table that is joined to another one (`on`) the file's own rows, so that it can be joined again when that
one changes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from index import duck
from index.annotation_files import Staged, stage
from index.annotation_keys import EXACT, Matched, key_value, load_column, match_keys
from index.annotation_rejects import first_of, write_rejects
from index.annotation_shapes import COORDINATES
from index.annotation_tables import META_SCHEMA, META_TABLE, REJECTS_TABLE, AnnotationTable
from index.errors import StoreError

# Of a table that is sorted by seq_id a few hits touch as many row groups, and each is scanned: with the 122,880 rows of
# DuckDB's own choice that is three times as slow. Smaller ones take more room on the disk.
ROW_GROUP = 16_384
FIRST_ROWS = 20_000
_NUMBER = r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?"


_TESTS = {
    "BIGINT": "coalesce(TRY_CAST({0} AS BIGINT)::VARCHAR = {0}, false)",
    "DOUBLE": f"regexp_full_match({{0}}, '{_NUMBER.replace('{', '{{').replace('}', '}}')}')",
    "BOOLEAN": "lower({0}) IN ('true', 'false')",
}


@dataclass(frozen=True)
class TableReport:
    """What became of one annotation file.

    Attributes:
        rows: in the file, that can be read. matched_rows: those of them whose key is a record of the store.
        matched_sequences: distinct sequences that got at least one row.
        unmatched_rows: the others, left out; `unmatched_examples` gives up to 3 of their keys.
        key: the file's key column; key_column: its name in the table, None where it became `id`.
        rule: how keys were matched: "exact id", "URS without _taxid", "exact id, else URS without _taxid", "seq_id", or
            the table.column that they were joined to.
        columns: the table's columns without `seq_id` and `id`.
        unchanged: the live tables held this file already, nothing was done.
        rejected_rows: that could not be read, and are kept aside; `rejected_examples` tells of up to 3.
        coordinates: how those in the table count, in words.
        joined_again: it was not asked for, but the table that it is joined to changed.
    """

    name: str
    file: str
    rows: int
    matched_rows: int
    matched_sequences: int
    unmatched_rows: int
    unmatched_examples: list[str]
    key: str
    key_column: str | None
    rule: str
    columns: list[str] = field(default_factory=list)
    unchanged: bool = False
    rejected_rows: int = 0
    rejected_examples: list[str] = field(default_factory=list)
    coordinates: str | None = None
    joined_again: bool = False


def make_database(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Make an annotation database without tables, attached as `new`."""
    connection.execute(f"ATTACH {duck.literal(file)} AS new (ROW_GROUP_SIZE {ROW_GROUP})")
    connection.execute(f"CREATE SCHEMA new.{META_SCHEMA}")
    connection.execute(f"CREATE TABLE new.{META_TABLE} (name VARCHAR, meta VARCHAR)")
    columns = "name VARCHAR, file VARCHAR, line BIGINT, reason VARCHAR, text VARCHAR"
    connection.execute(f"CREATE TABLE new.{REJECTS_TABLE} ({columns})")


def describe(connection: duckdb.DuckDBPyConnection, name: str, meta: dict[str, Any]) -> None:
    """Write what is said of a table."""
    connection.execute(f"INSERT INTO new.{META_TABLE} VALUES (?, ?)", [name, json.dumps(meta)])


def copy_table(connection: duckdb.DuckDBPyConnection, table: AnnotationTable, *, rows: bool = True) -> None:
    """Take over a table of the database that is attached as `old`; without its rows what else is kept of it."""
    quoted = duck.identifier(table.name)
    if rows:
        connection.execute(f"CREATE TABLE new.main.{quoted} AS SELECT * FROM old.main.{quoted}")
    if table.meta.get("on"):
        source = _source(table.name)
        connection.execute(f"CREATE TABLE new.{source} AS SELECT * FROM old.{source}")
    if table.meta.get("rejected_rows"):
        connection.execute(
            f"INSERT INTO new.{REJECTS_TABLE} SELECT * FROM old.{REJECTS_TABLE} WHERE name = ?", [table.name]
        )


def load(
    connection: duckdb.DuckDBPyConnection, name: str, path: Path, key: str | None, on: tuple[str, str] | None
) -> TableReport:
    """Read a file into the table `name`.

    Args:
        key: its key column; found by itself if None.
        on: table and column of `new` that its keys are values of; if None they are records. The table `targets` has
            them (see `index.annotation_keys`).

    Raises:
        StoreError: it cannot be read, or nothing in it matches.
    """
    connection.execute("DROP TABLE IF EXISTS staged")
    staged = stage(connection, path, "staged")
    (rows,) = connection.execute("SELECT count(*) FROM staged").fetchall()[0]
    if rows == 0:
        raise StoreError(f"{path}: has a header but no rows" if staged.header else f"{path}: has no rows")
    matched = match_keys(connection, staged, key, on)
    stored, key_column = _stored_columns(staged, matched)
    types = _types(connection, staged, matched)
    chosen = ", ".join(f"CAST(c{place} AS {types[place]}) AS {duck.identifier(kept)}" for place, kept in stored.items())
    value = key_value(matched.place)
    if on is None:
        connection.execute(
            f"CREATE TABLE new.main.{duck.identifier(name)} AS SELECT m.seq_id, m.id, {chosen} "
            f"FROM staged s JOIN key_map m ON m.key = {value} ORDER BY m.seq_id, s.rowid"
        )
    else:
        connection.execute(f"CREATE TABLE new.{_source(name)} AS SELECT {chosen} FROM staged ORDER BY rowid")
        _join(connection, name, str(key_column))
    if staged.rejected:
        write_rejects(connection, f"new.{REJECTS_TABLE}", name, path)
    unmatched = f"FROM staged ANTI JOIN key_map m ON m.key = {value}"
    (missed,) = connection.execute(f"SELECT count(*) {unmatched}").fetchall()[0]
    examples = connection.execute(
        f"SELECT DISTINCT coalesce({value}, '(empty)') {unmatched} ORDER BY 1 LIMIT 3"
    ).fetchall()
    (sequences,) = connection.execute("SELECT count(DISTINCT seq_id) FROM key_map").fetchall()[0]
    return TableReport(
        name=name,
        file=str(path),
        rows=rows,
        matched_rows=rows - missed,
        matched_sequences=sequences,
        unmatched_rows=missed,
        unmatched_examples=[example for (example,) in examples],
        key=staged.columns[matched.place],
        key_column=key_column,
        rule=matched.rule,
        columns=list(stored.values()),
        rejected_rows=staged.rejected,
        rejected_examples=first_of(connection) if staged.rejected else [],
        coordinates=COORDINATES.get(staged.kind),
    )


def join_again(connection: duckdb.DuckDBPyConnection, table: AnnotationTable) -> dict[str, Any]:
    """Join a table that was taken over to the one that it is on, which changed; returns what is said of it now.

    Raises:
        StoreError: that one has the column no more.
    """
    copy_table(connection, table, rows=False)
    base, column = table.meta["on"]
    try:
        load_column(connection, f"new.main.{duck.identifier(base)}", duck.identifier(column))
    except duckdb.BinderException as error:
        raise StoreError(
            f"{base}: has no column {column!r} any more, and {table.name} is joined to it; keep the column, or first "
            f"annotate {table.name} without --on, or on another one"
        ) from error
    key = str(table.key_column)
    values = f"CAST({duck.identifier(key)} AS VARCHAR)"
    connection.execute(
        f"CREATE OR REPLACE TABLE key_map AS SELECT name AS key, seq_id, id FROM targets "
        f"WHERE name IN (SELECT {values} FROM new.{_source(table.name)})"
    )
    _join(connection, table.name, key)
    (missed,) = connection.execute(
        f"SELECT count(*) FROM new.{_source(table.name)} ANTI JOIN key_map ON key = {values}"
    ).fetchall()[0]
    (sequences,) = connection.execute("SELECT count(DISTINCT seq_id) FROM key_map").fetchall()[0]
    rows = table.meta["rows"]
    counts = {"matched_rows": rows - missed, "matched_sequences": sequences, "unmatched_rows": missed}
    return {**table.meta, **counts, "unmatched_examples": []}


def _join(connection: duckdb.DuckDBPyConnection, name: str, key: str) -> None:
    """Make a table of its file's own rows and `key_map`."""
    connection.execute(
        f"CREATE TABLE new.main.{duck.identifier(name)} AS SELECT m.seq_id, m.id, s.* FROM new.{_source(name)} s "
        f"JOIN key_map m ON m.key = CAST(s.{duck.identifier(key)} AS VARCHAR) ORDER BY m.seq_id, s.rowid"
    )


def _source(name: str) -> str:
    return f"{META_SCHEMA}.{duck.identifier(f'source of {name.lower()}')}"


def _stored_columns(staged: Staged, matched: Matched) -> tuple[dict[int, str], str | None]:
    """Names in the table by place in the file, and the key's among them, if it is kept."""
    taken = {column.lower() for column in staged.columns}
    stored: dict[int, str] = {}
    for place, column in enumerate(staged.columns):
        name = column
        if column.lower() in ("id", "seq_id"):
            if place == matched.place and matched.rule in (EXACT, "seq_id"):
                continue
            name = f"{column}_in_file"
            while name.lower() in taken:
                name += "_"
        stored[place] = name
    return stored, stored.get(matched.place)


def _types(connection: duckdb.DuckDBPyConnection, staged: Staged, matched: Matched) -> list[str]:
    """The type of each column: that of a Parquet file, else by its values.

    Whole numbers only where each is written back as it was, so that 007 stays text; decimal numbers become DOUBLE,
    since scores are to be compared and sorted, and 1.10 is 1.1 then.
    """
    described = [str(row[1]) for row in connection.execute("DESCRIBE staged").fetchall()]
    if staged.typed:
        return described
    tests = [(place, type_) for place in range(len(described)) if place != matched.place for type_ in _TESTS]
    # What does not hold for the first rows need not be asked of all.
    for source in (f"(FROM staged LIMIT {FIRST_ROWS})", "staged"):
        # An empty field fits any type; a column of nothing else stays text.
        empty = source != "staged"
        asked = [
            f"coalesce(bool_and({_TESTS[type_].format(f'c{place}')}) FILTER (c{place} IS NOT NULL), {empty})"
            for place, type_ in tests
        ]
        answers = connection.execute(f"SELECT {', '.join(asked)} FROM {source}").fetchall()[0] if asked else ()
        tests = [test for test, holds in zip(tests, answers, strict=True) if holds]
    types = dict(reversed(tests))  # the first that holds
    return [types.get(place, "VARCHAR") for place in range(len(described))]
