"""One version of the annotation tables opened to annotate hits: what is opened once stays open, for all threads.

Beside the database of a version stands, for each of its tables, a mapped file (see `index.mapped`) with the first row
of every sequence that has one: `annotations/<version>/<table>.arrow`. It answers in microseconds; DuckDB answers for
what it has not: all rows of a sequence, and columns of lists and structs.
"""

from __future__ import annotations

import atexit
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from index import copies, duck
from index.annotation_tables import (
    ALIAS,
    FOLDER,
    AnnotationTable,
    annotations_folder,
    attach,
    live_database,
    tables_in,
)
from index.errors import StoreError
from index.lookups import find
from index.mapped import can_map, numbers, open_mapped, places, take, write_mapped
from index.places import Place, RemotePath
from index.store import Store
from index.versions import CURRENT, current

BATCH = 65_536
MEND = "remove it, and hits are slower, or annotate again"
MEMORY_LIMIT = "2GB"  # else blocks of the database are kept until the machine is full


class AnnotationRows:
    """Rows of the annotation tables by seq_id; they stay when a newer version is published."""

    def __init__(self, root: Place, file: Path, tables: Sequence[AnnotationTable], stamp: tuple[int, int] | None):
        """Take the database `file` of the store at `root`; `stamp` tells this version from others."""
        self.tables, self.stamp = tables, stamp
        self._root, self._file, self._made = root, file, _stamp(file)
        # All of it now: two versions later the files are removed.
        self._mapped = {table.name: self._open(table.name) for table in tables}
        self._connection = duck.new_connection(MEMORY_LIMIT)
        attach(self._connection, file)

    def first(self, seq_ids: np.ndarray, asked: dict[str, tuple[str, str]]) -> dict[str, pa.Array]:
        """The first row of each sequence, NULL where it has none.

        Args:
            seq_ids: (n,) int64, in any order.
            asked: name in the answer -> table and column.

        Returns:
            By name (n,) values.
        """
        found: dict[str, pa.Array] = {}
        for table in dict.fromkeys(table for table, _ in asked.values()):
            mapped = self._mapped[table]
            if mapped is None:
                continue
            rows = places(find(numbers(mapped.column("seq_id")), seq_ids))
            for name, (owner, column) in asked.items():
                if owner == table and column in mapped.schema.names:
                    found[name] = take(mapped.column(column), rows)
        left = {name: owner for name, owner in asked.items() if name not in found}
        return {**found, **self._by_sql(seq_ids, left, all_rows=False)} if left else found

    def all(self, seq_ids: np.ndarray, asked: dict[str, tuple[str, str]]) -> dict[str, pa.Array]:
        """As `first`, with lists of all rows in the order of the file; the lists of one table are of equal length."""
        return self._by_sql(seq_ids, asked, all_rows=True)

    def stands(self) -> bool:
        """Whether the database is still the one that was opened: an atlas may be made anew in the same place."""
        return self._made is not None and _stamp(self._file) == self._made

    def check(self) -> None:
        """Read all mapped files, and compare them with the tables.

        Raises:
            StoreError: one is damaged, or is not of its table.
        """
        for name, mapped in self._mapped.items():
            if mapped is None:
                continue
            file = self._root / FOLDER / copies.original(self._file).stem / f"{name}.arrow"
            try:
                mapped.validate(full=True)
            except pa.ArrowInvalid as error:
                raise StoreError(f"{file}: damaged ({error}); {MEND}") from error
            with self._connection.cursor() as cursor:
                table = f"{ALIAS}.main.{duck.identifier(name)}"
                rows = cursor.execute(f"SELECT DISTINCT seq_id FROM {table} ORDER BY seq_id").fetchnumpy()["seq_id"]
            if not np.array_equal(rows, numbers(mapped.column("seq_id"))):
                raise StoreError(f"{file}: damaged, its sequences are not those of the table; {MEND}")

    def _by_sql(self, seq_ids: np.ndarray, asked: dict[str, tuple[str, str]], *, all_rows: bool) -> dict[str, pa.Array]:
        result: dict[str, pa.Array] = {}
        with self._connection.cursor() as cursor:
            # Seen by this cursor alone.
            hit = {"seq_id": pa.array(seq_ids, pa.int64()), "hit": pa.array(np.arange(len(seq_ids)))}
            cursor.register("hits", pa.table(hit))
            for table in dict.fromkeys(owner for owner, _ in asked.values()):
                names = {name: duck.identifier(column) for name, (owner, column) in asked.items() if owner == table}
                chosen = ", ".join(f"t.{column} AS c{place}" for place, column in enumerate(names.values()))
                relation = cursor.sql(
                    f"SELECT hits.hit, {chosen} FROM hits JOIN {ALIAS}.main.{duck.identifier(table)} t USING (seq_id) "
                    "ORDER BY hits.hit, t.rowid"
                )
                rows = duck.run(cursor, relation.to_arrow_table)
                ends = np.searchsorted(rows["hit"].to_numpy(), np.arange(len(seq_ids) + 1))
                none = ends[1:] == ends[:-1]
                for name, column in zip(names, rows.columns[1:], strict=True):
                    if all_rows:
                        offsets, values = pa.array(ends, pa.int32()), column.combine_chunks()
                        result[name] = pa.ListArray.from_arrays(offsets, values, mask=pa.array(none))
                    else:
                        result[name] = column.take(places(np.where(none, -1, ends[:-1])))
        return result

    def _open(self, table: str) -> pa.RecordBatch | None:
        """The mapped file of a table; None in versions of before there were any."""
        version = copies.original(self._file).stem
        try:
            file = copies.fetch(self._root, FOLDER, version, f"{table}.arrow", mend=MEND)
        except FileNotFoundError:
            return None
        if not file.is_file():
            return None
        try:
            return open_mapped(file)
        except StoreError as error:
            raise StoreError(f"{error}; {MEND}") from error


def open_rows(store: Store) -> AnnotationRows | None:
    """The live version; None where nothing is annotated. Cheap to ask again: it is opened once.

    Raises:
        StoreError: it is missing or damaged.
    """
    pointer = annotations_folder(store) / CURRENT
    stamp = _stamp(pointer)
    if stamp is None:
        return None
    opened = _OPENED.get(store.root)
    if opened is not None and opened.stamp == stamp and opened.stands():
        return opened
    try:
        file = live_database(store)
        if file is None:
            return None
        opened = AnnotationRows(store.root, file, tables_in(file), stamp)
    except (StoreError, FileNotFoundError):
        if _stamp(pointer) == stamp:
            raise
        return open_rows(store)  # newer versions came meanwhile, and it was removed
    while len(_OPENED) >= MOST_OPEN:
        _OPENED.pop(next(iter(_OPENED)), None)
    _OPENED[store.root] = opened
    return opened


def write_rows(connection: duckdb.DuckDBPyConnection, table: str, key_column: str | None, file: Path) -> None:
    """Write the mapped file of one table.

    Args:
        table: as SQL names it; it is sorted by seq_id.
        key_column: as of an `AnnotationTable`: hits do not show it.
    """
    empty = connection.sql(f"SELECT * EXCLUDE (id) FROM {table} LIMIT 0").to_arrow_table().schema
    names = [field.name for field in empty if field.name != key_column and can_map(field.type)]
    chosen = ", ".join(duck.identifier(name) for name in names)
    schema = pa.schema([empty.field(name) for name in names])
    batches = duck.batches(connection, f"SELECT {chosen} FROM {table}", BATCH)
    write_mapped(file, schema, _first_of_each(batches))


def keep_rows(store: Store, table: str, file: Path) -> bool:
    """Take over the mapped file of a table that stays as it is in the next version; whether there is one at hand."""
    live = current(annotations_folder(store))
    if live is None or isinstance(store.root, RemotePath):
        return False
    standing = store.root / FOLDER / live / f"{table}.arrow"
    try:
        os.link(standing, file)
    except FileNotFoundError:
        return False
    except OSError:  # a file system without links
        shutil.copyfile(standing, file)
    return True


def _first_of_each(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    last = -1
    for batch in batches:
        seq_ids = batch["seq_id"].to_numpy()
        first = np.diff(seq_ids, prepend=last) > 0
        last = seq_ids[-1]
        yield batch.filter(pa.array(first))


def _stamp(file: Place) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


@atexit.register
def _close() -> None:
    """Before the interpreter takes the modules apart, of which DuckDB complains."""
    _OPENED.clear()


MOST_OPEN = 8
_OPENED: dict[Place, AnnotationRows] = {}
