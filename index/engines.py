"""How each family of FAISS index is searched: flat (exact), inverted lists, HNSW, and the rest.

Every engine returns row numbers and cosines, and fills min(k, allowed rows) slots: nothing is lost to a filter.
Shapes: Q queries, n rows, D values per vector, k neighbours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from index.exact import NO_HIT, ROUNDING, best, exact_search, rescore
from index.faiss_runtime import load_faiss

FEW_ROWS = 20_000
FEW_SHARE = 0.02
# Candidates of coarse codes per neighbour wanted, compared again by finer ones. 1-bit codes order whitened vectors less
# sharply than those of a narrow cone: recall@10 over 12,000 vectors of 256 values was 0.987 with 4, 0.997 with 8.
REFINE_FACTOR = 8.0
Found = tuple[np.ndarray, np.ndarray]
Scan = Callable[[np.ndarray, int, np.ndarray], Found]


class Engine(Protocol):
    """Search over the rows of one opened FAISS index."""

    effort_name: str
    max_effort: int

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, effort: int | None) -> Found:
        """Rows (Q, k) int64, NO_HIT where fewer rows are allowed, and cosines (Q, k) float32.

        Args:
            queries: (Q, D) unit vectors, float32.
            mask: (n,) bool, the rows that may be found; all if None.
            effort: nprobe or ef_search, whichever the engine has.
        """
        ...


def open_engine(index: Any, scan: Scan) -> Engine:
    """The engine for `index`.

    Args:
        index: to be kept alive by the caller for as long as the engine.
        scan: exact search over stored vectors, for families whose FAISS code takes no filter: from queries (Q, D), k
            and a mask (n,) to rows and cosines.
    """
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexFlat):
        return FlatEngine(index)
    if faiss.try_extract_index_ivf(index) is not None:
        return IvfEngine(index)
    if isinstance(index, faiss.IndexHNSW):
        return HnswEngine(index)
    return OtherEngine(index, scan)


class FlatEngine:
    """Exact search: FAISS proposes, float64 sums over the same vectors decide scores and ties."""

    effort_name, max_effort = "", 0

    def __init__(self, index: Any):
        self._index = index
        shape = (index.ntotal, index.d)
        empty = np.empty(shape, dtype=np.float32)
        self._vectors = (
            load_faiss().rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(shape) if empty.size else empty
        )

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, effort: int | None) -> Found:
        num_rows = len(self._vectors)
        allowed = num_rows if mask is None else int(np.count_nonzero(mask))
        if mask is not None and _few(allowed, num_rows):
            return padded(*exact_search(self._gathered(np.flatnonzero(mask)), queries, k), k)
        parameters = None if mask is None else load_faiss().SearchParameters(sel=selector(mask))
        wanted = min(k, allowed)
        rows = np.full((len(queries), wanted), NO_HIT, dtype=np.int64)
        scores = np.full((len(queries), wanted), -np.inf, dtype=np.float32)
        open_lines, fetch = np.arange(len(queries)), min(allowed, wanted + max(16, wanted // 4))
        while len(open_lines) and fetch:
            # A line is settled when nothing beyond what was fetched can reach its k-th place.
            rough, found = self._index.search(queries[open_lines], fetch, params=parameters)
            values = rescore(found, queries[open_lines], self._vectors)
            rows[open_lines], scores[open_lines] = best(found, values, wanted)
            unsettled = (rough[:, -1] + ROUNDING >= scores[open_lines, -1]) & (fetch < allowed)
            open_lines, fetch = open_lines[unsettled], min(allowed, fetch * 4)
        return padded(rows, scores, k)

    def _gathered(self, rows: np.ndarray):
        step = max(1, (32 << 20) // (4 * self._index.d))
        for start in range(0, len(rows), step):
            yield rows[start : start + step], self._vectors[rows[start : start + step]]


class _Approximate(ABC):
    """Shared by the families whose effort can be raised: a second look for lines that a filter left unfilled."""

    effort_name, max_effort = "", 0

    def __init__(self, index: Any):
        self._index = index

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, effort: int | None) -> Found:
        num_rows = self._index.ntotal
        allowed = num_rows if mask is None else int(np.count_nonzero(mask))
        wanted = min(k, allowed)
        if wanted == 0:
            return padded(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32), k)
        sel = None if mask is None else selector(mask)
        effort = self._start(effort, wanted, allowed)
        rows, scores = self._attempt(queries, wanted, sel, effort)
        while effort < self.max_effort and (unfilled := np.flatnonzero((rows == NO_HIT).any(axis=1))).size:
            effort = min(self.max_effort, effort * 2)
            rows[unfilled], scores[unfilled] = self._attempt(queries[unfilled], wanted, sel, effort)
        return padded(rows, scores, k)

    @abstractmethod
    def _start(self, effort: int | None, wanted: int, allowed: int) -> int:
        """The effort of the first attempt; `allowed` rows pass the filter."""

    @abstractmethod
    def _attempt(self, queries: np.ndarray, k: int, sel: Any, effort: int) -> Found:
        """One search; NO_HIT where too few rows were visited."""


class IvfEngine(_Approximate):
    """Inverted lists, bare or inside Refine and vector transforms. Effort is nprobe."""

    effort_name = "nprobe"

    def __init__(self, index: Any):
        super().__init__(index)
        self.max_effort = int(load_faiss().extract_index_ivf(index).nlist)

    def _start(self, effort: int | None, wanted: int, allowed: int) -> int:
        effort = effort or 1
        if _few(allowed, self._index.ntotal):
            # Rows outside the filter cost one bit test each, so visiting every list is cheap and loses nothing.
            return self.max_effort
        return min(self.max_effort, -(-effort * self._index.ntotal // allowed))

    def _attempt(self, queries: np.ndarray, k: int, sel: Any, effort: int) -> Found:
        faiss = load_faiss()
        return _by_distance(
            self._index, queries, k, _nested(self._index, faiss.SearchParametersIVF(nprobe=effort, sel=sel))
        )


class HnswEngine(_Approximate):
    """A graph. Effort is ef_search; a filter is answered by scanning the graph's storage instead."""

    effort_name = "ef_search"

    def __init__(self, index: Any):
        super().__init__(index)
        self.max_effort = max(1, int(index.ntotal))
        self._storage = load_faiss().downcast_index(index.storage)

    def _start(self, effort: int | None, wanted: int, allowed: int) -> int:
        return min(self.max_effort, max(effort or 16, wanted))

    def _attempt(self, queries: np.ndarray, k: int, sel: Any, effort: int) -> Found:
        faiss = load_faiss()
        if sel is not None or effort >= self.max_effort:
            return _by_distance(self._storage, queries, k, faiss.SearchParameters(sel=sel) if sel else None)
        return _by_distance(self._index, queries, k, faiss.SearchParametersHNSW(efSearch=effort))


class OtherEngine:
    """Any other type: searched as FAISS does without a filter, exactly over the stored vectors with one."""

    effort_name, max_effort = "", 0

    def __init__(self, index: Any, scan: Scan):
        self._index = index
        self._scan = scan

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, effort: int | None) -> Found:
        if mask is not None:
            return padded(*self._scan(queries, k, mask), k)
        wanted = min(k, self._index.ntotal)
        rows, scores = _by_distance(self._index, queries, wanted, None)
        if (unfilled := np.flatnonzero((rows == NO_HIT).any(axis=1))).size:
            everything = np.ones(self._index.ntotal, dtype=bool)
            rows[unfilled], scores[unfilled] = self._scan(queries[unfilled], wanted, everything)
        return padded(rows, scores, k)


def _by_distance(index: Any, queries: np.ndarray, k: int, parameters: Any) -> Found:
    """Search by squared distance d2 between unit vectors, whose cosine is 1 - d2 / 2."""
    distances, rows = index.search(queries, k, params=parameters)
    scores = np.clip(1 - distances / 2, -1, 1).astype(np.float32)
    scores[rows == NO_HIT] = -np.inf
    return best(rows, scores, k)


def selector(mask: np.ndarray) -> Any:
    """FAISS's filter for the rows set in `mask` (n,) bool."""
    return load_faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def padded(rows: np.ndarray, scores: np.ndarray, k: int) -> Found:
    """`rows` and `scores` widened to k columns, empty slots NO_HIT and nan."""
    short = ((0, 0), (0, k - rows.shape[1]))
    rows = np.pad(rows, short, constant_values=NO_HIT)
    scores = np.pad(scores, short, constant_values=np.nan)
    return rows, np.where(rows == NO_HIT, np.float32(np.nan), scores)


def _few(allowed: int, num_rows: int) -> bool:
    return allowed < num_rows and allowed <= max(FEW_ROWS, FEW_SHARE * num_rows)


def _nested(index: Any, parameters: Any) -> Any:
    """`parameters` of the inverted lists, wrapped for what stands around them."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        inner = _nested(index.base_index, parameters)
        return faiss.IndexRefineSearchParameters(k_factor=REFINE_FACTOR, base_index_params=inner)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_nested(index.index, parameters))
    return parameters
