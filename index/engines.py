"""How each family of FAISS index is searched: flat (exact), inverted lists, HNSW, and the rest.

Every engine returns row numbers and cosines, and fills min(k, allowed rows) slots: nothing is lost to a filter.
Shapes: Q queries, n rows, D values per vector, k neighbours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy as np

from index.exact import NO_HIT, ROUNDING, TopK, best, exact_search, rescore
from index.faiss_runtime import load_faiss, threads
from index.flat import held_vectors
from index.leading import leads

FEW_ROWS = 20_000
FEW_SHARE = 0.02
# Bounds that are found at once, rows of them at least, and rows that are gone through together.
BOUNDED, BOUNDED_ROWS, WINDOW_ROWS = 4 << 20, 8192, 1 << 20
MOST_FETCHED = 16  # times what is fetched at first, to tell ties apart; where that is not enough, all rows are compared
# So few rows that may not be found, such as removed ones, are dropped from what is found without a filter.
DROPPED_SHARE = 0.05
# What it costs, in tenths of a microsecond, measured with vectors of 1280 values; only the ratios count.
# To compare rows by fine codes that are unpacked for all queries together: to unpack a row, to compare it with a query.
# To compare them packed, for each query: to ask whether a row may be found, to compare one that may.
# To go through their lists: to prepare a list for a query, to compare the coarse code of a row.
UNPACK, COMPARE = 22.0, 1.0
ASK, COMPARE_PACKED = 0.015, 3.5
LIST, CODE = 16.0, 1.5
# Candidates of coarse codes per neighbour wanted, compared again by finer ones, where nothing was measured.
K_FACTOR = 8.0
Rows = tuple[np.ndarray, np.ndarray]
Scan = Callable[[np.ndarray, int, np.ndarray], Rows]


class Effort(NamedTuple):
    """How hard an approximate index is searched.

    Attributes:
        visits: nprobe, the lists to visit, or ef_search, the candidates to keep in a graph; 1 and 16 if None.
        k_factor: candidates of coarse codes per neighbour wanted, compared again by finer ones; K_FACTOR if None.
    """

    visits: int | None = None
    k_factor: float | None = None


class Found(NamedTuple):
    """What an engine found.

    Attributes:
        rows: (Q, k) int64, NO_HIT where fewer rows are allowed.
        scores: (Q, k) float32 cosines; nan there.
        how: it was searched, in words.
    """

    rows: np.ndarray
    scores: np.ndarray
    how: str


class Leading(NamedTuple):
    """What tells upper bounds of the cosines with the rows of a flat index, see `index.leading`.

    Attributes:
        axes: (D, m) float32.
        leads: (n, m + 1) float32, of the rows.
    """

    axes: np.ndarray
    leads: np.ndarray


class Engine(Protocol):
    """Search over the rows of one opened FAISS index."""

    effort_name: str
    max_effort: int
    refines: bool

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, effort: Effort) -> Found:
        """The k nearest rows of each query, or all that are allowed where those are fewer.

        Args:
            queries: (Q, D) unit vectors, float32.
            mask: (n,) bool, the rows that may be found; all if None.
        """
        ...

    def by(self, searched: Any) -> None:
        """Search by another index that holds the same rows, such as a copy on a GPU (`index.gpu`)."""
        ...


def open_engine(index: Any, scan: Scan, leading: Leading | None = None) -> Engine:
    """The engine for `index`.

    Args:
        index: to be kept alive by the caller for as long as the engine.
        scan: exact search over stored vectors, for families whose FAISS code takes no filter: from queries (Q, D), k
            and a mask (n,) to rows and cosines.
        leading: bounds for a flat index, if it has them.
    """
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexFlat):
        return FlatEngine(index, leading)
    if faiss.try_extract_index_ivf(index) is not None:
        return IvfEngine(index, scan)
    if isinstance(index, faiss.IndexHNSW):
        return HnswEngine(index, scan)
    return OtherEngine(index, scan)


class FlatEngine:
    """Exact search: FAISS proposes rows, or bounds do, where the vectors have few leading axes; float64 sums over the
    vectors decide scores and ties."""

    effort_name, max_effort, refines = "", 0, False

    def __init__(self, index: Any, leading: Leading | None = None):
        self._index = self._searched = index
        self._leading = leading
        self._vectors = held_vectors(index)

    def by(self, searched: Any) -> None:
        """Let something else propose rows, see `Engine`."""
        self._searched, self._leading = searched, None

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, effort: Effort) -> Found:
        num_rows = len(self._vectors)
        allowed = num_rows if mask is None else int(np.count_nonzero(mask))
        if mask is not None and _few(allowed, num_rows):
            return padded(*exact_search(self._gathered(np.flatnonzero(mask)), queries, k), k, _each(allowed, num_rows))
        if self._leading is not None:
            return padded(*self._bounded(queries, k, mask, self._leading), k, _each(allowed, num_rows))
        parameters = None if mask is None else load_faiss().SearchParameters(sel=selector(mask))
        wanted = min(k, allowed)
        rows = np.full((len(queries), wanted), NO_HIT, dtype=np.int64)
        scores = np.full((len(queries), wanted), -np.inf, dtype=np.float32)
        open_lines, fetch = np.arange(len(queries)), min(allowed, wanted + max(16, wanted // 4))
        most = MOST_FETCHED * fetch
        while len(open_lines) and fetch:
            if fetch > most:  # what is fetched for all lines stands in memory at once
                chosen = np.arange(num_rows) if mask is None else np.flatnonzero(mask)
                found = exact_search(self._gathered(chosen), queries[open_lines], wanted)
                rows[open_lines], scores[open_lines] = found
                break
            # A line is settled when nothing beyond what was fetched can reach its k-th place.
            rough, found = self._searched.search(queries[open_lines], fetch, params=parameters)
            values = rescore(found, queries[open_lines], self._vectors)
            rows[open_lines], scores[open_lines] = best(found, values, wanted)
            unsettled = (rough[:, -1] + ROUNDING >= scores[open_lines, -1]) & (fetch < allowed)
            open_lines, fetch = open_lines[unsettled], min(allowed, fetch * 4)
        return padded(rows, scores, k, _each(allowed, num_rows))

    def _bounded(self, queries: np.ndarray, k: int, mask: np.ndarray | None, leading: Leading) -> Rows:
        found = TopK(queries, k, leads(queries, leading.axes))
        num_rows = len(self._vectors)
        for top in range(0, num_rows, WINDOW_ROWS):
            end = min(top + WINDOW_ROWS, num_rows)
            num_blocks = -(-(end - top) // max(BOUNDED_ROWS, BOUNDED // max(1, len(queries))))
            for start in range(top, top + num_blocks):
                # Rows that are far apart: neighbours lie together, and the sooner some are seen the fewer are compared.
                some = slice(start, end, num_blocks)
                ids = np.arange(start, end, num_blocks)
                found.see(ids, self._vectors[some], leading.leads[some], None if mask is None else mask[some])
        return found.ids, found.scores

    def _gathered(self, rows: np.ndarray):
        step = max(1, (32 << 20) // (4 * self._index.d))
        for start in range(0, len(rows), step):
            yield rows[start : start + step], self._vectors[rows[start : start + step]]


class _Approximate(ABC):
    """Shared by the families whose effort can be raised: a second look for lines that a filter left unfilled."""

    effort_name, max_effort, refines = "", 0, False

    def __init__(self, index: Any, scan: Scan):
        self._index = self._searched = index
        self._scan = scan

    def by(self, searched: Any) -> None:
        """See `Engine`."""
        self._searched = searched

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, effort: Effort) -> Found:
        if _nearly_open(mask) and self._drops:
            return _dropping(self._search, queries, k, mask, effort)
        return self._search(queries, k, mask, effort)

    @property
    def _drops(self) -> bool:
        """Whether few rows that may not be found are better dropped from what is found than filtered out."""
        return not self._takes_filters

    def _search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, effort: Effort) -> Found:
        num_rows = self._index.ntotal
        if mask is not None and not self._takes_filters:
            return padded(*self._scan(queries, k, mask), k, _each(int(np.count_nonzero(mask)), num_rows))
        allowed = num_rows if mask is None else int(np.count_nonzero(mask))
        wanted = min(k, allowed)
        if wanted == 0:
            nothing = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
            return padded(*nothing, k, _each(0, num_rows))
        if mask is not None and (found := self._compared(queries, wanted, mask, allowed)) is not None:
            return padded(*found, k, _each(allowed, num_rows))
        sel = None if mask is None else selector(mask)
        first = visits = self._start(effort.visits, wanted, allowed)
        rows, scores = self._attempt(queries, wanted, sel, effort._replace(visits=visits))
        while visits < self.max_effort and (unfilled := np.flatnonzero((rows == NO_HIT).any(axis=1))).size:
            visits = min(self.max_effort, visits * 2)
            again = self._attempt(queries[unfilled], wanted, sel, effort._replace(visits=visits))
            rows[unfilled], scores[unfilled] = again
        how = self._words(sel is not None, first, visits)
        if (unfilled := np.flatnonzero((rows == NO_HIT).any(axis=1))).size:
            # A graph over the centroids does not lead to every list, however many are asked for.
            rows[unfilled], scores[unfilled] = _scanned(self._scan, queries[unfilled], wanted, mask, num_rows)
            how += f"; {unfilled.size:,} queries compared with all rows"
        return padded(rows, scores, k, how if mask is None else f"{how}, among {allowed:,} of {num_rows:,} rows")

    @cached_property
    def _takes_filters(self) -> bool:
        """Whether FAISS can filter this type; of some codes it says that it cannot."""
        nothing = np.zeros((1, self._index.d), dtype=np.float32)
        try:
            self._attempt(nothing, 1, selector(np.ones(self._index.ntotal, dtype=bool)), Effort(1))
        except RuntimeError:
            return False
        return True

    def _compared(self, queries: np.ndarray, k: int, mask: np.ndarray, allowed: int) -> Rows | None:
        """The answer by comparing with each allowed row; None where going through the index is better."""
        return None

    @abstractmethod
    def _start(self, visits: int | None, wanted: int, allowed: int) -> int:
        """The visits of the first attempt; `allowed` rows pass the filter."""

    @abstractmethod
    def _attempt(self, queries: np.ndarray, k: int, sel: Any, effort: Effort) -> Rows:
        """One search; NO_HIT where too few rows were visited."""

    def _words(self, filtered: bool, first: int, last: int) -> str:
        """What was done; more than at `first` for some queries, where `last` is more."""
        more = f", up to {last:,} where those were not enough" if last > first else ""
        return f"{self.effort_name} {first:,} of {self.max_effort:,}{more}"


class IvfEngine(_Approximate):
    """Inverted lists, bare or inside Refine and vector transforms. Effort is nprobe."""

    effort_name = "nprobe"

    def __init__(self, index: Any, scan: Scan):
        super().__init__(index, scan)
        faiss = load_faiss()
        self.max_effort = int(faiss.extract_index_ivf(index).nlist)
        self.refines = isinstance(index, faiss.IndexRefine)
        self._fine = faiss.downcast_index(index.refine_index) if self.refines else None
        self._kept: tuple[Effort, Any] | None = None

    def _start(self, visits: int | None, wanted: int, allowed: int) -> int:
        visits = visits or 1
        if _few(allowed, self._index.ntotal):
            # Rows outside the filter cost one bit test each, so visiting every list is cheap and loses nothing.
            return self.max_effort
        return min(self.max_effort, -(-visits * self._index.ntotal // allowed))

    def _attempt(self, queries: np.ndarray, k: int, sel: Any, effort: Effort) -> Rows:
        return _by_distance(self._searched, queries, k, self._parameters(sel, effort))

    def _parameters(self, sel: Any, effort: Effort) -> Any:
        # Those without a filter are kept for the next query: to make them takes a tenth of what a query takes.
        if sel is None and (kept := self._kept) is not None and kept[0] == effort:
            return kept[1]
        lists = load_faiss().SearchParametersIVF(nprobe=effort.visits, sel=sel)
        made = _nested(self._index, lists, effort.k_factor or K_FACTOR)
        if sel is None:
            self._kept = effort, made
        return made

    def _compared(self, queries: np.ndarray, k: int, mask: np.ndarray, allowed: int) -> Rows | None:
        num_rows, num_queries = self._index.ntotal, len(queries)
        if self._fine is None or not _few(allowed, num_rows):
            return None
        unpacked = allowed * (UNPACK + COMPARE * num_queries)
        packed = num_queries * (ASK * num_rows + COMPARE_PACKED * allowed)
        if num_queries * (LIST * self.max_effort + CODE * allowed) < min(unpacked, packed):
            return None
        if packed < unpacked:
            # FAISS would wait for threads that have nothing to do.
            with threads(len(queries)):
                return _by_distance(self._fine, queries, k, load_faiss().SearchParameters(sel=selector(mask)))
        rows = np.flatnonzero(mask)
        step = max(1, (32 << 20) // (4 * self._index.d))
        blocks = (rows[start : start + step] for start in range(0, len(rows), step))
        return exact_search(((block, self._fine.reconstruct_batch(block)) for block in blocks), queries, k)


class HnswEngine(_Approximate):
    """A graph. Effort is ef_search; a filter that is not nearly open is answered by scanning the graph's storage."""

    effort_name = "ef_search"

    def __init__(self, index: Any, scan: Scan):
        super().__init__(index, scan)
        self.max_effort = max(1, int(index.ntotal))
        self._storage = load_faiss().downcast_index(index.storage)

    @property
    def _drops(self) -> bool:
        return True  # the graph takes no filter

    def _start(self, visits: int | None, wanted: int, allowed: int) -> int:
        return min(self.max_effort, max(visits or 16, wanted))

    def _attempt(self, queries: np.ndarray, k: int, sel: Any, effort: Effort) -> Rows:
        faiss = load_faiss()
        if sel is not None or effort.visits == self.max_effort:
            return _by_distance(self._storage, queries, k, faiss.SearchParameters(sel=sel) if sel else None)
        return _by_distance(self._index, queries, k, faiss.SearchParametersHNSW(efSearch=effort.visits))

    def _words(self, filtered: bool, first: int, last: int) -> str:
        return "the graph's vectors compared one by one" if filtered else super()._words(filtered, first, last)


class OtherEngine:
    """Any other type: searched as FAISS does without a filter, exactly over the stored vectors with one, unless that is
    nearly open."""

    effort_name, max_effort = "", 0

    def __init__(self, index: Any, scan: Scan):
        self._index = index
        self._scan = scan
        self.refines = isinstance(index, load_faiss().IndexRefine)

    def by(self, searched: Any) -> None:
        """See `Engine`; `index.gpu` refuses what is searched here."""
        self._index = searched

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, effort: Effort) -> Found:
        if _nearly_open(mask):
            return _dropping(self._search, queries, k, mask, effort)
        return self._search(queries, k, mask, effort)

    def _search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, effort: Effort) -> Found:
        num_rows = self._index.ntotal
        if mask is not None:
            return padded(*self._scan(queries, k, mask), k, _each(int(np.count_nonzero(mask)), num_rows))
        wanted = min(k, num_rows)
        coarse = _nested(self._index, None, effort.k_factor or K_FACTOR) if self.refines else None
        rows, scores = _by_distance(self._index, queries, wanted, coarse)
        if (unfilled := np.flatnonzero((rows == NO_HIT).any(axis=1))).size:
            rows[unfilled], scores[unfilled] = _scanned(self._scan, queries[unfilled], wanted, mask, num_rows)
        return padded(rows, scores, k, "as FAISS searches this type")


def _dropping(search: Callable[..., Found], queries: np.ndarray, k: int, mask: np.ndarray, effort: Effort) -> Found:
    """Search for some more than k without a filter, and drop what may not be found; with the filter where too few are
    left."""
    allowed = int(np.count_nonzero(mask))
    wanted, gone = min(k, allowed), len(mask) - allowed
    fetch = min(len(mask), wanted + min(gone, wanted + 16))
    rows, scores = _living(search(queries, fetch, None, effort), mask, wanted)
    how = f"{fetch:,} neighbours, without {gone:,} of {len(mask):,} rows"
    if (unfilled := np.flatnonzero((rows == NO_HIT).any(axis=1))).size:
        again = search(queries[unfilled], wanted, mask, effort)
        rows[unfilled], scores[unfilled] = again.rows, again.scores
        how += f"; for {unfilled.size:,} queries {again.how}"
    return padded(rows, scores, k, how)


def _living(found: Found, mask: np.ndarray, k: int) -> Rows:
    """The first k of each line that may be found; NO_HIT and -inf where they are fewer."""
    gone = (found.rows == NO_HIT) | ~mask[found.rows]
    order = np.argsort(gone, axis=1, kind="stable")[:, :k]
    rows, scores = np.where(gone, NO_HIT, found.rows), np.where(gone, np.float32(-np.inf), found.scores)
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


def _nearly_open(mask: np.ndarray | None) -> TypeGuard[np.ndarray]:
    return mask is not None and bool(np.count_nonzero(mask) >= (1 - DROPPED_SHARE) * len(mask))


def _scanned(scan: Scan, queries: np.ndarray, k: int, mask: np.ndarray | None, num_rows: int) -> Rows:
    return scan(queries, k, np.ones(num_rows, dtype=bool) if mask is None else mask)


def _by_distance(index: Any, queries: np.ndarray, k: int, parameters: Any) -> Rows:
    """Search by squared distance d2 between unit vectors, whose cosine is 1 - d2 / 2."""
    distances, rows = index.search(queries, k, params=parameters)
    scores = np.clip(1 - distances / 2, -1, 1).astype(np.float32)
    scores[rows == NO_HIT] = -np.inf
    return rows, scores


def selector(mask: np.ndarray) -> Any:
    """FAISS's filter for the rows set in `mask` (n,) bool."""
    return load_faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def padded(rows: np.ndarray, scores: np.ndarray, k: int, how: str) -> Found:
    """`rows` and `scores` widened to k columns, empty slots NO_HIT and nan."""
    short = ((0, 0), (0, k - rows.shape[1]))
    if not short[1][1] and rows.min(initial=0) > NO_HIT:
        return Found(rows, scores, how)
    rows = np.pad(rows, short, constant_values=NO_HIT)
    scores = np.pad(scores, short, constant_values=np.nan)
    return Found(rows, np.where(rows == NO_HIT, np.float32(np.nan), scores), how)


def _each(allowed: int, num_rows: int) -> str:
    """In words: what was compared with every query."""
    return f"{allowed:,} of {num_rows:,} rows compared one by one" if allowed < num_rows else "exact: all rows compared"


def _few(allowed: int, num_rows: int) -> bool:
    return allowed < num_rows and allowed <= max(FEW_ROWS, FEW_SHARE * num_rows)


def _nested(index: Any, parameters: Any, k_factor: float) -> Any:
    """`parameters` of the inverted lists, wrapped for what stands around them."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        inner = _nested(index.base_index, parameters, k_factor)
        return faiss.IndexRefineSearchParameters(k_factor=k_factor, base_index_params=inner)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_nested(index.index, parameters, k_factor))
    return parameters
