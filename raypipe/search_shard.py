"""The actor of a sharded search: some segments of an index, opened where it runs; see `raypipe.sharded`.

Shapes: Q queries, D values of a vector as the model gives it, k neighbours, n sequences that are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from index import versions
from index.errors import StoreError, UnreachableError
from index.info import index_folder
from index.search import Allowed, Found, Searcher
from index.store import Store

FILTERS_KEPT = 16


class SearchShard:
    """Some segments of one version of an index; a Ray actor."""

    def __init__(self, root: str, version: str, segments: Sequence[str]):
        self._root, self._version, self._segments = root, version, segments
        self._filters: dict[str, Allowed] = {}

    @cached_property
    def _searcher(self) -> Searcher:
        store = Store.open(self._root)
        try:
            return Searcher.open(store, allow_stale=True, version=self._version, only=self._segments)
        except UnreachableError:
            raise
        except StoreError as error:
            if versions.current(index_folder(store)) == self._version:
                raise
            raise StoreError(
                f"{self._root}: index {self._version} was replaced, and is removed by now; open the atlas again"
            ) from error

    def open(self) -> None:
        """Open the segments, if that is not done."""
        _ = self._searcher

    def find(
        self, vectors: np.ndarray, k: int, options: dict[str, Any], key: str | None, seq_ids: np.ndarray | None
    ) -> Found:
        """As `Searcher.find`, over these segments; `key` and `seq_ids` are of a ShardedFilter."""
        if key is not None and key not in self._filters:
            self._filters[key] = self._searcher.allow(seq_ids)
            if len(self._filters) > FILTERS_KEPT:
                self._filters.pop(next(iter(self._filters)))
        allowed = None if key is None else self._filters[key]
        return self._searcher.find(vectors, k, allowed=allowed, **options)

    def vectors(self, seq_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of `seq_ids` (n,) that stand here: their places in it, and their vectors as stored."""
        rows = self._searcher.segments.rows_of(seq_ids)
        places = np.flatnonzero(rows >= 0)
        return places, self._searcher.stored(rows[places])
