"""How hard an approximate index has to be searched for a recall, and what recall it has: measured, not promised."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from index.engines import Effort
from index.errors import QuestionError, StoreError
from index.info import TARGET
from index.judge import Judge
from index.segments import Segments
from index.truth import NEIGHBOURS

# Queries that every effort is tried with; the one that is chosen is measured with all.
TRIED = 200
K_FACTORS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
# Where a search of so few lists that it found less than this share of what the most lists find, it is the lists that
# limit it, and more candidates of them bring nothing. The target is the share where it is less: such efforts may do.
LIMITED = 0.9
ENOUGH = 0.9995
# Where twice the visits twice brought no more than this, further ones bring nothing: the codes are what errs.
PLATEAU = 0.001
# Times of one trial are told by chance; of those to choose from the best of so many counts.
REPEATS = 3
Point = dict[str, Any]


def measure(segments: Segments, judge: Judge, target: float = TARGET) -> dict[str, Any]:
    """Search with rising effort, and choose what reaches `target` in the least time.

    What is chosen reaches it by a standard error more, so that another sample would hardly say otherwise; where no
    effort does, the most that reaches it at all.

    Returns:
        What index.json calls "operating", see `IndexInfo`.

    Raises:
        StoreError: no effort reaches the target.
    """
    points = list(_points(segments, judge, target))
    num_queries = len(judge.queries.seq_ids)
    everything = np.arange(num_queries)
    while True:
        surely = [point for point in points if point["recall_at_10"] - point["error"] >= target]
        least = _least(surely, target) or [max(points, key=lambda point: (point["recall_at_10"], -point["ms"]))]
        open_ = [point for point in least if not point["sure"]]
        if not open_:
            break
        for point in open_:
            effort = Effort(point.get(segments.engine.effort_name), point.get("k_factor"))
            points[points.index(point)] = _tried(segments, judge, effort, everything, REPEATS)
    chosen = min(least, key=lambda point: point["ms"])
    if chosen["recall_at_10"] < target:
        most = _most(points)
        other = "flat or HNSW32" if segments.engine.refines else "flat, or one with Refine(SQfp16) at its end"
        raise StoreError(
            f"this type was measured to reach a recall@10 of {most:g}, and {target:g} is asked for: take another (such "
            f"as {other}), or ask for less: --recall {most:g}"
        )
    best = {name: value for name, value in chosen.items() if name not in ("ms", "sure")}
    return {"target": target, **best, "sample": num_queries, "points": points}


def effort_for(operating: dict[str, Any], name: str, recall: float | None = None) -> Effort:
    """The effort that was measured to reach `recall`, or the target of the index if None.

    Args:
        operating: of index.json; `name` is the engine's `effort_name`.

    Raises:
        StoreError: none did.
    """
    point = operating
    if recall is not None and operating:
        point = min(_least(operating["points"], recall), key=lambda point: point["ms"], default={})
        if not point:
            most = _most(operating["points"])
            raise QuestionError(f"recall {recall:g}: this index was measured to reach {most:g} at most; search exactly")
    return Effort(point.get(name), point.get("k_factor"))


def timed(segments: Segments, queries: np.ndarray, effort: Effort) -> tuple[np.ndarray, float]:
    """Search for k = NEIGHBOURS + 1: seq_ids, and milliseconds per query."""
    begun = time.perf_counter()
    found, _, _ = segments.search(queries, NEIGHBOURS + 1, None, effort)
    return found, 1e3 * (time.perf_counter() - begun) / len(queries)


def _least(points: Sequence[Point], recall: float) -> list[Point]:
    """The least efforts that reach `recall`, one for each k_factor."""
    least: dict[float | None, Point] = {}
    for point in points:  # by rising effort
        if point["recall_at_10"] >= recall:
            least.setdefault(point.get("k_factor"), point)
    return list(least.values())


def _most(points: Sequence[Point]) -> float:
    return max(point["recall_at_10"] for point in points)


def _points(segments: Segments, judge: Judge, target: float) -> Iterator[Point]:
    """What was measured, by rising k_factor and visits, until further ones bring nothing."""
    num_queries = len(judge.queries.seq_ids)
    few = np.unique(np.linspace(0, num_queries - 1, min(TRIED, num_queries)).astype(int))
    most = max(each.max_effort for each in segments.engines)
    reached = 0.0
    ladder = list(_visits(segments.engine.effort_name, most))
    for k_factor in K_FACTORS if segments.engine.refines else (None,):
        recalls: list[float] = []
        for visits in ladder:
            late = k_factor in (None, K_FACTORS[-1]) and visits == most  # nothing is refused for a rise that comes late
            if _is_flat(recalls) and not (late and reached < target):
                continue
            point = _tried(segments, judge, Effort(visits, k_factor), few)
            yield point
            recalls.append(point["recall_at_10"])
            reached = max(reached, recalls[-1])
            if recalls[-1] >= max(ENOUGH, target):
                return  # nothing is left for more candidates to find
        limited = sum(recall < min(LIMITED, target) * recalls[-1] for recall in recalls)
        ladder = ladder[limited:]


def _is_flat(recalls: Sequence[float]) -> bool:
    return len(recalls) > 6 and recalls[-1] - recalls[-5] <= PLATEAU


def _tried(segments: Segments, judge: Judge, effort: Effort, lines: np.ndarray, repeats: int = 1) -> Point:
    """One effort, tried with some of the queries: the effort, "recall_at_10", its standard "error", whether that is
    "sure" (by all queries), and "ms" for one of a batch, the best of some."""
    trials = [timed(segments, judge.queries.vectors[lines], effort) for _ in range(repeats)]
    found, milliseconds = trials[0][0], min(spent for _, spent in trials)
    recall = judge.recall(found, lines)
    said = {segments.engine.effort_name: effort.visits, "k_factor": effort.k_factor}
    return {
        **{name: value for name, value in said.items() if value is not None},
        # Rounded so that what is said is not more than what was measured.
        "recall_at_10": float(np.floor(recall.value * 1e4 + 1e-6) / 1e4),
        "error": round(recall.error, 4),
        "sure": len(lines) == len(judge.queries.seq_ids) and repeats == REPEATS,
        "ms": round(milliseconds, 4),
    }


def _visits(name: str, most: int) -> Iterator[int | None]:
    """By doubling, with the middle between from 8 on, up to all that there is."""
    if not name:
        yield None
        return
    visits = 1 if name == "nprobe" else 16
    while visits < most:
        yield visits
        if visits >= 8 and visits * 3 // 2 < most:
            yield visits * 3 // 2
        visits *= 2
    yield most
