"""How hard an approximate index has to be searched for a recall, and what recall it has: measured, not promised.

Queries are stored vectors, their own row left out: none that the lists were learned from, where there are enough
others. An index that grew is measured with the same ones, over all of it.

A found sequence counts if its distance is at most that of the true k-th neighbour times 1 + TIE: sequences that are
nearly alike stand at nearly the same distance, and any of them is as good as another.

Shapes: Q queries, E values of a vector as it is indexed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from index.engines import Effort
from index.errors import StoreError
from index.exact import NO_HIT, ROUNDING
from index.info import TARGET
from index.segments import Segments
from index.transforms import Transform
from index.truth import KEPT, NEIGHBOURS, Queries, Truth
from index.vectors import take

TIE = 1e-3
K_FACTORS = (2.0, 4.0, 8.0, 16.0)
ENOUGH = 0.9995
# Where twice the visits twice brought no more than this, further ones bring nothing: the codes are what errs.
PLATEAU = 0.001


class Judge:
    """The true neighbours of some stored vectors."""

    def __init__(self, segments: Segments, transform: Transform, queries: Queries, truth: Truth):
        """Take what stands nearest to each query, itself among it or not: KEPT sequences, or all that may be found."""
        self._parts, self._transform = segments.parts, transform
        self._all_ids = np.concatenate([np.empty(0, np.int64), *segments.seq_ids])
        self.queries = queries
        self._others = [
            (ids[ids != own], cosines[ids != own].astype(np.float64))
            for own, ids, cosines in zip(queries.seq_ids, *truth, strict=True)
        ]
        self._wanted = min(NEIGHBOURS, *(len(ids) for ids, _ in self._others))
        self._right: list[dict[int, bool]] = []
        self._floors = np.empty(len(self._others))
        for line, (ids, values) in enumerate(self._others):
            farthest = np.sqrt(max(0.0, 2 - 2 * values[self._wanted - 1])) * (1 + TIE)
            self._floors[line] = 1 - farthest**2 / 2 - ROUNDING
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
        seq_ids = np.concatenate(segments.seq_ids)[rows]
        vectors = transform.apply(take(segments.parts, rows, transform.dimension), seq_ids, "seq_id")
        return cls(segments, transform, Queries(seq_ids, vectors), Truth(*segments.exact(vectors, KEPT, masks)))

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self._all_ids)

    def recall(self, found: np.ndarray) -> float:
        """Of what a search for the queries found: seq_ids (Q, 11 or more), the query itself among them or not."""
        lines = [
            [int(id_) for id_ in row if id_ not in (NO_HIT, own)][: self._wanted]
            for row, own in zip(found, self.queries.seq_ids, strict=True)
        ]
        self._look_up(lines)
        hit = sum(right.get(id_, False) for ids, right in zip(lines, self._right, strict=True) for id_ in ids)
        return hit / (self._wanted * len(lines))

    def _look_up(self, lines: Sequence[Sequence[int]]) -> None:
        """Compare what is not among the true neighbours either, where more stand as near as those."""
        if self._whole:
            return
        unknown = [
            (line, id_)
            for line, ids in enumerate(lines)
            if all(self._right[line].values())
            for id_ in ids
            if id_ not in self._right[line]
        ]
        if not unknown:
            return
        places, ids = np.array(unknown).T
        distinct, where = np.unique(ids, return_inverse=True)
        rows = self._order[np.searchsorted(self._all_ids, distinct, sorter=self._order)]
        vectors = self._transform.apply(take(self._parts, rows, self._transform.dimension), distinct, "seq_id")
        cosines = np.einsum(
            "ne,ne->n", vectors[where].astype(np.float64), self.queries.vectors[places].astype(np.float64)
        )
        for (line, id_), cosine in zip(unknown, cosines, strict=True):
            self._right[line][id_] = bool(cosine >= self._floors[line])


def measure(segments: Segments, judge: Judge, target: float = TARGET) -> dict[str, Any]:
    """Search with rising effort, and choose what reaches `target` in the least time.

    Returns:
        What index.json calls "operating", see `IndexInfo`.

    Raises:
        StoreError: no effort reaches the target.
    """
    points = list(_points(segments, judge, target))
    chosen = _cheapest(points, target)
    if chosen is None:
        most = _most(points)
        raise StoreError(
            f"this type reaches a recall@10 of {most:g} at most, and {target:g} is asked for: take another (such as "
            f"flat, HNSW32, or one with Refine(SQfp16) at its end), or ask for less: --recall {most:g}"
        )
    best = {name: value for name, value in chosen.items() if name != "ms"}
    return {"target": target, **best, "sample": len(judge.queries.seq_ids), "points": points}


def effort_for(operating: dict[str, Any], name: str, recall: float | None = None) -> Effort:
    """The effort that was measured to reach `recall`, or the target of the index if None.

    Args:
        operating: of index.json; `name` is the engine's `effort_name`.

    Raises:
        StoreError: none did.
    """
    point = operating
    if recall is not None and operating:
        point = _cheapest(operating["points"], recall) or {}
        if not point:
            most = _most(operating["points"])
            raise StoreError(f"recall {recall:g}: this index was measured to reach {most:g} at most; search exactly")
    return Effort(point.get(name), point.get("k_factor"))


def _cheapest(points: Sequence[dict[str, Any]], recall: float) -> dict[str, Any] | None:
    """The fastest of the least efforts that reach `recall`, one for each k_factor: times alone are told by chance."""
    least: dict[float | None, dict[str, Any]] = {}
    for point in points:  # by rising effort
        if point["recall_at_10"] >= recall:
            least.setdefault(point.get("k_factor"), point)
    return min(least.values(), key=lambda point: point["ms"], default=None)


def _most(points: Sequence[dict[str, Any]]) -> float:
    return max(point["recall_at_10"] for point in points)


def timed(segments: Segments, queries: np.ndarray, effort: Effort) -> tuple[np.ndarray, float]:
    """Search for k = NEIGHBOURS + 1: seq_ids, and milliseconds per query."""
    begun = time.perf_counter()
    found, _, _ = segments.search(queries, NEIGHBOURS + 1, None, effort)
    return found, 1e3 * (time.perf_counter() - begun) / len(queries)


def _points(segments: Segments, judge: Judge, target: float) -> Iterator[dict[str, Any]]:
    """What was measured, by rising effort: the effort, "recall_at_10", and "ms" for a query of a batch."""
    name, refines = segments.engine.effort_name, segments.engine.refines
    most = max(each.max_effort for each in segments.engines)

    def point(effort: Effort) -> dict[str, Any]:
        found, milliseconds = timed(segments, judge.queries.vectors, effort)
        said = {name: effort.visits, "k_factor": effort.k_factor}
        return {
            **{name: value for name, value in said.items() if value is not None},
            # Rounded so that what is said is not more than what was measured.
            "recall_at_10": float(np.floor(judge.recall(found) * 1e4 + 1e-6) / 1e4),
            "ms": round(milliseconds, 4),
        }

    reached = 0.0
    k_factor = visits = None
    for k_factor in K_FACTORS if refines else (None,):
        recalls: list[float] = []
        for visits in _visits(name, most):
            measured = point(Effort(visits, k_factor))
            yield measured
            recalls.append(measured["recall_at_10"])
            flat = len(recalls) > 4 and recalls[-1] - recalls[-3] <= PLATEAU
            if recalls[-1] >= max(ENOUGH, target) or flat:
                break
        reached = max(reached, *recalls)
    if reached < target and visits is not None and visits < most:
        # Nothing is refused for a rise that came too late.
        yield point(Effort(most, k_factor))


def _visits(name: str, most: int) -> Iterator[int | None]:
    """By doubling, up to all that there is."""
    if not name:
        yield None
        return
    visits = 1 if name == "nprobe" else 16
    while visits < most:
        yield visits
        visits *= 2
    yield most
