"""SQL over a store: its tables as views, annotation tables by their names, functions that search; read-only."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from index import damage, duck, functions, views
from index.errors import QuestionError, StoreError
from index.functions import Asker, Functions
from index.store import Store

_EXPLAIN = re.compile(r"\s*EXPLAIN(\s+ANALYZE)?\b(.*)", re.IGNORECASE | re.DOTALL)
ALLOWED = "one SELECT, EXPLAIN, DESCRIBE or SHOW statement"
Params = Sequence[Any] | Mapping[str, Any] | None
BATCH = 10_000


class Answer(NamedTuple):
    """Rows, and whether there were more than was asked for."""

    table: pa.Table
    truncated: bool


def connect(
    store: Store, *, memory_limit: str | None = None, threads: int | None = None, statement: str | None = None
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the views sequences, records, rejects, embeddings, annotation tables and predictions.

    It is a snapshot of the store at this moment. `embeddings` (seq_id, embedding FLOAT[]) is the set that is indexed,
    else the store's default; every annotation table and every set of predictions (schema.predictions_schema) is a view
    of its own name. Parts that were made for another set of that name do not count. A graph of nearest neighbours that
    was begun is the view neighbors (schema.NEIGHBORS), which refuses to be read unless it is finished and of the live
    index. The connection reads no file outside of the store's folder, fetches no extension, and its configuration is
    locked; the annotation database is attached read-only. It could still write files below the store: `query` admits
    reading statements only, and strangers get `index.fenced`.

    Args:
        memory_limit: such as "4GB"; DuckDB's default if None.
        threads: at most so many; all cores if None.
        statement: what will be asked. The views of vectors and predictions that it does not name have their columns,
            but refuse to be read, and none of their files is opened: reading the footer of every part takes its time,
            and a damaged one is nothing to who asks for something else. If None, all can be read.

    Raises:
        StoreError: a file of the store is damaged.
    """
    connection = duck.new_connection(memory_limit, threads, reads=store.root)
    views.make(connection, store, statement)
    _lock(connection, store)
    return connection


def query(store: Store, sql: str, params: Params = None, asker: Asker | None = None) -> pa.Table:
    """Run one reading statement.

    Args:
        sql: one SELECT, EXPLAIN, DESCRIBE or SHOW.
        params: for `?` or `$name`.
        asker: who answers search(), neighbors() and embed(); without one they are not there.

    Raises:
        StoreError: anything else than one reading statement, or DuckDB's own complaint.
    """
    with Snapshot(store, asker if functions.named_in(sql) else None) as snapshot:
        return snapshot.query(sql, params)


class Snapshot:
    """A store as it is at this moment, kept open for many statements; safe to ask from several threads.

    Views of vectors, neighbors and predictions are opened when a statement first names them.
    """

    def __init__(
        self,
        store: Store,
        asker: Asker | None = None,
        *,
        memory_limit: str | None = None,
        threads: int | None = None,
        spill: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ):
        """Open the store; see `connect`.

        Args:
            asker: who answers search(), neighbors() and embed().
            spill: the folder for what does not fit the memory.
            settings: further ones of DuckDB, as SQL.
        """
        self.store = store
        self._closed = set(views.closable(store))
        self._opening = threading.Lock()
        self._connection = duck.new_connection(memory_limit, threads, spill, reads=store.root)
        self._functions: Functions | None = None
        try:
            if asker is not None:
                self._functions = Functions(self._connection, asker)
                self._functions.make_macros("memory.main")
            self.tables = views.make(self._connection, store, statement="")
            for name, value in (settings or {}).items():
                self._connection.execute(f"SET GLOBAL {name} = {value}")
            _lock(self._connection, store)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give its memory and files back; answers that were given stay."""
        if self._functions is not None:
            self._functions.remove()
        self._connection.close()

    def query(self, sql: str, params: Params = None) -> pa.Table:
        """As `index.sql.query`."""
        return self.answer(sql, params).table

    def check(self, admit: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
        """Let `admit` look at something by a connection of its own."""
        with self._connection.cursor() as cursor:
            admit(cursor)

    def answer(
        self,
        sql: str,
        params: Params = None,
        *,
        admit: Callable[[duckdb.DuckDBPyConnection, str], None] | None = None,
        rows: int | None = None,
        size: int | None = None,
    ) -> Answer:
        """Run one reading statement.

        Args:
            params: as of `query`.
            admit: raises StoreError where the statement shall not run, though it only reads.
            rows: at most so many.
            size: stop when there are so many bytes.

        Raises:
            StoreError: as `query`.
        """
        if self._functions is not None:
            self._functions.begin()
        with self._connection.cursor() as cursor:
            try:
                kind = _admit(cursor, sql)
                if admit is not None:
                    admit(cursor, sql)
                self._open(duck.occurring(self._closed, sql))
                if kind == duckdb.StatementType.EXPLAIN:
                    plans = self._run(cursor, lambda: cursor.execute(sql, params).fetchall())
                    keys, values = zip(*plans, strict=True)
                    return Answer(pa.table({"explain_key": keys, "explain_value": values}), False)
                return self._run(cursor, lambda: _read(cursor, sql, params, rows, size))
            except duckdb.Error as error:
                cause = self._functions.cause(error) if self._functions is not None else None
                if cause is not None:
                    raise functions.said(cause) from cause
                raise _complaint(self.store, self.tables, sql, error) from error

    def _open(self, names: Sequence[str]) -> None:
        if names:
            with self._opening:
                views.open_views(self._connection, self.store, names)
                self._closed -= set(names)

    def _run(self, cursor: duckdb.DuckDBPyConnection, work: Callable[[], Any]) -> Any:
        return duck.run(cursor, work, also=self._functions.stop if self._functions is not None else None)


def table_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The views of a connection made by `connect`."""
    rows = connection.execute(
        "SELECT view_name FROM duckdb_views() WHERE database_name = 'memory' AND NOT internal ORDER BY view_oid"
    ).fetchall()
    return [name for (name,) in rows]


def _lock(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Nothing outside of the store is read from now on."""
    # Both spellings: a path is compared as written, and the views write glob characters in brackets.
    root = duck.path_name(store.root)
    folders = {f"{root}/", f"{duck.escape_glob(root)}/"}
    connection.execute(f"SET allowed_directories = [{', '.join(duck.literal(folder) for folder in sorted(folders))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _read(
    connection: duckdb.DuckDBPyConnection, sql: str, params: Params, rows: int | None, size: int | None
) -> Answer:
    relation = connection.sql(sql, params=params)
    if rows is None and size is None:
        return Answer(relation.to_arrow_table(), False)
    reader = relation.to_arrow_reader(BATCH if rows is None else min(BATCH, rows + 1))
    batches: list[pa.RecordBatch] = []
    count = held = 0
    for batch in reader:
        if rows is not None and count + batch.num_rows > rows:
            return Answer(_table([*batches, batch.slice(0, rows - count)], reader.schema), True)
        batches.append(batch)
        count += batch.num_rows
        held += batch.nbytes
        if size is not None and held > size:
            fitting = int(count * size / held)
            return Answer(_table(batches, reader.schema).slice(0, fitting), True)
    return Answer(_table(batches, reader.schema), False)


def _table(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(batches, schema)


def _admit(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.StatementType:
    """The type of the one statement in `sql`, if it only reads."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise QuestionError(f"{len(statements)} SQL statements: give {ALLOWED}")
    kind = statements[0].type
    if kind == duckdb.StatementType.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains, so that has to be a SELECT as well.
        found = _EXPLAIN.fullmatch(statements[0].query)
        if found is None or _admit(connection, found[2]) != duckdb.StatementType.SELECT:
            raise QuestionError("EXPLAIN of anything but a SELECT is refused")
    elif kind != duckdb.StatementType.SELECT:
        raise QuestionError(f"{kind.name.replace('_', ' ')} is refused, the store is read-only: give {ALLOWED}")
    return kind


def _complaint(store: Store, tables: Sequence[str], sql: str, error: duckdb.Error) -> StoreError:
    text = duck.first_lines(error)
    if isinstance(error, duckdb.CatalogException) and "Table with name" in text:
        return QuestionError(f"{text.split('!')[0]}; there are: {', '.join(tables)}")
    if "file system operations are disabled" in text:
        return QuestionError(f"{text}; only the store's own tables can be read here")
    owners = views.owners_in(store, sql)
    if owners and damage.is_damage(error):
        return StoreError(damage.complaint(store, owners, error))
    return QuestionError(text)
