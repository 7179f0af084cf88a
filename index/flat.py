"""The vectors of the flat type, filled in and written with the bounds by which exact search skips most of them.

Shapes: n vectors, E values of each, m leading axes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from index.faiss_runtime import load_faiss
from index.info import LEADING, VECTORS
from index.leading import leads


class FlatFiller:
    """Adds vectors to a flat index, and beside them what `leading.leads` makes of them."""

    def __init__(self, index: Any, rows: int, axes: np.ndarray | None):
        """Take an empty FAISS index, the number of vectors that will come, and the axes (E, m) if there are any."""
        self._index, self._axes, self._done = index, axes, 0
        self._held = _reserved(index, rows)
        self._leads = None if axes is None else np.empty((rows, axes.shape[1] + 1), np.float32)

    def add(self, vectors: np.ndarray) -> None:
        """Add `vectors` (n, E) float32 of length 1."""
        places = slice(self._done, self._done + len(vectors))
        self._held[places] = vectors
        if self._axes is not None and self._leads is not None:
            self._leads[places] = leads(vectors, self._axes)
        self._done += len(vectors)

    def write(self, folder: Path) -> None:
        """Write what came into `folder`, once all has come."""
        load_faiss().write_index(self._index, str(folder / VECTORS))
        if self._leads is not None:
            np.save(folder / LEADING, self._leads)


def held_vectors(index: Any) -> np.ndarray:
    """The vectors of a flat FAISS index as they stand in its memory, (n, E) float32; alive as long as the index is."""
    shape = (index.ntotal, index.d)
    if 0 in shape:
        return np.empty(shape, dtype=np.float32)
    return load_faiss().rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(shape)


def _reserved(index: Any, rows: int) -> np.ndarray:
    """The index's own memory, (rows, E): `add` would grow it by doubling and hold the vectors twice at times."""
    index.codes.resize(4 * rows * index.d)
    index.ntotal = rows
    return held_vectors(index)
