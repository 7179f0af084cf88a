"""Join annotation files to the sequences of a store, and publish them as one immutable DuckDB file."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import duckdb

from index import duck, files, versions
from index.annotation_files import Staged, stage
from index.annotation_keys import EXACT, Matched, key_value, load_records, match_keys
from index.annotation_rows import write_rows
from index.annotation_tables import (
    META_SCHEMA,
    META_TABLE,
    AnnotationTable,
    annotations_folder,
    attach,
    list_tables,
    live_database,
)
from index.errors import StoreError
from index.info import checksum
from index.schema import VIEWS
from index.store import Store

_NUMBER = r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?"


@dataclass(frozen=True)
class TableReport:
    """What became of one annotation file.

    Attributes:
        rows: in the file. matched_rows: those of them whose key is a record of the store.
        matched_sequences: distinct sequences that got at least one row.
        unmatched_rows: the others, left out; `unmatched_examples` gives up to 3 of their keys.
        key: the file's key column; key_column: its name in the table, None where it became `id`.
        rule: how keys were matched: "exact id", "URS without _taxid", "exact id, else URS without _taxid" or "seq_id".
        columns: the table's columns without `seq_id` and `id`.
        unchanged: the live tables held this file already, nothing was done.
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


def annotate(
    store: Store, tables: Mapping[str, Path], *, key: str | None = None, memory_limit: str | None = None
) -> list[TableReport]:
    """Add or replace annotation tables. The caller holds `store.lock()`.

    A table holds the file's matched rows, all of them where a sequence has several, sorted by seq_id and within it as
    in the file; its first columns are `seq_id` and `id` (of the first record that the key names). Types are inferred
    from all rows: numbers with leading zeros stay text. A column of the file that is called seq_id or id without being
    the key is kept as seq_id_in_file or id_in_file.

    Args:
        tables: name of the table -> file: TSV, CSV or Parquet, plain or gzip; RNAcentral's header-less id_mapping.tsv
            and rfam_annotations.tsv are known by their shape.
        key: the column that names records; else id, urs and the like, else the one whose values match most.
        memory_limit: DuckDB's, such as "4GB"; beyond it the join spills into the store's folder.

    Returns:
        One report per table, in the order given.

    Raises:
        StoreError: an unusable name, a file that cannot be read (with its line), or nothing in it matches.
    """
    paths = {name: Path(path) for name, path in tables.items()}
    live = live_database(store)
    _check_names(store, paths)
    work = files.scratch(store.root) / f"annotate-{uuid.uuid4().hex}"
    rows = work / "rows"
    try:
        rows.mkdir(parents=True)
        with duck.new_connection(memory_limit, spill=work / "spill", reads=store.root) as connection:
            if live is not None:
                attach(connection, live, "old")
            before = {table.name.lower(): table for table in list_tables(store)}
            origins = {name: _origin(store, path, key) for name, path in paths.items()}
            reports = {name: _standing(before.get(name.lower()), origins[name]) for name in paths}
            if all(reports.values()):
                return [report for report in reports.values() if report]
            renewed = [name for name, report in reports.items() if report is None]
            kept = [table for name, table in before.items() if name not in {new.lower() for new in renewed}]

            def write() -> None:
                connection.execute(f"ATTACH {duck.literal(work / 'staging.duckdb')} AS staging")
                connection.execute(f"ATTACH {duck.literal(work / 'new.duckdb')} AS new")
                connection.execute("USE staging")
                connection.execute(f"CREATE SCHEMA new.{META_SCHEMA}")
                connection.execute(f"CREATE TABLE new.{META_TABLE} (name VARCHAR, meta VARCHAR)")
                load_records(connection, store)
                for table in kept:
                    quoted = duck.identifier(table.name)
                    connection.execute(f"CREATE TABLE new.main.{quoted} AS SELECT * FROM old.main.{quoted}")
                    _describe(connection, table.name, table.meta)
                    write_rows(connection, f"new.main.{quoted}", table.key_column, rows / f"{table.name}.arrow")
                for name in renewed:
                    reports[name] = report = _load(connection, name, paths[name], key)
                    _describe(connection, name, {**asdict(report), **origins[name]})
                    quoted = duck.identifier(name)
                    write_rows(connection, f"new.main.{quoted}", report.key_column, rows / f"{name}.arrow")
                connection.execute("USE memory")
                connection.execute("DETACH new")

            duck.run(connection, write)
        version = versions.following(annotations_folder(store))
        for file in rows.iterdir():
            files.sync(file)
        files.commit(rows, annotations_folder(store) / version)
        files.commit(work / "new.duckdb", annotations_folder(store) / f"{version}.duckdb")
        versions.publish(annotations_folder(store), version, store.root)
    except duckdb.OutOfMemoryException as error:
        text = duck.first_lines(error, 1)
        raise StoreError(f"{store.root}: annotations need more memory or room on the disk: {text}") from error
    except duckdb.Error as error:
        raise StoreError(f"{store.root}: annotations cannot be written: {duck.first_lines(error)}") from error
    except OSError as error:
        raise StoreError(f"{store.root}: annotations cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return [report for report in reports.values() if report]


def _check_names(store: Store, tables: Mapping[str, Path]) -> None:
    if "?" in str(files.scratch(store.root)):
        raise StoreError(f"{store.root}: DuckDB cannot write below a folder with '?' in its path; rename the folder")
    predicted = {name.lower() for name in store.predictions}
    for name in tables:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name.lower() in duck.reserved_words():
            raise StoreError(
                f"table name {name!r}: take letters, digits and _, beginning with a letter, and no SQL word"
            )
        if name.lower() in VIEWS:
            raise StoreError(f"table name {name!r} is taken by the store itself; choose another")
        if name.lower() in predicted:
            raise StoreError(f"table name {name!r} is taken by predictions of that name; choose another")
        if [other.lower() for other in tables].count(name.lower()) > 1:
            raise StoreError(f"table name {name!r} is given twice (case is ignored)")


def _origin(store: Store, path: Path, key: str | None) -> dict[str, Any]:
    """What a table depends on: the same origin gives the same table."""
    try:
        digest = checksum(path)["sha256"]
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
    return {"sha256": digest, "key_asked": key, "sources": [source.sha256 for source in store.sources]}


def _standing(table: AnnotationTable | None, origin: dict[str, Any]) -> TableReport | None:
    if table is None or any(table.meta[name] != value for name, value in origin.items()):
        return None
    known = {field.name for field in fields(TableReport)}
    report = TableReport(**{name: value for name, value in table.meta.items() if name in known})
    return replace(report, unchanged=True)


def _describe(connection: duckdb.DuckDBPyConnection, name: str, meta: dict[str, Any]) -> None:
    connection.execute(f"INSERT INTO new.{META_TABLE} VALUES (?, ?)", [name, json.dumps(meta)])


def _load(connection: duckdb.DuckDBPyConnection, name: str, path: Path, key: str | None) -> TableReport:
    connection.execute("DROP TABLE IF EXISTS staged")
    staged = stage(connection, path, "staged")
    (rows,) = connection.execute("SELECT count(*) FROM staged").fetchall()[0]
    if rows == 0:
        raise StoreError(f"{path}: has a header but no rows")
    matched = match_keys(connection, staged, key)
    stored, key_column = _stored_columns(staged, matched)
    types = _types(connection, staged, matched)
    chosen = ", ".join(
        f"CAST(s.c{place} AS {types[place]}) AS {duck.identifier(column)}" for place, column in stored.items()
    )
    value = key_value(matched.place)
    connection.execute(
        f"CREATE TABLE new.main.{duck.identifier(name)} AS SELECT m.seq_id, m.id, {chosen} "
        f"FROM staged s JOIN key_map m ON m.key = {value} "
        f"ORDER BY m.seq_id, s.rowid"
    )
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
    )


def _stored_columns(staged: Staged, matched: Matched) -> tuple[dict[int, str], str | None]:
    """Names in the table by place in the file, and the key's among them, if it is kept."""
    taken = {column.lower() for column in staged.columns}
    stored: dict[int, str] = {}
    for place, column in enumerate(staged.columns):
        name = column
        if column.lower() in ("id", "seq_id"):
            if place == matched.place and (column.lower() == "seq_id" or matched.rule == EXACT):
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
    tests = []
    for place in range(len(described)):
        column = f"c{place}"
        for test in (
            f"coalesce(TRY_CAST({column} AS BIGINT)::VARCHAR = {column}, false)",
            f"regexp_full_match({column}, '{_NUMBER}')",
            f"lower({column}) IN ('true', 'false')",
        ):
            # An empty field fits any type; a column of nothing else stays text.
            tests.append(f"coalesce(bool_and({test}) FILTER ({column} IS NOT NULL), false)")
    answers = connection.execute(f"SELECT {', '.join(tests)} FROM staged").fetchall()[0]
    types = []
    for place in range(len(described)):
        whole, number, truth = answers[3 * place : 3 * place + 3]
        types.append("BIGINT" if whole else "DOUBLE" if number else "BOOLEAN" if truth else "VARCHAR")
    types[matched.place] = "VARCHAR"
    return types
