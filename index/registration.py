"""The tables and functions of an atlas in a DuckDB connection that is somebody else's."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import duckdb

from index import duck, views
from index.annotation_tables import live_database
from index.errors import QuestionError
from index.functions import NAMES, Asker, Functions
from index.store import Store
from index.views import Home

MARK = "raypipe: "


def register(
    connection: duckdb.DuckDBPyConnection, store: Store | None, asker: Asker, origin: str, schema: str | None = None
) -> None:
    """Make views and functions in `connection`, in the place of those that an earlier call made.

    Args:
        store: whose tables are shown; None for the functions alone.
        asker: who answers the functions.
        origin: what the atlas is known by.
        schema: where, in the connection's database; made if it is not there. The present one if None.

    Raises:
        QuestionError: something else there has a name that is wanted; nothing was changed then.
        StoreError: a file of the store is damaged.
    """
    ((database, present),) = connection.execute("SELECT current_database(), current_schema()").fetchall()
    place, mark = (database, schema or present), f"{MARK}{origin}"
    old = _standing(connection, place, mark, views.names_in(store) if store is not None else [])
    home = Home(".".join(duck.identifier(part) for part in place))
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {home.schema}")
    for name in old:
        connection.execute(f"DROP VIEW {home.of(name)}")
    if store is not None:
        with suppress(duckdb.InvalidInputException):  # the second time
            duck.let_read(connection, store.root)
        home = _with_annotations(connection, home, live_database(store), "_".join(("raypipe", *place)))
        for name in views.make(connection, store, home=home):
            connection.execute(f"COMMENT ON VIEW {home.of(name)} IS {duck.literal(mark)}")
    functions = Functions(connection, asker)
    functions.make_macros(home.schema, mark)
    functions.replace_others()


def _standing(connection: duckdb.DuckDBPyConnection, place: tuple[str, str], mark: str, names: list[str]) -> list[str]:
    """The views in the schema `place` that carry `mark`.

    Raises:
        QuestionError: one of `names`, or a function, is there without it.
    """
    tables = connection.execute(
        "SELECT table_name, comment, false FROM duckdb_tables() WHERE (database_name, schema_name) = ($1, $2) "
        "UNION ALL "
        "SELECT view_name, comment, true FROM duckdb_views() WHERE (database_name, schema_name) = ($1, $2)",
        list(place),
    ).fetchall()
    macros = connection.execute(
        "SELECT function_name, comment FROM duckdb_functions() WHERE (database_name, schema_name) = ($1, $2) "
        "AND function_name IN (SELECT unnest($3::VARCHAR[]))",
        [*place, list(NAMES)],
    ).fetchall()
    wanted = {name.lower() for name in names}
    taken = [name for name, comment, _ in tables if name.lower() in wanted and comment != mark]
    taken += [f"{name}()" for name, comment in macros if comment != mark]
    if taken:
        raise QuestionError(
            f"the connection has {', '.join(sorted(set(taken)))} of its own in {'.'.join(place)}; register with "
            f"another schema, such as schema='atlas', and write atlas.{sorted(set(taken))[0]}"
        )
    return [name for name, comment, view in tables if view and comment == mark]


def _with_annotations(connection: duckdb.DuckDBPyConnection, home: Home, file: Path | None, alias: str) -> Home:
    """Where the annotation database `file` is attached: it may be attached once only, under whatever name."""
    attached = connection.execute(
        "SELECT database_name, path FROM duckdb_databases() WHERE path IS NOT NULL"
    ).fetchall()
    names = dict(attached)
    known = next((name for name, path in attached if file is not None and path and Path(path) == file), None)
    if known is not None:
        return Home(home.schema, duck.identifier(known), attached=True)
    if alias in names:  # an earlier version
        connection.execute(f"DETACH {duck.identifier(alias)}")
    return Home(home.schema, duck.identifier(alias))
