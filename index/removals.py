"""Records that were taken out of an atlas: tombstones, in `removed/`; what they speak of stays where it is.

A record is known by its `place`, the number of its ingest and its ordinal in it, so the same id may come back with a
later source. A sequence whose records are all removed is found no more; its seq_id, its vectors and its predictions
stay, and it lives again when a later source has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from index import duck, files
from index.errors import StoreError
from index.parquet import read_parquet
from index.places import Place
from index.store import Store

SCHEMA = pa.schema(
    [
        pa.field("place", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("seq_id", pa.int64(), nullable=False),
    ]
)
INGEST_SHIFT = 1 << 40
# Of the file's name and the record's ordinal; see `place` above.
_PLACE = f"split_part(parse_filename(filename), '-', 2)::BIGINT * {INGEST_SHIFT} + ordinal"


@dataclass(frozen=True)
class Removal:
    """What a removal did.

    Attributes:
        records: that are removed now, and were not before.
        sequences: that are found no more for it.
        unknown: ids that no record has, or that were removed before.
    """

    records: int
    sequences: int
    unknown: tuple[str, ...]


def ingested_records(store: Store) -> str:
    """SQL for all records as ingested, with their `place`; the store must have some."""
    return f"SELECT * EXCLUDE (filename), {_PLACE} AS place FROM {duck.parquet(store.parts('records'), filename=True)}"


def placed_records(store: Store) -> str:
    """SQL for the records that are not removed, with their `place`; the store must have some."""
    source = ingested_records(store)
    if not store.removals:
        return source
    return f"SELECT * FROM ({source}) WHERE place NOT IN (SELECT place FROM {_removed(store)})"


def living_records(store: Store) -> str:
    """SQL behind FROM for the records that are not removed; the store must have some."""
    if not store.removals:
        return duck.parquet(store.parts("records"))
    return f"(SELECT * EXCLUDE (place) FROM ({placed_records(store)}))"


def living_sequences(store: Store) -> str:
    """SQL behind FROM for the sequences that have a record; the store must have some."""
    source = duck.parquet(store.parts("sequences"))
    return f"(SELECT * FROM {source} WHERE seq_id NOT IN ({dead_sequences(store)}))" if store.removals else source


def removed_sequences(store: Store) -> np.ndarray:
    """Sequences without a record: sorted seq_ids, int64 (n,)."""
    if not store.removals:
        return np.empty(0, np.int64)
    with duck.new_connection(reads=store.root) as connection:
        dead = f"{dead_sequences(store)} ORDER BY seq_id"
        found = duck.run(connection, lambda: connection.execute(dead).fetchnumpy()["seq_id"])
    return np.asarray(found, dtype=np.int64)


def touched_sequences(store: Store) -> np.ndarray:
    """Sequences that lost a record, whether they have others or not: sorted seq_ids, int64 (n,); not to be written to.

    Cheap to ask again: every answer to a search does.
    """
    return _touched(tuple((path, path.stat().st_mtime_ns) for path in _files(store)))


@lru_cache(maxsize=8)
def _touched(versions: tuple[tuple[Place, int], ...]) -> np.ndarray:
    ids = [read_parquet(path, columns=["seq_id"])["seq_id"].to_numpy() for path, _ in versions]
    found = np.unique(np.concatenate([np.empty(0, np.int64), *ids]))
    found.flags.writeable = False
    return found


def remove_records(store: Store, ids: Sequence[str]) -> Removal:
    """Take all records of `ids` out. The caller holds `store.lock()`.

    Raises:
        StoreError: none of them is there.
    """
    asked = sorted(set(ids))
    gone = pa.Table.from_pylist([], SCHEMA)
    if store.parts("records"):
        with duck.new_connection(reads=store.root) as connection:
            rows = connection.sql(
                f"SELECT place, id, seq_id FROM ({placed_records(store)}) WHERE id IN (SELECT unnest($ids)) "
                "ORDER BY place",
                params={"ids": asked},
            )
            gone = duck.run(connection, rows.to_arrow_table)
    found = set(gone["id"].to_pylist())
    unknown = tuple(id_ for id_ in asked if id_ not in found)
    if not found:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise StoreError(f"no record with id {', '.join(unknown[:5])}{more} in {store.root}")
    before = len(removed_sequences(store))
    name = f"part-{len(store.removals):05d}.parquet"
    files.write_parquet(store.root / "removed" / name, gone.cast(SCHEMA), store.root, compression="zstd")
    store.add_removal(name, gone.num_rows)
    return Removal(gone.num_rows, len(removed_sequences(store)) - before, unknown)


def _files(store: Store) -> list[Place]:
    return [store.root / "removed" / name for name in store.removals]


def _removed(store: Store) -> str:
    return duck.parquet(_files(store))


def dead_sequences(store: Store) -> str:
    """SQL for the seq_ids that lost all their records; some must be removed."""
    removed = _removed(store)
    return (
        f"SELECT DISTINCT seq_id FROM {removed} WHERE seq_id NOT IN (SELECT seq_id FROM ({placed_records(store)}) "
        f"WHERE seq_id IN (SELECT seq_id FROM {removed}))"
    )
