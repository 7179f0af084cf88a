"""The table of hits: what was found, what the store knows of it, and its annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from index import duck
from index.annotation_tables import ALIAS, AnnotationTable, attach, list_tables, live_database
from index.catalog import Catalog, take_living
from index.errors import QuestionError, UnknownRecordError
from index.exact import NO_HIT
from index.predictions import hit_columns, predictions_of
from index.removals import living_records
from index.store import Store

BASE = ("query", "rank", "id", "score", "length", "description")
ON_REQUEST = ("seq_id", "n_records")


class Catalogued(Protocol):
    """An opened index: a `Searcher`, or what stands for one."""

    catalog: Catalog


def hit_table(
    store: Store,
    searcher: Catalogued,
    queries: Sequence[str],
    seq_ids: np.ndarray,
    scores: np.ndarray,
    *,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """One row per hit, in the order of queries and ranks; hits never multiply.

    Args:
        queries: (Q,) labels.
        seq_ids: (Q, k) int64 as `Searcher.search` gives them; -1 is no hit and gives no row.
        scores: (Q, k) float32.
        columns: which columns, in this order; if None query, rank (from 1), id, score, length, description, then the
            annotation columns: of a sequence with several annotation rows the first, of one without NULL. Predictions
            are asked for as `<set>_<column>`; NULL where a sequence has none.

    Raises:
        StoreError: an unknown column; the message lists all.
    """
    wanted = check_columns(store, columns)
    annotation, predicted = _columns(store)
    lines, ranks = np.nonzero(seq_ids != NO_HIT)
    found = seq_ids[lines, ranks]
    distinct, places = np.unique(found, return_inverse=True)
    catalog = take_living(store, searcher.catalog, distinct).take(pa.array(places))
    parts: dict[str, pa.Array | pa.ChunkedArray] = {
        "query": pa.array([queries[line] for line in lines.tolist()], type=pa.string()),
        "rank": pa.array(ranks + 1, type=pa.int32()),
        "score": pa.array(scores[lines, ranks], type=pa.float32()),
        **{name: catalog[name] for name in catalog.column_names},
    }
    for known, look_up in ((annotation, _annotations_of), (predicted, predictions_of)):
        asked = {name: known[name] for name in wanted if name in known}
        if asked:
            extra = look_up(store, distinct, asked).take(pa.array(places))
            parts.update({name: extra[name] for name in asked})
    return pa.table({name: parts[name] for name in wanted})


def check_columns(store: Store, columns: Sequence[str] | None) -> list[str]:
    """The columns that a hit table shall have, in order: `columns` as the store spells them (their case does not
    matter), or all but those on request if None.

    Raises:
        StoreError: an unknown column (the message lists all), or one that is asked for twice.
    """
    annotation, predicted = _columns(store)
    if columns is None:
        return [*BASE, *annotation]
    known = [*BASE, *annotation, *predicted, *ON_REQUEST]
    # As in SQL the case does not matter; an exact name is preferred.
    spelled = {**{name.lower(): name for name in reversed(known)}, **{name: name for name in known}}
    wanted = [spelled.get(name) or spelled.get(name.lower()) for name in columns]
    found = [name for name in wanted if name is not None]
    if len(found) < len(columns):
        raise QuestionError(f"no column {columns[wanted.index(None)]!r}; there are: {', '.join(known)}")
    if len(set(found)) < len(found):
        raise QuestionError(f"a column is asked for twice: {', '.join(columns)}")
    return found


def available_columns(store: Store) -> list[str]:
    """All columns a hit can have; predictions, and the last two, seq_id and n_records, are shown on request only."""
    annotation, predicted = _columns(store)
    return [*BASE, *annotation, *predicted, *ON_REQUEST]


def resolve_ids(store: Store, ids: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The sequences of records.

    Args:
        ids: ids of records as ingested.

    Returns:
        `ids` as labels, and their seq_ids, int64, in the same order.

    Raises:
        StoreError: an id is unknown, or several records of different sequences carry it.
    """
    found: dict[str, list[int]] = {}
    if ids and store.parts("records"):
        with duck.new_connection(reads=store.root) as connection:
            rows = connection.sql(
                f"SELECT id, list(DISTINCT seq_id ORDER BY seq_id) FROM {living_records(store)} "
                "WHERE id IN (SELECT unnest(?::VARCHAR[])) GROUP BY id",
                params=[sorted(set(ids))],
            )
            found = dict(duck.run(connection, rows.fetchall))
    unknown = [id_ for id_ in dict.fromkeys(ids) if id_ not in found]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UnknownRecordError(f"no record with id {', '.join(unknown[:5])}{more}")
    for id_ in ids:
        if len(found[id_]) > 1:
            listed = ", ".join(str(seq_id) for seq_id in found[id_][:5])
            raise QuestionError(
                f"id {id_!r} is carried by records of {len(found[id_])} different sequences (seq_id {listed}); "
                "search by the sequence itself instead"
            )
    return list(ids), np.array([found[id_][0] for id_ in ids], dtype=np.int64)


def _columns(store: Store) -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
    """Columns of annotations and of predictions: name in a hit -> table or set, and column."""
    annotation = _annotation_columns(list_tables(store))
    return annotation, hit_columns(store, [*BASE, *annotation, *ON_REQUEST])


def _annotation_columns(tables: Sequence[AnnotationTable]) -> dict[str, tuple[str, str]]:
    """Name in a hit -> table and column; a name that occurs twice is prefixed by its table."""
    plain = [
        (table.name, column)
        for table in tables
        for column in table.columns
        if column not in ("seq_id", "id", table.key_column)
    ]
    counts: dict[str, int] = dict.fromkeys((*BASE, *ON_REQUEST), 1)
    for _, column in plain:
        counts[column.lower()] = counts.get(column.lower(), 0) + 1
    named: dict[str, tuple[str, str]] = {}
    for table, column in plain:
        name = column if counts[column.lower()] == 1 else f"{table}_{column}"
        while name in named or (name != column and name.lower() in counts):
            name += "_"
        named[name] = (table, column)
    return named


def _annotations_of(store: Store, seq_ids: np.ndarray, asked: dict[str, tuple[str, str]]) -> pa.Table:
    """The first annotation row of each sequence, in the order of `seq_ids` (sorted, distinct)."""
    database = live_database(store)
    result: dict[str, pa.ChunkedArray] = {}
    with duck.new_connection(reads=store.root) as connection:
        if database is not None:
            attach(connection, database)
        connection.register("hit", pa.table({"seq_id": seq_ids}))
        for table in dict.fromkeys(owner for owner, _ in asked.values()):
            names = {name: column for name, (owner, column) in asked.items() if owner == table}
            chosen = ", ".join(f"t.{duck.identifier(names[name])} AS {duck.identifier(name)}" for name in names)
            first = (
                f"SELECT t.* FROM {ALIAS}.main.{duck.identifier(table)} t SEMI JOIN hit USING (seq_id) "
                "QUALIFY row_number() OVER (PARTITION BY t.seq_id ORDER BY t.rowid) = 1"
            )
            rows = connection.sql(
                f"SELECT {chosen} FROM hit LEFT JOIN ({first}) t ON t.seq_id = hit.seq_id ORDER BY hit.seq_id"
            )
            found = duck.run(connection, rows.to_arrow_table)
            result.update({name: found[name] for name in names})
    return pa.table(result)
