"""Which sequence stands in each row of an index.

Most segments hold a run of sequences, one after another: of such a run its first seq_id is kept and no more. Eight
bytes for each of some millions of vectors would be much beside codes of some 170.

Shapes: n rows.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from index.exact import NO_HIT
from index.lookups import find


def packed(seq_ids: np.ndarray) -> np.ndarray:
    """What `SeqIds` takes, int64: `seq_ids` (n,) of as many rows, or (1,) the first of them where they are a run."""
    return seq_ids[:1] if len(seq_ids) and (np.diff(seq_ids) == 1).all() else seq_ids


class SeqIds:
    """The seq_ids of the rows of one segment; no sequence stands in two of them."""

    def __init__(self, held: np.ndarray, num_rows: int):
        """Take what `packed` gave.

        Raises:
            ValueError: it is of another number of rows.
        """
        if len(held) not in (min(num_rows, 1), num_rows):
            raise ValueError(f"{len(held)} seq_ids for {num_rows} rows")
        self._held, self._num_rows = held, num_rows
        self._is_run = len(held) == 1

    def __len__(self) -> int:
        return self._num_rows

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Those of rows, of any shape, int64; NO_HIT for a row below 0."""
        if not len(self):
            return np.full(rows.shape, NO_HIT)
        found = self._held[0] + rows if self._is_run else self._held[np.maximum(rows, 0)]
        return np.where(rows < 0, NO_HIT, found)

    def between(self, start: int, stop: int) -> np.ndarray:
        """Those of the rows from `start` to before `stop`, or to the last one: int64."""
        if self._is_run:
            return np.arange(start, min(stop, self._num_rows)) + self._held[0]
        return self._held[start:stop]

    def all(self) -> np.ndarray:
        """Those of all rows, int64 (n,); not to be written to."""
        return self.between(0, self._num_rows)

    def pick(self, values: np.ndarray) -> np.ndarray:
        """Of `values`, in the order of seq_id from 0 on, those of all rows, (n,); a view where the rows are a run."""
        if self._is_run:
            first = int(self._held[0])
            return values[first : first + self._num_rows]
        return values[self._held]

    def rows_of(self, seq_ids: np.ndarray) -> np.ndarray:
        """The rows of `seq_ids`, of any shape, int64; -1 where they are in none."""
        if self._is_run:
            rows = seq_ids - self._held[0]
            return np.where((rows >= 0) & (rows < self._num_rows), rows, -1)
        if not len(self):
            return np.full(seq_ids.shape, -1)
        order, ascending = self._order
        places = find(ascending, seq_ids)
        return np.where(places < 0, -1, order[places])

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self._held, kind="stable")
        return order, self._held[order]
