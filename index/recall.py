"""Choose the search effort of an approximate index, and measure the recall that it reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from index.engines import Engine, open_engine
from index.exact import NO_HIT, ROUNDING, exact_search
from index.transforms import Transform, transformed
from index.vectors import Part, take

NEIGHBOURS = 10
SAMPLE = 200
TARGET = 0.99
SLACK = 0.002


def measure(index: Any, parts: Sequence[Part], transform: Transform, seq_ids: np.ndarray, seed: int) -> dict[str, Any]:
    """The least effort, by doubling, that reaches a recall@10 of 0.99, or nearly what the type can reach at all.

    Queries are stored vectors chosen by `seed`, their own row left out. A found row counts when its exact cosine
    reaches that of the true 10th neighbour, so that ties count.

    Args:
        transform: what the indexed vectors went through; the truth is exact search in the same space.
        seq_ids: (n,) seq_id of each row.

    Returns:
        "recall_at_10", "sample", "seed", and "nprobe" or "ef_search" where the type has one.
    """
    if len(seq_ids) < 2:
        return {}
    rows = np.sort(np.random.default_rng(seed).permutation(len(seq_ids))[:SAMPLE])
    queries = transform.apply(take(parts, rows, transform.dimension), seq_ids[rows], "seq_id")
    # Three times the neighbours: room for ties, and for the query itself.
    truth, cosines = exact_search(transformed(parts, transform), queries, 3 * NEIGHBOURS + 1)

    def scan(unfilled: np.ndarray, k: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ids, scores = exact_search(transformed(parts, transform), unfilled, k)
        return _rows_of(ids, seq_ids), scores

    engine = open_engine(index, scan)
    own = seq_ids[rows]
    ceiling = _recall(engine, queries, own, seq_ids, truth, cosines, engine.max_effort or None)
    effort = 1 if engine.effort_name == "nprobe" else 16 if engine.effort_name else None
    recall = ceiling if effort is None else _recall(engine, queries, own, seq_ids, truth, cosines, effort)
    # Coarse codes may never reach the target: then the effort that comes close to what they can do is enough.
    while effort is not None and recall < min(TARGET, ceiling - SLACK) and effort < engine.max_effort:
        effort = min(engine.max_effort, effort * 2)
        recall = _recall(engine, queries, own, seq_ids, truth, cosines, effort)
    result: dict[str, Any] = {"recall_at_10": round(recall, 4), "sample": len(rows), "seed": seed}
    if effort is not None:
        result[engine.effort_name] = effort
    return result


def _recall(
    engine: Engine,
    queries: np.ndarray,
    own: np.ndarray,
    seq_ids: np.ndarray,
    truth: np.ndarray,
    cosines: np.ndarray,
    effort: int | None,
) -> float:
    rows, _ = engine.search(queries, NEIGHBOURS + 1, None, effort)
    hit = wanted = 0
    for line, myself in enumerate(own):
        others = truth[line] != myself
        ids, values = truth[line][others], cosines[line][others]
        count = min(NEIGHBOURS, len(ids))
        right = set(ids[values >= values[count - 1] - ROUNDING].tolist())
        found = [seq_id for row in rows[line] if row != NO_HIT and (seq_id := int(seq_ids[row])) != myself][:count]
        hit += len(right.intersection(found))
        wanted += count
    return hit / wanted


def _rows_of(ids: np.ndarray, seq_ids: np.ndarray) -> np.ndarray:
    order = np.argsort(seq_ids)
    return order[np.searchsorted(seq_ids, ids, sorter=order)]
