"""The catalogue of an index: what a hit shows of a sequence, row number = seq_id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index import duck
from index.errors import StoreError
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
ROW_GROUP = 16_384


def numbered_records(store: Store) -> str:
    """SQL for the records with their `place` in the order of ingest; the store must have some.

    The number of the ingest leads the file's name, `ordinal` counts within it.
    """
    source = duck.parquet(store.parts("records"), filename=True)
    place = f"split_part(parse_filename(filename), '-', 2)::BIGINT * {1 << 40} + ordinal"
    return f"SELECT seq_id, id, description, {place} AS place FROM {source}"


def first_records(store: Store) -> str:
    """SQL for one row per sequence: seq_id, n_records, and id and description of its first record."""
    first = "arg_min(id, place) AS id, arg_min(description, place) AS description"
    return f"SELECT seq_id, count(*)::INTEGER AS n_records, {first} FROM ({numbered_records(store)}) GROUP BY seq_id"


def write_catalog(store: Store, file: Path) -> None:
    """Write the catalogue of all sequences of `store`.

    Raises:
        StoreError: sequences are missing, repeated or without a record: the store is damaged.
    """
    expected = store.num_sequences
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        if expected == 0:
            return
        written = 0
        with duck.new_connection() as connection:
            relation = connection.sql(
                f"SELECT s.seq_id, r.id, r.description, r.n_records, s.length "
                f"FROM {duck.parquet(store.parts('sequences'))} s JOIN ({first_records(store)}) r USING (seq_id) "
                f"ORDER BY s.seq_id"
            )
            for batch in relation.to_arrow_reader(ROW_GROUP):
                if not np.array_equal(batch["seq_id"].to_numpy(), np.arange(written, written + len(batch))):
                    break
                writer.write_batch(batch.cast(SCHEMA), row_group_size=ROW_GROUP)
                written += len(batch)
    if written != expected:
        raise StoreError(
            f"{store.root}: damaged, sequence {written} of {expected} is missing, repeated or without a record; "
            "ingest its sources into a new folder"
        )


class Catalog:
    """The catalogue opened for look-ups; only the row groups that are asked for are read."""

    def __init__(self, file: Path):
        self._file = pq.ParquetFile(file, memory_map=True)
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])

    def take(self, seq_ids: np.ndarray) -> pa.Table:
        """The rows of `seq_ids` (n,), in their order."""
        groups = np.unique(np.searchsorted(self._starts, seq_ids, side="right") - 1)
        if len(groups) == 0:
            return SCHEMA.empty_table()
        table = self._file.read_row_groups([int(group) for group in groups])
        sizes = np.diff(self._starts)[groups]
        shift = self._starts[groups] - np.cumsum([0, *sizes[:-1]])
        owner = np.searchsorted(groups, np.searchsorted(self._starts, seq_ids, side="right") - 1)
        return table.take(pa.array(seq_ids - shift[owner]))
