"""The catalogue of an index: what a hit shows of a sequence, row number = seq_id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index import duck
from index.errors import StoreError
from index.removals import ingested_records, placed_records, touched_sequences
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


def _first(records: str) -> str:
    """SQL for one row per sequence of `records`: seq_id, n_records, and id and description of its first record."""
    first = "arg_min(id, place) AS id, arg_min(description, place) AS description"
    return f"SELECT seq_id, count(*)::INTEGER AS n_records, {first} FROM ({records}) GROUP BY seq_id"


def write_catalog(store: Store, file: Path) -> None:
    """Write the catalogue of all sequences of `store`, also of those whose records were removed since.

    Raises:
        StoreError: sequences are missing, repeated or without a record: the store is damaged.
    """
    expected = store.num_sequences
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        if expected == 0:
            return
        written = 0
        first = _first(ingested_records(store))
        with duck.new_connection(reads=store.root) as connection:
            sql = (
                f"SELECT s.seq_id, r.id, r.description, r.n_records, s.length "
                f"FROM {duck.parquet(store.parts('sequences'))} s JOIN ({first}) r USING (seq_id) "
                f"ORDER BY s.seq_id"
            )
            for batch in duck.batches(connection, sql, ROW_GROUP):
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


def take_living(store: Store, catalog: Catalog, seq_ids: np.ndarray) -> pa.Table:
    """Rows of the catalogue as it would be without the records that were removed.

    Args:
        seq_ids: (n,), distinct and sorted.
    """
    rows = catalog.take(seq_ids)
    touched = np.intersect1d(seq_ids, touched_sequences(store))
    if not len(touched):
        return rows
    with duck.new_connection(reads=store.root) as connection:
        connection.register("touched", pa.table({"seq_id": touched}))
        records = f"SELECT * FROM ({placed_records(store)}) SEMI JOIN touched USING (seq_id)"
        first = connection.sql(f"SELECT * FROM ({_first(records)}) ORDER BY seq_id")
        left = duck.run(connection, first.to_arrow_table)
    places = np.searchsorted(seq_ids, left["seq_id"].to_numpy())
    columns = []
    for field in SCHEMA:
        values = rows[field.name].to_numpy().copy()
        if field.name in ("id", "description", "n_records"):
            values[places] = left[field.name].to_numpy()
        columns.append(pa.array(values, field.type))
    return pa.table(columns, schema=SCHEMA)
