"""The catalogue of an index: what a hit shows of a sequence, row number = seq_id, and the sequence of every id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index import duck
from index.errors import StoreError
from index.info import CATALOG, IDS, OLD_CATALOG, IndexInfo, held_file
from index.living import first_records, living
from index.lookups import runs
from index.mapped import numbers, open_mapped, take, write_mapped
from index.removals import ingested_records
from index.schema import RECORDS, SEQUENCES
from index.store import Store

SCHEMA = pa.schema(
    [
        SEQUENCES.field("seq_id"),
        RECORDS.field("id"),
        RECORDS.field("description"),
        pa.field("n_records", pa.int32(), nullable=False),
        SEQUENCES.field("length"),
    ]
)
OF_RECORDS = ("id", "description", "n_records")  # what changes when records are removed
_STORED = pa.schema([field for field in SCHEMA if field.name != "seq_id"])
_IDS = pa.schema([("upper", pa.uint64()), ("lower", pa.uint64()), ("seq_id", pa.int64())])
BATCH = 65_536


def write_catalog(store: Store, folder: Path) -> None:
    """Write the catalogue of all sequences of `store`, also of those whose records were removed since.

    Into CATALOG a row per sequence; into IDS the halves of the MD5 of every id with its sequences, sorted, as
    `Catalog.find` looks them up.

    Raises:
        StoreError: sequences are missing, repeated or without a record: the store is damaged.
    """
    if not store.num_sequences:
        write_mapped(folder / CATALOG, _STORED, [])
        write_mapped(folder / IDS, _IDS, [])
        return
    records = ingested_records(store)
    with duck.new_connection(reads=store.root) as connection:
        sql = (
            f"SELECT s.seq_id, r.id, r.description, r.n_records, s.length "
            f"FROM {duck.parquet(store.parts('sequences'))} s JOIN ({first_records(records)}) r USING (seq_id) "
            f"ORDER BY s.seq_id"
        )
        write_mapped(folder / CATALOG, _STORED, _whole(store, duck.batches(connection, sql, BATCH)))
        # Two ids of one MD5 do not come about by chance.
        sql = (
            f"SELECT DISTINCT md5_number_upper(id) AS upper, md5_number_lower(id) AS lower, seq_id FROM ({records}) "
            f"ORDER BY ALL"
        )
        write_mapped(folder / IDS, _IDS, (batch.cast(_IDS) for batch in duck.batches(connection, sql, BATCH)))


def _whole(store: Store, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """`batches` without their seq_ids, which are all there, in order and once."""
    written = 0
    for batch in batches:
        if not np.array_equal(batch["seq_id"].to_numpy(), np.arange(written, written + len(batch))):
            break
        yield batch.select(_STORED.names).cast(_STORED)
        written += len(batch)
    if written != store.num_sequences:
        raise StoreError(
            f"{store.root}: damaged, sequence {written} of {store.num_sequences} is missing, repeated or without a "
            "record; ingest its sources into a new folder"
        )


class Catalog:
    """The catalogue opened for look-ups: mapped, so that only what is asked for is read. Safe to use from threads.

    Attributes:
        sources: what the store had ingested when it was written, by sha256.
    """

    def __init__(self, rows: pa.RecordBatch, ids: pa.RecordBatch | None, sources: Sequence[str]):
        self._rows = {name: rows.column(name) for name in _STORED.names}
        self._ids = None if ids is None else tuple(numbers(ids.column(name)) for name in _IDS.names)
        self.sources = frozenset(sources)

    @classmethod
    def open(cls, store: Store, info: IndexInfo) -> Catalog:
        """That of one version of the index.

        Raises:
            StoreError: it is missing or damaged.
        """
        files = {name: f"{info.version}/{name}" for name in (CATALOG, IDS, OLD_CATALOG)}
        if files[OLD_CATALOG] in info.files:  # built before it could be mapped: it fits into memory, or it is slow
            table = pq.read_table(held_file(store, info, files[OLD_CATALOG])).select(_STORED.names)
            long = pa.schema([_long(field) for field in _STORED])
            [rows] = table.cast(long).combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], long)]
            return cls(rows, None, info.sources)
        rows, ids = (open_mapped(held_file(store, info, files[name])) for name in (CATALOG, IDS))
        return cls(rows, ids, info.sources)

    def take(self, seq_ids: np.ndarray, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
        """The rows of `seq_ids` (n,), in their order; `columns` are those of SCHEMA."""
        rows = pa.array(seq_ids, pa.int64())
        found = [rows if name == "seq_id" else take(self._rows[name], rows) for name in columns]
        return pa.table(found, schema=pa.schema([SCHEMA.field(name) for name in columns]))

    def covers(self, store: Store) -> bool:
        """Whether `find` knows the ids of all records of `store`."""
        return self._ids is not None and store.kept(_sources) <= self.sources

    def find(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The sequences whose records were ingested by one of `ids`, whether they were removed since or not.

        Returns:
            (m,) each: a place in `ids`, ascending, and a seq_id. An id that is not known has none, and one that
            records of several sequences carry has several.
        """
        assert self._ids is not None
        upper, lower, seq_ids = self._ids
        digests = b"".join(hashlib.md5(id_.encode(), usedforsecurity=False).digest() for id_ in ids)
        halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
        first, end = (np.searchsorted(upper, halves[:, 0], side) for side in ("left", "right"))
        counts = end - first
        owners = np.repeat(np.arange(len(ids)), counts)
        rows = runs(first, counts)
        same = lower[rows] == halves[owners, 1]
        return owners[same], seq_ids[rows[same]]


def take_living(store: Store, catalog: Catalog, seq_ids: np.ndarray, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
    """Rows of the catalogue as it would be without the records that were removed, in the order of `seq_ids` (n,)."""
    rows = catalog.take(seq_ids, columns)
    if not store.removals:
        return rows
    left = store.kept(living)
    places = left.places(seq_ids)
    touched = places >= 0
    if not touched.any():
        return rows
    others = left.first.take(pa.array(places[touched]))  # first of all: those of all sequences may be many
    chosen = np.arange(len(seq_ids))
    chosen[touched] = len(seq_ids) + np.arange(len(others))
    for name in (name for name in columns if name in OF_RECORDS):
        values = pa.chunked_array([*rows[name].chunks, *others[name].chunks]).take(pa.array(chosen))
        rows = rows.set_column(columns.index(name), SCHEMA.field(name), values)
    return rows


def _long(field: pa.Field) -> pa.Field:
    return field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field


def _sources(store: Store) -> frozenset[str]:
    return frozenset(source.sha256 for source in store.sources)
