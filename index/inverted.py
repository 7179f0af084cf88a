"""Inverted lists inside a FAISS index: their centroids, and which list a vector goes to.

Shapes: n vectors, E values of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from index.faiss_runtime import load_faiss
from index.info import REFINEMENT, VECTORS
from index.kmeans import Nearest, k_means

# Codes, unlike centroids, need no more to be learned from; those of RaBitQ only their middle.
CODES_LEARN_FROM, MIDDLE_LEARNS_FROM = 65_536, 4_096


def train(index: Any, vectors: np.ndarray, nearest: Nearest, seed: int) -> None:
    """Learn centroids and codes from `vectors` (n, E) float32, the centroids by `nearest`.

    Types that turn vectors before they go to lists, or whose centroids are codes, are left to FAISS.
    """
    lists = _fillable(index)
    if lists is None:
        index.train(vectors)
        return
    lists.quantizer.add(k_means(vectors, lists.nlist, nearest, seed))
    few = isinstance(lists, load_faiss().IndexIVFRaBitQ)
    index.train(vectors[: MIDDLE_LEARNS_FROM if few else CODES_LEARN_FROM])  # FAISS takes the centroids that are there


class Filler:
    """Adds vectors to a trained index."""

    def __init__(self, index: Any, nearest: Nearest):
        """Take the index, and what finds the list of each vector; FAISS does where that is faster."""
        faiss = load_faiss()
        # FAISS frees an index with the object that made it; what is downcast is only a view of it.
        self._owner, self._index = index, faiss.downcast_index(index)
        self._lists, self._nearest = _fillable(index), nearest
        if self._lists is None:
            return
        if isinstance(faiss.downcast_index(self._lists.quantizer), faiss.IndexHNSW) and not nearest.on_gpu:
            self._lists = None
            return
        self._centroids = self._lists.quantizer.reconstruct_n(0, self._lists.nlist)

    def write(self, folder: Path) -> None:
        """See `write_segment`."""
        write_segment(self._owner, folder)

    def add(self, vectors: np.ndarray) -> None:
        """Add `vectors` (n, E) float32."""
        if self._lists is None:
            self._index.add(vectors)
            return
        faiss = load_faiss()
        numbers = self._nearest(vectors, self._centroids)
        self._lists.add_core(len(vectors), faiss.swig_ptr(vectors), None, faiss.swig_ptr(numbers))
        if isinstance(self._index, faiss.IndexRefine):
            self._index.refine_index.add(vectors)
            self._index.ntotal = self._lists.ntotal


def _fillable(index: Any) -> Any | None:
    """The lists of `index`, bare or inside Refine, if vectors come to them as they are, and centroids stay as they are.

    Not those of fast-scan codes: FAISS 1.15 mixes these up where it is told the lists.
    """
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        index = faiss.downcast_index(index.base_index)
    if type(index) not in (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFRaBitQ):
        return None
    quantizer = faiss.downcast_index(index.quantizer)
    # FAISS's factory makes the one, and reading it from a file the other.
    plain = type(quantizer) in (faiss.IndexFlat, faiss.IndexFlatL2, faiss.IndexHNSWFlat)
    return index if plain and quantizer.metric_type == faiss.METRIC_L2 else None


def write_segment(index: Any, folder: Path) -> None:
    """Write an index into `folder`, for `read_segment`.

    Without the centroids of its lists, which all segments share. Codes that only refine go into a file of their own, so
    that those that every search reads stand close together.
    """
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        faiss.write_index(index.refine_index, str(folder / REFINEMENT))
        index = faiss.downcast_index(index.base_index)
    lists = faiss.try_extract_index_ivf(index)
    if lists is None or not may_share(lists):
        faiss.write_index(index, str(folder / VECTORS))
        return
    own, owned = lists.quantizer, lists.own_fields
    nothing = faiss.IndexFlatL2(lists.d)
    lists.own_fields, lists.quantizer = False, nothing
    try:
        faiss.write_index(index, str(folder / VECTORS))
    finally:
        lists.quantizer, lists.own_fields = own, owned


def read_segment(vectors: Path, refinement: Path | None, shared: Any) -> Any:
    """Open what `write_segment` wrote, memory-mapped.

    Args:
        refinement: the file of codes that refine, where there is one.
        shared: the index that has the centroids; to be kept alive by the caller for as long as the result.
    """
    faiss = load_faiss()
    index = faiss.read_index(str(vectors), faiss.IO_FLAG_MMAP_IFC)
    centroids = faiss.try_extract_index_ivf(shared)
    if centroids is not None and may_share(centroids):
        lists = faiss.extract_index_ivf(index)
        lists.own_fields, lists.quantizer = False, centroids.quantizer
    if refinement is None:
        return index
    return faiss.IndexRefine(index, faiss.read_index(str(refinement), faiss.IO_FLAG_MMAP_IFC))


def may_share(lists: Any) -> bool:
    """Whether an index of inverted lists can be read without its centroids; product quantizers make tables of them."""
    return not hasattr(load_faiss().downcast_index(lists), "pq")
