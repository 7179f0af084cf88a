"""Sets of predictions as tables: their SQL, their names, and their columns in a hit."""

from __future__ import annotations

import re
from collections.abc import Iterable

import duckdb
import numpy as np
import pyarrow as pa

from index import damage, duck
from index.annotation_tables import list_tables
from index.errors import StoreError
from index.parts import fitting_parts
from index.schema import SEQUENCES, VIEWS, predictions_schema
from index.sets import Prediction
from index.store import Store

SEQ_ID = pa.schema([SEQUENCES.field("seq_id")])


def check_name(store: Store | None, name: str) -> None:
    """Whether a set of predictions can be called `name`; one that is called so already may go on.

    In SQL the set is a view of that name, and names are compared without their case there.

    Args:
        store: None where there is none yet.

    Raises:
        StoreError: the name cannot be that of a folder, is a reserved word of SQL, or is taken: by the store's own
            tables, by an annotation table, or by a set that differs by its case only.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise StoreError(f"name of predictions {name!r}: use letters, digits, '.', '_' and '-' only")
    folded = name.lower()
    sets, tables = (store.predictions, list_tables(store)) if store else ({}, [])
    if folded in VIEWS:
        taken = "taken by the store itself"
    elif folded in duck.reserved_words():
        taken = "a word of SQL"
    elif folded in (table.name.lower() for table in tables):
        taken = "that of an annotation table"
    elif other := next((known for known in sets if known.lower() == folded and known != name), None):
        taken = f"too near to the predictions {other!r} (SQL ignores the case)"
    else:
        return
    where = f"{store.root}: " if store else ""
    raise StoreError(
        f"{where}the name {name!r} for predictions is {taken}; give another as --name of raypipe predict or raypipe mlm"
    )


def schema_of(made: Prediction) -> pa.Schema:
    """The columns of a set: `schema.predictions_schema` of what the manifest says of it.

    Raises:
        StoreError: there are no such predictions.
    """
    try:
        return predictions_schema(made.task, made.problem, max(1, len(made.labels)), made.dtype)
    except ValueError as error:
        raise StoreError(f"predictions {made.name!r}: {error}; restore store.json from a copy") from error


def relation(store: Store, made: Prediction, seq_ids: np.ndarray | None = None) -> str:
    """SQL for the rows of a set, one per sequence: at least those of `seq_ids`, all if None.

    It reads the finished parts that fit the set; where there are none it has the same columns and no rows.
    """
    paths = fitting_parts(store, made, seq_ids)
    return f"FROM {duck.parquet(paths)}" if paths else duck.no_rows(schema_of(made))


def make_views(
    connection: duckdb.DuckDBPyConnection, store: Store, names: Iterable[str], schema: str = "memory.main"
) -> None:
    """Make a view of every set in `names`, called as the set, also where one refuses to be read so far.

    Args:
        schema: where, as SQL.

    Raises:
        StoreError: a part is damaged.
    """
    for name in names:
        made = store.prediction(name)
        try:
            connection.execute(f"CREATE OR REPLACE VIEW {schema}.{duck.identifier(name)} AS {relation(store, made)}")
        except duckdb.Error as error:
            raise StoreError(damage.complaint(store, [made], error)) from error


def make_closed_views(
    connection: duckdb.DuckDBPyConnection, store: Store, names: Iterable[str], schema: str = "memory.main"
) -> None:
    """Make views of the sets in `names` that have their names and columns, but refuse to be read; no file is opened."""
    for name in names:
        try:
            columns = schema_of(store.prediction(name))
        except StoreError:  # whoever asks for the set itself shall complain
            columns = SEQ_ID
        closed = duck.refusing(columns, f"predictions {name!r}: name them in the statement itself")
        connection.execute(f"CREATE VIEW {schema}.{duck.identifier(name)} AS {closed}")


def hit_columns(store: Store, taken: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name in a hit -> set and column: `<set>_<column>`, with underscores behind it where that is among `taken`."""
    folded = {name.lower() for name in taken}
    named: dict[str, tuple[str, str]] = {}
    for made in store.predictions.values():
        for column in schema_of(made).names[1:]:
            name = f"{made.name}_{column}"
            while name.lower() in folded:
                name += "_"
            folded.add(name.lower())
            named[name] = (made.name, column)
    return named


def predictions_of(store: Store, seq_ids: np.ndarray, asked: dict[str, tuple[str, str]]) -> pa.Table:
    """What was predicted for each sequence, NULL where nothing was.

    Args:
        seq_ids: (n,) int64, sorted and distinct.
        asked: name in the answer -> set and column.

    Returns:
        n rows in the order of `seq_ids`, the columns of `asked`.

    Raises:
        StoreError: a part is damaged.
    """
    result: dict[str, pa.ChunkedArray] = {}
    with duck.new_connection(reads=store.root) as connection:
        connection.register("hit", pa.table({"seq_id": seq_ids}))
        for set_name in dict.fromkeys(owner for owner, _ in asked.values()):
            made = store.prediction(set_name)
            names = {name: column for name, (owner, column) in asked.items() if owner == set_name}
            chosen = ", ".join(f"t.{duck.identifier(names[name])} AS {duck.identifier(name)}" for name in names)
            # Hits never multiply, also where a shard of an earlier plan still stands.
            first = (
                f"SELECT t.* FROM ({relation(store, made, seq_ids)}) t SEMI JOIN hit USING (seq_id) "
                "QUALIFY row_number() OVER (PARTITION BY t.seq_id) = 1"
            )
            try:
                rows = connection.sql(
                    f"SELECT {chosen} FROM hit LEFT JOIN ({first}) t ON t.seq_id = hit.seq_id ORDER BY hit.seq_id"
                )
                found = duck.run(connection, rows.to_arrow_table)
            except duckdb.Error as error:
                raise StoreError(damage.complaint(store, [made], error)) from error
            result.update({name: found[name] for name in names})
    return pa.table(result)
