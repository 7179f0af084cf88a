"""SQL over a store: its tables as views, annotation tables by their names, read-only and fenced in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from index import damage, duck, graph
from index.annotation_tables import ALIAS, attach, list_tables, live_database
from index.errors import QuestionError, StoreError, UnreachableError
from index.info import current_info
from index.parts import fitting_parts
from index.predictions import make_closed_views, make_views
from index.removals import living_records, living_sequences
from index.schema import NEIGHBORS, RECORDS, REJECTS, SEQUENCES, embeddings_schema
from index.sets import Embedding, ShardedSet
from index.store import Store

_TABLES = {"sequences": SEQUENCES, "records": RECORDS, "rejects": REJECTS}
_LIVING = {"sequences": living_sequences, "records": living_records}
_VECTORS = embeddings_schema(1, "float32")
_EXPLAIN = re.compile(r"\s*EXPLAIN(\s+ANALYZE)?\b(.*)", re.IGNORECASE | re.DOTALL)
ALLOWED = "one SELECT, EXPLAIN, DESCRIBE or SHOW statement"


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
    reading statements only, so give strangers that.

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
    for name, schema in _TABLES.items():
        paths = store.parts(name)
        source = _LIVING[name](store) if name in _LIVING and paths else duck.parquet(paths) if paths else ""
        _view(connection, store, name, f"FROM {source}" if source else duck.no_rows(schema))
    if statement is None or duck.occurring(["embeddings"], statement):
        vectors = _indexed(store)
        _view(connection, store, "embeddings", _vectors(store, vectors), vectors)
    else:
        _view(connection, store, "embeddings", duck.refusing(_VECTORS, "embeddings: name them in the statement itself"))
    database = live_database(store)
    if database is not None:
        attach(connection, database)
        for table in list_tables(store):
            _view(connection, store, table.name, f"FROM {ALIAS}.main.{duck.identifier(table.name)}", "annotations")
    for name in store.predictions:
        make = make_views if statement is None or duck.occurring([name], statement) else make_closed_views
        make(connection, store, [name])
    taken = {name.lower() for name in table_names(connection)}  # tables may be called so that came before the graph
    if graph.FOLDER not in taken and (graph.folder(store) / graph.INFO).is_file():
        _view(connection, store, graph.FOLDER, _edges(store, statement), graph.FOLDER)
    # Both spellings: a path is compared as written, and the views write glob characters in brackets.
    root = duck.path_name(store.root)
    folders = {f"{root}/", f"{duck.escape_glob(root)}/"}
    connection.execute(f"SET allowed_directories = [{', '.join(duck.literal(folder) for folder in sorted(folders))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def query(store: Store, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
    """Run one reading statement.

    Args:
        sql: one SELECT, EXPLAIN, DESCRIBE or SHOW.
        params: for `?` or `$name`.

    Raises:
        StoreError: anything else than one reading statement, or DuckDB's own complaint.
    """
    with connect(store, statement=sql) as connection:
        try:
            kind = _admit(connection, sql)
            if kind == duckdb.StatementType.EXPLAIN:
                rows = duck.run(connection, lambda: connection.execute(sql, params).fetchall())
                return pa.table({"explain_key": [row[0] for row in rows], "explain_value": [row[1] for row in rows]})
            return duck.run(connection, lambda: connection.sql(sql, params=params).to_arrow_table())
        except duckdb.Error as error:
            kind = StoreError if damage.is_damage(error) else QuestionError
            raise kind(_message(store, connection, sql, error)) from error


def table_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The views of a connection made by `connect`."""
    rows = connection.execute(
        "SELECT view_name FROM duckdb_views() WHERE database_name = 'memory' AND NOT internal ORDER BY view_oid"
    ).fetchall()
    return [name for (name,) in rows]


def owners_in(store: Store, sql: str) -> list[ShardedSet | str]:
    """What has part files of all that `sql` names: tables of the store, and sets."""
    vectors = _indexed(store) if duck.occurring(["embeddings"], sql) else None
    predicted = [store.prediction(name) for name in duck.occurring(store.predictions, sql)]
    return [*duck.occurring([*_TABLES, graph.FOLDER], sql), *([vectors] if vectors else []), *predicted]


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


def _message(store: Store, connection: duckdb.DuckDBPyConnection, sql: str, error: duckdb.Error) -> str:
    text = duck.first_lines(error)
    if isinstance(error, duckdb.CatalogException) and "Table with name" in text:
        return f"{text.split('!')[0]}; there are: {', '.join(table_names(connection))}"
    if "file system operations are disabled" in text:
        return f"{text}; only the store's own tables can be read here"
    owners = owners_in(store, sql)
    return damage.complaint(store, owners, error) if owners and damage.is_damage(error) else text


def _view(
    connection: duckdb.DuckDBPyConnection, store: Store, name: str, source: str, owner: ShardedSet | str | None = None
) -> None:
    try:
        connection.execute(f"CREATE VIEW memory.main.{duck.identifier(name)} AS {source}")
    except duckdb.Error as error:
        raise StoreError(damage.complaint(store, [owner or name], error)) from error


def _indexed(store: Store) -> Embedding | None:
    """The set of vectors that is indexed, else the first."""
    info = current_info(store)
    known = store.embeddings
    chosen = info.embeddings if info and info.embeddings in known else None
    return store.embedding(chosen) if known else None


def _edges(store: Store, statement: str | None) -> str:
    """SQL for the graph of neighbours, as `connect` has its view."""
    if statement is not None and not duck.occurring([graph.FOLDER], statement):
        return duck.refusing(NEIGHBORS, f"{graph.FOLDER}: name them in the statement itself")
    try:
        return graph.relation(store) or duck.no_rows(NEIGHBORS)
    except UnreachableError:
        raise
    except StoreError as error:
        return duck.refusing(NEIGHBORS, str(error))


def _vectors(store: Store, made: Embedding | None) -> str:
    """SQL for a set of vectors."""
    paths = fitting_parts(store, made) if made else []
    return f"FROM {duck.parquet(paths)}" if paths else duck.no_rows(_VECTORS)
