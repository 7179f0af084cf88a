"""What a hit shows of a sequence, for any number of sequences, with an index or without.

Shapes: N sequences of a batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from index.catalog import CATALOG, Catalog, write_catalog
from index.filters import matching_sequences
from index.hit_columns import BASE
from index.hits import check_columns, hit_table
from index.info import current_info
from index.mapped import open_mapped
from index.removals import removed_sequences
from index.store import Store
from raypipe.errors import UsageError

OF_SEARCHES = ("query", "rank", "score")


class Described:
    """Looks sequences up.

    Attributes:
        catalog: ids, descriptions and lengths by seq_id.
    """

    def __init__(self, store: Store, catalog: Catalog):
        self._store = store
        self.catalog = catalog

    @classmethod
    @contextmanager
    def opened(cls, store: Store) -> Iterator[Described]:
        """The catalogue of the live index, or where that is older than the store one in a temporary folder."""
        info = current_info(store)
        if info is not None and (known := Catalog.open(store, info)).covers(store):
            yield cls(store, known)
            return
        with tempfile.TemporaryDirectory(prefix="raypipe-export-") as folder:
            write_catalog(store, Path(folder))
            yield cls(store, Catalog(open_mapped(Path(folder) / CATALOG), None, ()))

    def table(self, seq_ids: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Rows of `seq_ids` (N,), in their order."""
        scores = np.zeros((len(seq_ids), 1), np.float32)
        return hit_table(self._store, self, [""] * len(seq_ids), seq_ids[:, None], scores, columns=list(columns))


def exported_columns(store: Store, columns: Sequence[str] | None, default: Sequence[str] | None) -> list[str]:
    """Columns of sequences that are no hits.

    Args:
        columns: as the user names them.
        default: in their place; if None id, seq_id, length, description and the annotations.

    Raises:
        StoreError: an unknown column, or one that is asked for twice.
        UsageError: one that only hits of a search have.
    """
    if columns is None and default is None:
        known = [name for name in check_columns(store, None) if name not in BASE]
        return ["id", "seq_id", "length", "description", *known]
    chosen = check_columns(store, columns if columns is not None else list(default or ()))
    if foreign := [name for name in chosen if name in OF_SEARCHES]:
        raise UsageError(f"--columns {foreign[0]}: only hits have it; leave it out, or add: --what hits")
    return chosen


def wanted_sequences(store: Store, where: str | None) -> np.ndarray:
    """Which sequences are not removed and meet a condition: bool (num_sequences,)."""
    wanted = np.ones(store.num_sequences, dtype=bool)
    if where is not None:
        wanted[:] = False
        wanted[matching_sequences(store, where)] = True
    wanted[removed_sequences(store)] = False
    return wanted
