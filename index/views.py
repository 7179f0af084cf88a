"""The tables of a store as views of a DuckDB connection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb

from index import damage, duck, graph
from index.annotation_tables import ALIAS, attach, list_tables, live_database, rejected_rows
from index.errors import StoreError, UnreachableError
from index.info import current_info
from index.parts import fitting_parts
from index.predictions import make_closed_views, make_views
from index.removals import living_records, living_sequences
from index.schema import NEIGHBORS, RECORDS, REJECTS, SEQUENCES, VIEWS, embeddings_schema
from index.sets import Embedding, ShardedSet
from index.store import Store

TABLES = {"sequences": SEQUENCES, "records": RECORDS, "rejects": REJECTS}
_LIVING = {"sequences": living_sequences, "records": living_records}
_EMBEDDINGS = "embeddings"
_VECTORS = embeddings_schema(1, "float32")


@dataclass(frozen=True)
class Home:
    """Where views are made.

    Attributes:
        schema: as SQL.
        annotations: under which name the annotation database is attached.
        attached: whether it is already.
    """

    schema: str = "memory.main"
    annotations: str = ALIAS
    attached: bool = False

    def of(self, name: str) -> str:
        """A view there, as SQL."""
        return f"{self.schema}.{duck.identifier(name)}"


HERE = Home()


def make(
    connection: duckdb.DuckDBPyConnection, store: Store, statement: str | None = None, home: Home = HERE
) -> list[str]:
    """Make a view of every table of `store`, and attach its annotations read-only; see `index.sql.connect`.

    Args:
        statement: what will be asked. Views of vectors, neighbors and predictions that it does not name refuse to be
            read; `open_views` opens them later. If None, all can be read.

    Returns:
        The names of the views, in order.

    Raises:
        StoreError: a file of the store is damaged.
    """
    made: list[str] = []

    def view(name: str, source: str, owner: ShardedSet | str | None = None) -> None:
        _view(connection, store, home, name, source, owner)
        made.append(name)

    database = live_database(store)
    if database is not None and not home.attached:
        attach(connection, database, home.annotations)
    tables = list_tables(store)
    for name, schema in TABLES.items():
        paths = store.parts(name)
        source = _LIVING[name](store) if name in _LIVING and paths else duck.parquet(paths) if paths else ""
        rows = f"FROM {source}" if source else duck.no_rows(schema)
        if schema is REJECTS and any(table.meta.get("rejected_rows") for table in tables):
            rows = f"{rows} UNION ALL {rejected_rows(home.annotations)}"
        view(name, rows)
    if statement is None or duck.occurring([_EMBEDDINGS], statement):
        vectors = indexed(store)
        view(_EMBEDDINGS, _vectors(store, vectors), vectors)
    else:
        view(_EMBEDDINGS, duck.refusing(_VECTORS, f"{_EMBEDDINGS}: name them in the statement itself"))
    for table in tables:
        view(table.name, f"FROM {home.annotations}.main.{duck.identifier(table.name)}", "annotations")
    for name in store.predictions:
        opens = statement is None or duck.occurring([name], statement)
        (make_views if opens else make_closed_views)(connection, store, [name], home.schema)
        made.append(name)
    # Tables may be called so that came before the graph.
    if graph.FOLDER not in {name.lower() for name in made} and (graph.folder(store) / graph.INFO).is_file():
        view(graph.FOLDER, _edges(store, statement), graph.FOLDER)
    return made


def open_views(connection: duckdb.DuckDBPyConnection, store: Store, names: Iterable[str]) -> None:
    """Let the views in `names` be read that `make` had closed.

    Raises:
        StoreError: a file is damaged.
    """
    for name in names:
        if name == _EMBEDDINGS:
            vectors = indexed(store)
            _view(connection, store, HERE, name, _vectors(store, vectors), vectors, replace=True)
        elif name in store.predictions:
            make_views(connection, store, [name])
        elif name == graph.FOLDER:
            _view(connection, store, HERE, name, _edges(store, None), graph.FOLDER, replace=True)


def names_in(store: Store) -> list[str]:
    """What `make` calls its views; neighbors among them, also where there is no graph."""
    return [*VIEWS, *(table.name for table in list_tables(store)), *store.predictions]


def closable(store: Store) -> list[str]:
    """The views that `make` may have closed."""
    taken = graph.FOLDER in {table.name.lower() for table in list_tables(store)}
    edges = [graph.FOLDER] if not taken and (graph.folder(store) / graph.INFO).is_file() else []
    return [_EMBEDDINGS, *edges, *store.predictions]


def owners_in(store: Store, sql: str) -> list[ShardedSet | str]:
    """What has part files of all that `sql` names: tables of the store, and sets."""
    vectors = indexed(store) if duck.occurring([_EMBEDDINGS], sql) else None
    predicted = [store.prediction(name) for name in duck.occurring(store.predictions, sql)]
    return [*duck.occurring([*TABLES, graph.FOLDER], sql), *([vectors] if vectors else []), *predicted]


def indexed(store: Store) -> Embedding | None:
    """The set of vectors that is indexed, else the first."""
    info = current_info(store)
    known = store.embeddings
    chosen = info.embeddings if info and info.embeddings in known else None
    return store.embedding(chosen) if known else None


def _view(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    home: Home,
    name: str,
    source: str,
    owner: ShardedSet | str | None = None,
    *,
    replace: bool = False,
) -> None:
    try:
        connection.execute(f"CREATE {'OR REPLACE ' * replace}VIEW {home.of(name)} AS {source}")
    except duckdb.Error as error:
        raise StoreError(damage.complaint(store, [owner or name], error)) from error


def _edges(store: Store, statement: str | None) -> str:
    """SQL for the graph of neighbours, as `make` has its view."""
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
