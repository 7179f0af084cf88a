"""The records that removals left to the sequences that they touched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from index import duck
from index.lookups import find
from index.removals import placed_records, touched_sequences
from index.store import Store


@dataclass(frozen=True)
class Living:
    """Of one state of a store.

    Attributes:
        touched: the sequences that lost a record and have others: sorted seq_ids, int64 (n,).
        first: (n,) rows by them: n_records, and id and description of the first record.
        lost: the sequences that lost a record, whether they have others or not: sorted seq_ids, int64.
        ids: the sequences among `touched` of each id that their records have.
    """

    touched: np.ndarray
    first: pa.Table
    lost: np.ndarray
    ids: dict[str, list[int]]

    def places(self, seq_ids: np.ndarray) -> np.ndarray:
        """Rows of `first`, -1 for the sequences that are not in it."""
        return find(self.touched, seq_ids)


def first_records(records: str) -> str:
    """SQL for one row per sequence of `records`: seq_id, n_records, and id and description of its first record."""
    first = "arg_min(id, place) AS id, arg_min(description, place) AS description"
    return f"SELECT seq_id, count(*)::INTEGER AS n_records, {first} FROM ({records}) GROUP BY seq_id"


def living(store: Store) -> Living:
    """What is left; it reads all records, so ask for it by `Store.kept`. Some must be removed."""
    lost = touched_sequences(store)
    with duck.new_connection(reads=store.root) as connection:
        connection.register("touched", pa.table({"seq_id": lost}))
        records = f"SELECT * FROM ({placed_records(store)}) SEMI JOIN touched USING (seq_id)"
        connection.execute(f"CREATE TABLE living AS {records}")
        first = connection.sql(f"SELECT * FROM ({first_records('FROM living')}) ORDER BY seq_id")
        left = duck.run(connection, first.to_arrow_table)
        named = connection.execute(
            "SELECT id, list(DISTINCT seq_id ORDER BY seq_id) FROM living GROUP BY id"
        ).fetchall()
    return Living(left["seq_id"].to_numpy(), left, lost, dict(named))
