"""Exact nearest neighbours by brute force: the judge of every index, and the search where few rows are allowed.

Shapes: Q queries, n rows, D values per vector, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

NO_HIT = -1
# How far a float32 dot product of unit vectors (D up to some thousands) may stand from its exact value.
ROUNDING = 2e-6
_CHUNK_BYTES = 64 << 20


def best(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each line by (score descending, id ascending).

    Args:
        ids: (Q, m) int64; NO_HIT stands for an empty slot, whose score is -inf.
        scores: (Q, m) float32.

    Returns:
        ids and scores, (Q, min(k, m)).
    """
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
    """The k best of each query among all that was seen; ties at the edge of float32 rounding are settled by `rescore`.

    Attributes:
        ids, scores: (Q, k') with k' = min(k, rows seen), by (score descending, id ascending).
    """

    def __init__(self, queries: np.ndarray, k: int):
        self._queries, self._k = queries, k
        self.ids = np.empty((len(queries), 0), dtype=np.int64)
        self.scores = np.empty((len(queries), 0), dtype=np.float32)

    def see(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Compare all queries with ids (n,) and unit vectors (n, D) float32."""
        if len(ids) == 0 or len(self._queries) == 0:
            return
        height = max(1, _CHUNK_BYTES // (4 * len(ids)))
        seen = [self._merged(slice(top, top + height), ids, vectors) for top in range(0, len(self._queries), height)]
        self.ids, self.scores = (np.concatenate(each) for each in zip(*seen, strict=True))

    def _merged(self, lines: slice, ids: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        queries, had, scores = self._queries[lines], self.ids[lines], self.scores[lines]
        rough = queries @ vectors.T
        if had.shape[1] == self._k:  # what is below the k-th place cannot come in any more
            floors = scores[:, -1] - ROUNDING
        else:
            keep = min(self._k, len(ids))
            # Twice: both sides are rough.
            floors = np.partition(rough, len(ids) - keep, axis=1)[:, len(ids) - keep] - 2 * ROUNDING
        above = rough >= floors[:, None]
        width = min(self._k, int(above.sum(axis=1).max()))
        found = np.full((len(queries), width), NO_HIT, dtype=np.int64)
        values = np.full((len(queries), width), -np.inf, dtype=np.float32)
        for line in np.flatnonzero(above.any(axis=1)):
            rows = np.flatnonzero(above[line])
            exact = rescore(rows[None], queries[line : line + 1], vectors)
            chosen, scored = best(ids[rows][None], exact, width)
            found[line, : chosen.shape[1]], values[line, : chosen.shape[1]] = chosen[0], scored[0]
        kept = min(self._k, had.shape[1] + len(ids))
        return best(np.hstack([had, found]), np.hstack([scores, values]), kept)
