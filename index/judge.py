"""Whether what a search found is right.

Queries are stored vectors, their own row left out. A found sequence counts if its distance is at most that of the true
k-th neighbour times 1 + TIE: sequences that are nearly alike stand at nearly the same distance, and any of them is as
good as another.

Shapes: Q queries, E values of a vector as it is indexed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from index.exact import NO_HIT
from index.segments import Segments
from index.transforms import Transform
from index.truth import KEPT, NEIGHBOURS, Queries, Truth
from index.vectors import take

TIE = 1e-3
# How far the cosines of two vectors may stand from each other for how they were summed and stored.
SUMS = 3e-7


class Recall(NamedTuple):
    """recall@10 of some queries.

    Attributes:
        value: the mean over the queries.
        error: its standard error.
    """

    value: float
    error: float


class Judge:
    """The true neighbours of some stored vectors.

    Attributes:
        queries: what is searched for.
    """

    def __init__(self, segments: Segments, transform: Transform, queries: Queries, truth: Truth):
        """Take what stands nearest to each query, itself among it or not: KEPT sequences, or all that may be found."""
        self.queries = queries
        self._segments, self._transform = segments, transform
        others = [
            (ids[ids != own], cosines[ids != own].astype(np.float64))
            for own, ids, cosines in zip(queries.seq_ids, *truth, strict=True)
        ]
        self._wanted = min(NEIGHBOURS, *(len(ids) for ids, _ in others))
        self._right: list[dict[int, bool]] = []
        self._floors = np.empty(len(others))
        for line, (ids, values) in enumerate(others):
            farthest = np.sqrt(max(0.0, 2 - 2 * values[self._wanted - 1])) * (1 + TIE)
            self._floors[line] = 1 - farthest**2 / 2 - SUMS
            self._right.append(dict(zip(ids.tolist(), (values >= self._floors[line]).tolist(), strict=True)))
        self._whole = truth.seq_ids.shape[1] < KEPT

    @classmethod
    def by_search(
        cls, segments: Segments, transform: Transform, rows: np.ndarray, masks: Sequence[np.ndarray] | None = None
    ) -> Judge:
        """Find the neighbours by exact search over the stored vectors.

        Args:
            rows: (Q,) which vectors are the queries, as rows of the whole index; of those that may be found.
            masks: for each segment the rows that may be found, (n,) bool; all if None.
        """
        seq_ids = segments.all_seq_ids[rows]
        vectors = transform.apply(take(segments.parts, rows, transform.dimension), seq_ids, "seq_id")
        return cls(segments, transform, Queries(seq_ids, vectors), Truth(*segments.exact(vectors, KEPT, masks)))

    def recall(self, found: np.ndarray, lines: np.ndarray | None = None) -> Recall:
        """Of what a search found for the queries, or for some `lines` (n,) of them.

        Args:
            found: (n, 11 or more) seq_ids, the query itself among them or not.
        """
        lines = np.arange(len(self.queries.seq_ids)) if lines is None else lines
        answers = {
            int(line): [int(id_) for id_ in row if id_ not in (NO_HIT, self.queries.seq_ids[line])][: self._wanted]
            for line, row in zip(lines, found, strict=True)
        }
        self._look_up(answers)
        shares = [sum(self._right[line].get(id_, False) for id_ in ids) / self._wanted for line, ids in answers.items()]
        return Recall(float(np.mean(shares)), float(np.std(shares) / np.sqrt(len(shares))))

    def _look_up(self, answers: dict[int, list[int]]) -> None:
        """Compare what is not among the true neighbours either, where more stand as near as those."""
        if self._whole:
            return
        unknown = [
            (line, id_)
            for line, ids in answers.items()
            if all(self._right[line].values())
            for id_ in ids
            if id_ not in self._right[line]
        ]
        if not unknown:
            return
        places, ids = np.array(unknown).T
        distinct, where = np.unique(ids, return_inverse=True)
        stored = take(self._segments.parts, self._segments.rows_of(distinct), self._transform.dimension)
        vectors = self._transform.apply(stored, distinct, "seq_id")
        cosines = np.einsum(
            "ne,ne->n", vectors[where].astype(np.float64), self.queries.vectors[places].astype(np.float64)
        )
        for (line, id_), cosine in zip(unknown, cosines, strict=True):
            self._right[line][id_] = bool(cosine >= self._floors[line])
