"""Exact nearest neighbours by brute force: the judge of every index, and the search where few rows are allowed.

Shapes: Q queries, n rows, D values per vector, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

NO_HIT = -1
# How far a float32 dot product of unit vectors (D up to some thousands) may stand from its exact value.
ROUNDING = 2e-6
# What it costs to compare a vector with one query alone, and to have it in order in memory first, in times of what it
# costs with many queries. Measured with 512 and with 1280 values; what FAISS maps from a file is not in order.
ALONE, COPY = 120, 50
# Where more than MANY times k rows of a line are open, some that look best are looked at first. Those are the best of
# groups of GROUP rows: to find the highest of all takes longer than to make the products.
MANY, GROUP = 4, 16
NOTHING = -3.0  # below any cosine, and any bound of one
_CHUNK_BYTES = 64 << 20
_BLOCK_BYTES = 16 << 20


def best(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each line by (score descending, id ascending).

    Args:
        ids: (Q, m) int64; NO_HIT stands for an empty slot, whose score is -inf.
        scores: (Q, m) float32.

    Returns:
        ids and scores, (Q, min(k, m)).
    """
    if scores.shape[1] <= k and (scores[:, 1:] < scores[:, :-1]).all():  # which is what most single queries give
        return ids, scores
    order = np.lexsort((ids, -scores))[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)


def rescore(candidates: np.ndarray, queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Cosines of unit vectors, summed in float64 in one order, so that equal vectors score alike wherever they stand.

    Args:
        candidates: (Q, m) rows of `vectors`; NO_HIT gives -inf.
        queries: (Q, D) unit, float32. vectors: (n, D) unit, float32.

    Returns:
        (Q, m) float32.
    """
    scores = np.empty(candidates.shape, dtype=np.float32)
    num_candidates, dimension = candidates.shape[1], queries.shape[1]
    width = max(1, min(num_candidates, _CHUNK_BYTES // (8 * dimension)))
    height = max(1, _CHUNK_BYTES // (8 * dimension * width))
    for top in range(0, len(queries), height):
        wide = queries[top : top + height].astype(np.float64)
        for left in range(0, num_candidates, width):
            block = candidates[top : top + height, left : left + width]
            gathered = vectors[np.maximum(block, 0)].astype(np.float64)
            scores[top : top + height, left : left + width] = np.einsum("qmd,qd->qm", gathered, wide)
    np.clip(scores, -1, 1, out=scores)
    scores[candidates == NO_HIT] = -np.inf
    return scores


def exact_search(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Top k over streamed blocks of unit vectors.

    Args:
        blocks: ids (n,) and unit vectors (n, D) float32, any number of times.
        queries: (Q, D) unit, float32.

    Returns:
        ids (Q, k') and cosines (Q, k') with k' = min(k, rows seen), by (score descending, id ascending).
    """
    found = TopK(queries, k)
    for ids, vectors in blocks:
        found.see(ids, vectors)
    return found.ids, found.scores


class TopK:
    """The k best of each query among all that was seen; ties at the edge of float32 rounding are settled by float64.

    Attributes:
        ids, scores: (Q, k') with k' = min(k, rows seen), by (score descending, id ascending).
    """

    def __init__(self, queries: np.ndarray, k: int, asked: np.ndarray | None = None):
        """Take queries (Q, D), unit, float32.

        Args:
            asked: (Q, m) float32: its products with the `proposals` of `see` are upper bounds of the cosines. The
                queries themselves, whose products are the cosines, if None.
        """
        self._queries, self._k = queries, k
        self._asked = queries if asked is None else asked
        self.ids = np.empty((len(queries), 0), dtype=np.int64)
        self.scores = np.empty((len(queries), 0), dtype=np.float32)

    def see(
        self,
        ids: np.ndarray,
        vectors: np.ndarray,
        proposals: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> None:
        """Compare all queries with ids (n,) and unit vectors (n, D) float32.

        Args:
            proposals: (n, m) float32, what goes with `asked`.
            allowed: (n,) bool, which of them count; all if None.
        """
        if len(ids) == 0 or len(self._queries) == 0:
            return
        proposals = vectors if proposals is None else proposals
        height = max(1, _BLOCK_BYTES // (4 * len(ids)))
        seen = [
            self._merged(slice(top, top + height), ids, vectors, proposals, allowed)
            for top in range(0, len(self._queries), height)
        ]
        self.ids, self.scores = (np.concatenate(each) for each in zip(*seen, strict=True))

    def _merged(
        self,
        lines: slice,
        ids: np.ndarray,
        vectors: np.ndarray,
        proposals: np.ndarray,
        allowed: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        block = _Block(self._queries[lines], ids, vectors)
        rough = self._asked[lines] @ proposals.T
        if allowed is not None:
            rough[:, ~allowed] = -np.inf
        seen = self.ids.shape[1] + (len(ids) if allowed is None else int(np.count_nonzero(allowed)))
        best_so_far = _Best(self.ids[lines], self.scores[lines], self._k, min(self._k, seen))
        places = best_so_far.open_places(rough, block)
        if proposals is not vectors:
            if ALONE * len(places[0]) > len(ids) * (len(rough) + COPY):
                # Bounds that tell so few apart: cosines do.
                rough = np.where(rough == -np.inf, rough, block.all_cosines())
                places = best_so_far.open_places(rough, block)
            else:
                near = block.cosines(*places, np.float32) >= best_so_far.floors[places[0]] - ROUNDING
                places = places[0][near], places[1][near]
        best_so_far.take(places, block)
        return best_so_far.ids, best_so_far.scores


class _Block(NamedTuple):
    """Queries (q, D) and the vectors (n, D) that they are compared with, unit, float32; ids (n,) of these."""

    queries: np.ndarray
    ids: np.ndarray
    vectors: np.ndarray

    def all_cosines(self) -> np.ndarray:
        """Of every query with every vector, (q, n) float32, up to ROUNDING."""
        scores = np.empty((len(self.queries), len(self.ids)), dtype=np.float32)
        step = max(1, _CHUNK_BYTES // (4 * self.queries.shape[1]))
        for start in range(0, len(self.ids), step):
            some = slice(start, start + step)
            np.matmul(self.queries, np.require(self.vectors[some], requirements="A").T, out=scores[:, some])
        return scores

    def cosines(self, line: np.ndarray, row: np.ndarray, dtype: type = np.float64) -> np.ndarray:
        """Of queries[line] with vectors[row], (p,) float32; summed in float64 they are those of `rescore`."""
        scores = np.empty(len(line), dtype=np.float32)
        step = max(1, _CHUNK_BYTES // (16 * self.queries.shape[1]))
        for start in range(0, len(line), step):
            some = slice(start, start + step)
            found, asked = self.vectors[row[some]], self.queries[line[some]]
            scores[some] = np.einsum("pd,pd->p", found.astype(dtype, copy=False), asked.astype(dtype, copy=False))
        return np.clip(scores, -1, 1, out=scores)


class _Best:
    """The best of some queries so far, while a block is compared with them.

    Attributes:
        ids, scores: (q, k') by (score descending, id ascending); NO_HIT and -inf where a line has fewer yet.
    """

    def __init__(self, ids: np.ndarray, scores: np.ndarray, k: int, kept: int):
        """Take what there was; `kept`, k or less, is what there will be of each line when the block is done."""
        self.ids, self.scores, self._k, self._kept = ids, scores, k, kept

    @property
    def floors(self) -> np.ndarray:
        """What a rough cosine of each line has to reach, (q,), so that its row may be among the k best."""
        if self.ids.shape[1] < self._k:
            return np.full(len(self.ids), NOTHING, np.float32)
        return np.maximum(self.scores[:, -1] - np.float32(ROUNDING), np.float32(NOTHING))

    def open_places(self, rough: np.ndarray, block: _Block) -> tuple[np.ndarray, np.ndarray]:
        """Lines and rows, (p,) each, that may be among the k best; -inf in `rough` is set where it was looked at.

        Args:
            rough: (q, n) float32, cosines or upper bounds of them; -inf where a row does not count.
        """
        open_ = rough >= self.floors[:, None]
        if np.count_nonzero(open_) > MANY * self._k * len(rough):
            # Some that look good are looked at first: they raise the floors.
            places = _promising(rough, self._k)
            self.take(places, block)
            rough[places] = -np.inf
            open_ = rough >= self.floors[:, None]
        return np.divmod(np.flatnonzero(open_), rough.shape[1])  # np.nonzero takes five times as long

    def take(self, places: tuple[np.ndarray, np.ndarray], block: _Block) -> None:
        """Take in pairs of a line and a row, by their exact scores."""
        line, row = places
        if len(line) == 0:
            return
        exact = block.cosines(line, row)
        order = np.lexsort((block.ids[row], -exact, line))
        line, found, exact = line[order], block.ids[row[order]], exact[order]
        rank = np.arange(len(line)) - np.searchsorted(line, line)
        width = min(self._kept, int(rank.max()) + 1)
        good = rank < width
        ids = np.full((len(self.ids), width), NO_HIT, dtype=np.int64)
        scores = np.full((len(self.ids), width), -np.inf, dtype=np.float32)
        ids[line[good], rank[good]] = found[good]
        scores[line[good], rank[good]] = exact[good]
        self.ids, self.scores = best(np.hstack([self.ids, ids]), np.hstack([self.scores, scores]), self._kept)


def _promising(rough: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines and rows of k or more values that are high in each line of (q, n): the highest of the k best groups."""
    num_rows = rough.shape[1]
    if num_rows < 2 * k * GROUP:
        some = min(k, num_rows)
        rows = np.argpartition(rough, num_rows - some, axis=1)[:, num_rows - some :]
    else:
        width = num_rows // GROUP
        groups = rough[:, : width * GROUP].reshape(len(rough), GROUP, width)
        best_groups = np.argpartition(groups.max(1), width - k, axis=1)[:, width - k :]
        within = np.take_along_axis(groups, best_groups[:, None], 2).argmax(1)
        rows = within * width + best_groups
    lines = np.repeat(np.arange(len(rough)), rows.shape[1])
    rows = rows.ravel()
    good = rough[lines, rows] > -np.inf
    return lines[good], rows[good]
