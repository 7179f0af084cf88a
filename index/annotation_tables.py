"""The live annotation tables of a store, read-only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb

from index import copies, duck, versions
from index.errors import StoreError
from index.places import Place
from index.store import Store

FOLDER = "annotations"
ALIAS = "annotation_tables"
META_SCHEMA = "raypipe"
META_TABLE = f"{META_SCHEMA}.tables"
REJECTS_TABLE = f"{META_SCHEMA}.rejects"


@dataclass(frozen=True)
class AnnotationTable:
    """One table as published.

    Attributes:
        columns: all its columns in order, `seq_id` and `id` first.
        key_column: the file's key as stored, which hits leave out; None where it became `id`.
        meta: what `annotate` reported when it was made, with the file's sha256 and the sources matched against.
    """

    name: str
    columns: list[str]
    key_column: str | None
    meta: dict[str, Any]


def annotations_folder(store: Store) -> Place:
    """The folder of all versions."""
    return store.root / FOLDER


def live_database(store: Store) -> Path | None:
    """File of the live version, or of a copy on this machine; None where nothing is annotated yet.

    Raises:
        StoreError: CURRENT names a version that is not there.
    """
    version = versions.current(annotations_folder(store))
    if version is None:
        return None
    try:
        mend = "remove it and CURRENT beside it, annotate again"
        file = copies.fetch(store.root, FOLDER, version, f"{version}.duckdb", mend=mend)
    except FileNotFoundError:
        file = None
    if file is None or not file.is_file():
        file = annotations_folder(store) / f"{version}.duckdb"
        raise StoreError(f"{file}: missing, though CURRENT names it; run raypipe annotate {store.root} again")
    return file


def attach(connection: duckdb.DuckDBPyConnection, file: Path, alias: str = ALIAS) -> None:
    """Attach `file` read-only under `alias`.

    Raises:
        StoreError: the file is damaged, or of another DuckDB's format.
    """
    try:
        connection.execute(f"ATTACH {duck.literal(file)} AS {alias} (READ_ONLY)")
        connection.execute(f"SELECT name, meta FROM {alias}.{META_TABLE} LIMIT 0")
    except duckdb.Error as error:
        raise _damaged(file, error) from error


def rejected_rows(alias: str = ALIAS) -> str:
    """SQL for the rows of annotation files that could not be read, with the columns of `schema.REJECTS`."""
    reason = "name || ': ' || reason || ': ' || text"
    return (
        f"SELECT file AS source, line, NULL::VARCHAR AS id, NULL::BIGINT AS seq_id, {reason} AS reason "
        f"FROM {alias}.{REJECTS_TABLE}"
    )


def list_tables(store: Store) -> list[AnnotationTable]:
    """The live tables by name; [] where nothing is annotated."""
    file = live_database(store)
    if file is None:
        return []
    return list(tables_in(file))


def tables_in(file: Path) -> tuple[AnnotationTable, ...]:
    """The tables of one version by name, from its database.

    Raises:
        StoreError: it is damaged.
    """
    status = file.stat()
    return _described(file, status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _described(file: Path, inode: int, changed: int) -> tuple[AnnotationTable, ...]:
    """The tables in `file`; published files never change, so inode and time only tell apart stores made anew."""
    with duck.new_connection() as connection:
        attach(connection, file)
        try:
            rows = connection.execute(f"SELECT name, meta FROM {ALIAS}.{META_TABLE} ORDER BY name").fetchall()
            described = connection.execute(
                "SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns() "
                "WHERE database_name = ? AND schema_name = 'main' GROUP BY table_name",
                [ALIAS],
            ).fetchall()
        except duckdb.Error as error:  # cut short behind its header
            raise _damaged(file, error) from error
    columns = dict(described)
    metas = {name: json.loads(meta) for name, meta in rows}
    return tuple(AnnotationTable(name, columns[name], meta["key_column"], meta) for name, meta in metas.items())


def _damaged(file: Path, error: duckdb.Error) -> StoreError:
    named = copies.original(file)
    if "Could not set lock" in str(error):
        return StoreError(
            f"{named}: another process writes to it, so nobody else can read it; ask again when that has ended (what "
            f"is published never changes: let others open it with read_only)"
        )
    return StoreError(
        f"{named}: cannot be opened ({duck.first_lines(error)}); remove it and CURRENT beside it, annotate again"
    )
