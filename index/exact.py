"""Exact nearest neighbours by brute force: the judge of every index, and the search where few rows are allowed.

Shapes: Q queries, n rows, D values per vector, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

NO_HIT = -1
# How far a float32 dot product of unit vectors (D up to some thousands) may stand from its exact value.
ROUNDING = 2e-6
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
        had, scores = self.ids[lines], self.scores[lines]
        rough = self._asked[lines] @ proposals.T
        if allowed is not None:
            rough[:, ~allowed] = -np.inf
        kept = min(self._k, had.shape[1] + (len(ids) if allowed is None else int(np.count_nonzero(allowed))))
        if had.shape[1] < self._k:
            # The k-th best of those that look best is a floor for all others.
            some = min(self._k, len(ids))
            first = np.argpartition(rough, len(ids) - some, axis=1)[:, len(ids) - some :]
            looking = np.take_along_axis(rough, first, 1) > -np.inf
            places = np.nonzero(looking)[0], first[looking]
            had, scores = self._with(had, scores, places, lines, ids, vectors, kept)
            rough[places] = -np.inf
        floors = scores[:, -1] if had.shape[1] == self._k else np.full(len(had), NOTHING, np.float32)
        # What is below the k-th place cannot come in any more.
        line, row = np.nonzero(rough >= (floors - ROUNDING)[:, None])
        return self._with(had, scores, (line, row), lines, ids, vectors, kept)

    def _with(
        self,
        had: np.ndarray,
        scores: np.ndarray,
        places: tuple[np.ndarray, np.ndarray],
        lines: slice,
        ids: np.ndarray,
        vectors: np.ndarray,
        kept: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best of what there was and of some pairs of a line and a row."""
        line, row = places
        if len(line) == 0:
            return had, scores
        exact = _of_pairs(self._queries[lines], vectors, line, row)
        order = np.lexsort((ids[row], -exact, line))
        line, found, exact = line[order], ids[row[order]], exact[order]
        rank = np.arange(len(line)) - np.searchsorted(line, line)
        width = min(kept, int(rank.max()) + 1)
        good = rank < width
        new_ids = np.full((len(had), width), NO_HIT, dtype=np.int64)
        new_scores = np.full((len(had), width), -np.inf, dtype=np.float32)
        new_ids[line[good], rank[good]] = found[good]
        new_scores[line[good], rank[good]] = exact[good]
        return best(np.hstack([had, new_ids]), np.hstack([scores, new_scores]), kept)


def _of_pairs(queries: np.ndarray, vectors: np.ndarray, line: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Cosines, as `rescore` has them, of queries[line] with vectors[row]: (p,) float32."""
    scores = np.empty(len(line), dtype=np.float32)
    step = max(1, _CHUNK_BYTES // (16 * queries.shape[1]))
    for start in range(0, len(line), step):
        some = slice(start, start + step)
        wide = vectors[row[some]].astype(np.float64)
        scores[some] = np.einsum("pd,pd->p", wide, queries[line[some]].astype(np.float64))
    return np.clip(scores, -1, 1, out=scores)
