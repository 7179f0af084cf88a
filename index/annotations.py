"""Join annotation files to the sequences of a store, and publish them as one immutable DuckDB file."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import duckdb

from index import duck, files, versions
from index.annotation_keys import load_column, load_records
from index.annotation_load import TableReport, copy_table, describe, join_again, load, make_database
from index.annotation_rows import keep_rows, write_rows
from index.annotation_tables import AnnotationTable, annotations_folder, attach, list_tables, live_database
from index.errors import StoreError
from index.info import checksum
from index.schema import VIEWS
from index.store import Store


def annotate(
    store: Store,
    tables: Mapping[str, Path],
    *,
    key: str | None = None,
    on: str | None = None,
    memory_limit: str | None = None,
) -> list[TableReport]:
    """Add or replace annotation tables. The caller holds `store.lock()`.

    A table holds the file's matched rows, all of them where a sequence has several, sorted by seq_id and within it as
    in the file; its first columns are `seq_id` and `id` (of the first record that the key names). Types are inferred
    from all rows: numbers with leading zeros stay text. A column of the file that is called seq_id or id without being
    the key is kept as seq_id_in_file or id_in_file.

    Rows that cannot be read are kept aside in the database, and are among the rejects in SQL. Tables that are joined to
    one that is replaced here are joined to it again.

    Args:
        tables: name of the table -> file: TSV, CSV, Parquet, GFF3 or BED, plain or gzip; RNAcentral's header-less
            id_mapping.tsv and rfam_annotations.tsv, Rfam's family.txt, clan_membership.txt and Rfam.seed are known by
            their shape.
        key: the column that names records; else id, urs and the like, else the one whose values match most.
        on: "table.column" of a live table: the files' keys are values of that, such as families, instead of records. A
            sequence gets the rows of all its values.
        memory_limit: DuckDB's, such as "4GB"; beyond it the join spills into the store's folder.

    Returns:
        One report per table, in the order given, and behind them those of tables that were joined again.

    Raises:
        StoreError: an unusable name, a file of which most cannot be read (with its line), nothing in it matches, no
            such table or column as `on` or one that is itself joined to what is made here, or a column is gone to
            which another table is joined.
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
            base = None if on is None else _base(before, on, paths)
            origins = {name: {**_origin(store, path, key), "on": base and list(base)} for name, path in paths.items()}
            reports = {name: _standing(before.get(name.lower()), origins[name]) for name in paths}
            if all(reports.values()):
                return [report for report in reports.values() if report]
            renewed = {name.lower(): name for name, report in reports.items() if report is None}
            kept = [table for name, table in before.items() if name not in renewed]
            stale = _joined_to(kept, renewed)
            if base is not None and base[0] in (table.name for table in stale):
                raise StoreError(f"on {on!r}: {base[0]} is itself joined to what is made here; annotate it anew first")

            def finish(name: str, meta: dict[str, Any], *, stays: bool = False) -> None:
                describe(connection, name, meta)
                file = rows / f"{name}.arrow"
                if not (stays and keep_rows(store, name, file)):
                    write_rows(connection, f"new.main.{duck.identifier(name)}", meta["key_column"], file)

            def write() -> None:
                connection.execute(f"ATTACH {duck.literal(work / 'staging.duckdb')} AS staging")
                connection.execute("USE staging")
                make_database(connection, work / "new.duckdb")
                for table in kept:
                    if table not in stale:
                        copy_table(connection, table)
                        finish(table.name, table.meta, stays=True)
                if base is None:
                    load_records(connection, store)
                else:
                    load_column(connection, f"new.main.{duck.identifier(base[0])}", duck.identifier(base[1]))
                for name in renewed.values():
                    reports[name] = report = load(connection, name, paths[name], key, base)
                    finish(name, {**asdict(report), **origins[name]})
                for table in stale:
                    meta = join_again(connection, table)
                    finish(table.name, meta)
                    reports[table.name] = replace(_report(meta), joined_again=True)
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
    if table is None or any(table.meta.get(name) != value for name, value in origin.items()):
        return None
    return replace(_report(table.meta), unchanged=True)


def _report(meta: dict[str, Any]) -> TableReport:
    known = {field.name for field in fields(TableReport)}
    return TableReport(**{name: value for name, value in meta.items() if name in known})


def _base(before: Mapping[str, AnnotationTable], on: str, tables: Mapping[str, Path]) -> tuple[str, str]:
    """Table and column of `on`, as the store spells them."""
    name, dot, column = on.partition(".")
    if not dot or not column:
        raise StoreError(f"on {on!r}: name a table and its column, such as rfam.rfam_acc")
    if name.lower() in (other.lower() for other in tables):
        raise StoreError(f"on {on!r}: {name} is made here as well; annotate it first, without --on")
    table = before.get(name.lower())
    if table is None:
        listed = ", ".join(sorted(known.name for known in before.values())) or "none yet"
        raise StoreError(f"on {on!r}: no annotation table {name!r}; there are: {listed}")
    found = [known for known in table.columns if known.lower() == column.lower()]
    if not found:
        raise StoreError(f"on {on!r}: no column {column!r} in {table.name}; it has: {', '.join(table.columns)}")
    return table.name, found[0]


def _joined_to(tables: Sequence[AnnotationTable], names: Iterable[str]) -> list[AnnotationTable]:
    """Those of `tables` that are joined to one of `names` (in small letters), or to another such one and behind it."""
    found: list[AnnotationTable] = []
    reached = set(names)
    while more := [
        table
        for table in tables
        if table not in found and table.meta.get("on") and table.meta["on"][0].lower() in reached
    ]:
        found += more
        reached |= {table.name.lower() for table in more}
    return found
