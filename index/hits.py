"""The table of hits: what was found, what the store knows of it, and its annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from index import duck
from index.annotation_rows import open_rows
from index.catalog import SCHEMA, Catalog, take_living
from index.errors import QuestionError, UnknownRecordError
from index.exact import NO_HIT
from index.hit_columns import HitColumns, hit_columns
from index.living import living
from index.lookups import runs
from index.predictions import predictions_of
from index.removals import living_records, placed_records
from index.store import Store


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
    all_annotations: bool = False,
    expand_records: bool = False,
) -> pa.Table:
    """One row per hit, in the order of queries and ranks; hits never multiply.

    Args:
        queries: (Q,) labels.
        seq_ids: (Q, k) int64 as `Searcher.search` gives them; -1 is no hit and gives no row.
        scores: (Q, k) float32.
        columns: which columns, in this order; if None query, rank (from 1), id, score, length, description, then the
            annotation columns: of a sequence with several annotation rows the first, of one without NULL. Predictions
            are asked for as `<set>_<column>`; NULL where a sequence has none.
        all_annotations: annotation columns are lists of all rows of the sequence, in the order of the file.
        expand_records: one row per record of a hit instead, in the order of ingest: they differ by id and description.

    Raises:
        StoreError: an unknown column; the message lists all.
    """
    rows = open_rows(store)
    known = hit_columns(store, rows)
    wanted = known.choose(columns)
    lines, ranks = np.nonzero(seq_ids != NO_HIT)
    found = np.asarray(seq_ids[lines, ranks], dtype=np.int64)
    parts: dict[str, pa.Array | pa.ChunkedArray] = {}
    if expand_records:
        records, repeats = _records_of(store, found)
        lines, ranks, found = (np.repeat(values, repeats) for values in (lines, ranks, found))
        parts.update({name: records[name] for name in ("id", "description")})
    if "query" in wanted:
        parts["query"] = pa.array([queries[line] for line in lines.tolist()], type=pa.string())
    if "rank" in wanted:
        parts["rank"] = pa.array(ranks + 1, type=pa.int32())
    if "score" in wanted:
        parts["score"] = pa.array(scores[lines, ranks], type=pa.float32())
    listed = [name for name in wanted if name in SCHEMA.names and name not in parts]
    if listed:
        catalog = take_living(store, searcher.catalog, found, listed)
        parts.update(zip(listed, catalog.columns, strict=True))
    asked = {name: known.annotation[name] for name in wanted if name in known.annotation}
    if asked and rows is not None:
        parts.update(rows.all(found, asked) if all_annotations else rows.first(found, asked))
    predicted = {name: known.predicted[name] for name in wanted if name in known.predicted}
    if predicted:
        distinct, places = np.unique(found, return_inverse=True)
        extra = predictions_of(store, distinct, predicted).take(pa.array(places))
        parts.update({name: extra[name] for name in predicted})
    return pa.table({name: parts[name] for name in wanted})


def check_columns(store: Store, columns: Sequence[str] | None) -> list[str]:
    """The columns that a hit table shall have, in order: `columns` as the store spells them (their case does not
    matter), or all but those on request if None.

    Raises:
        StoreError: an unknown column (the message lists all), or one that is asked for twice.
    """
    return _columns(store).choose(columns)


def available_columns(store: Store) -> list[str]:
    """All columns a hit can have; predictions, and the last two, seq_id and n_records, are shown on request only."""
    return _columns(store).all


def resolve_ids(store: Store, ids: Sequence[str], catalog: Catalog | None = None) -> tuple[list[str], np.ndarray]:
    """The sequences of records.

    Args:
        ids: ids of records as ingested.
        catalog: of the opened index, where there is one: it knows them without a look at the records.

    Returns:
        `ids` as labels, and their seq_ids, int64, in the same order.

    Raises:
        StoreError: an id is unknown, or several records of different sequences carry it.
    """
    if catalog is not None and catalog.covers(store):
        owners, found = _looked_up(store, catalog, ids)
    else:
        owners, found = _read(store, ids)
    counts = np.bincount(owners, minlength=len(ids))
    if (counts == 1).all():
        return list(ids), found
    unknown = list(dict.fromkeys(ids[place] for place in np.flatnonzero(counts == 0).tolist()))
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UnknownRecordError(f"no record with id {', '.join(unknown[:5])}{more}")
    place = int(np.argmax(counts > 1))
    listed = ", ".join(str(seq_id) for seq_id in sorted(found[owners == place])[:5])
    raise QuestionError(
        f"id {ids[place]!r} is carried by records of {counts[place]} different sequences (seq_id {listed}); "
        "search by the sequence itself instead"
    )


def _columns(store: Store) -> HitColumns:
    return hit_columns(store, open_rows(store))


def _looked_up(store: Store, catalog: Catalog, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Places in `ids`, ascending, and a seq_id of a record that is not removed; several places of an id may follow."""
    owners, found = catalog.find(ids)
    if not store.removals:
        return owners, found
    left = store.kept(living)
    kept = ~np.isin(found, left.lost)
    more = [(place, seq_id) for place, id_ in enumerate(ids) for seq_id in left.ids.get(id_, ())]
    added = np.array(more, dtype=np.int64).reshape(-1, 2)
    owners, found = np.concatenate([owners[kept], added[:, 0]]), np.concatenate([found[kept], added[:, 1]])
    order = np.argsort(owners, kind="stable")
    return owners[order], found[order]


def _read(store: Store, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """As `_looked_up`, from all the records."""
    found: dict[str, list[int]] = {}
    if ids and store.parts("records"):
        with duck.new_connection(reads=store.root) as connection:
            rows = connection.sql(
                f"SELECT id, list(DISTINCT seq_id ORDER BY seq_id) FROM {living_records(store)} "
                "WHERE id IN (SELECT unnest(?::VARCHAR[])) GROUP BY id",
                params=[sorted(set(ids))],
            )
            found = dict(duck.run(connection, rows.fetchall))
    pairs = np.array(
        [(place, seq_id) for place, id_ in enumerate(ids) for seq_id in found.get(id_, ())], dtype=np.int64
    ).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _records_of(store: Store, seq_ids: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    """The records of each of `seq_ids` (n,), one after another, and how many each has, (n,)."""
    with duck.new_connection(reads=store.root) as connection:
        connection.register("hit", pa.table({"seq_id": np.unique(seq_ids)}))
        rows = connection.sql(
            f"SELECT seq_id, id, description FROM ({placed_records(store)}) SEMI JOIN hit USING (seq_id) "
            "ORDER BY seq_id, place"
        )
        records = duck.run(connection, rows.to_arrow_table)
    owners = records["seq_id"].to_numpy()
    starts, ends = (np.searchsorted(owners, seq_ids, side) for side in ("left", "right"))
    repeats = ends - starts
    return records.take(pa.array(runs(starts, repeats))), repeats
