"""Filtered search at one size: recall against the filtered truth, processor time, and whether hits are lacking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.rounds import Rounds, Turn, interleave, spread
from tests.benchmarks.search_process import NEIGHBOURS, Entrant
from tests.benchmarks.search_vectors import nearest, recall

BATCH, SINGLES = 200, 50
RANDOM_SHARES = (0.5, 0.1, 0.01, 0.001)
FAMILY_SHARES = (0.1, 0.01)
FEW = NEIGHBOURS // 2


def choose(families: np.ndarray | None, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Filters by name: the rows (m,) that each lets through, at random or by whole families."""
    dice = np.random.default_rng(seed)
    chosen = {
        f"{share:.1%} at random": np.sort(dice.permutation(rows)[: max(1, round(share * rows))])
        for share in RANDOM_SHARES
    }
    if families is not None:
        order = dice.permutation(np.unique(families))
        sizes = np.cumsum([np.count_nonzero(families == one) for one in order])
        for share in FAMILY_SHARES:
            taken = order[: 1 + int(np.searchsorted(sizes, share * rows))]
            allowed = np.flatnonzero(np.isin(families, taken))
            chosen[f"{len(allowed) / rows:.1%}, whole families"] = allowed
    chosen[f"{FEW} rows"] = np.sort(dice.permutation(rows)[:FEW])
    return chosen


def measure(
    entrant: Entrant,
    vectors: Path,
    queries: Path,
    families: np.ndarray | None,
    *,
    rounds: int,
    least_s: float,
    seed: int,
) -> dict[str, Any]:
    """Every filter in interleaved rounds, a batch and queries one by one.

    Args:
        entrant: raypipe's.
        vectors, queries: .npy files; of the queries the first BATCH.
        least_s: for how long a batch is repeated.

    Returns:
        By filter: `matches`, `recall`, `full` (whether every query got min(k, matches) hits, all of them allowed),
        and `batch_cpu_ms`, `single_cpu_ms` and `p50_ms` of a query over the rounds.
    """
    rows = len(np.load(vectors, mmap_mode="r"))
    asked = np.load(queries)[:BATCH]
    filters = choose(families, rows, seed)
    scratch = vectors.parent
    found: dict[str, dict[str, Any]] = {}
    for number, (name, allowed) in enumerate(filters.items()):
        np.save(scratch / f"allowed{number}.npy", allowed)
        mask = np.zeros(rows, bool)
        mask[allowed] = True
        found[name] = {"matches": len(allowed), "distances": nearest(vectors, asked, NEIGHBOURS, mask)[1]}

    def turn(key: str) -> Turn:
        name, way = key.split(": ")
        number = list(filters).index(name)
        request = {
            "queries": str(queries),
            "k": NEIGHBOURS,
            "point": entrant.point,
            "allowed": str(scratch / f"allowed{number}.npy"),
        }
        if way == "single":
            return entrant.warm.ask(do="single", count=SINGLES, **request)
        save = str(scratch / "filtered.npy")
        times = entrant.warm.ask(do="batch", save=save, least_s=least_s, count=BATCH, **request)
        got, allowed = np.load(save), filters[name]
        hits = got >= 0
        whole = bool((hits.sum(1) == min(NEIGHBOURS, len(allowed))).all())
        found[name]["full"] = found[name].get("full", True) and whole and bool(np.isin(got[hits], allowed).all())
        found[name]["recall"] = recall(vectors, asked, got, found[name]["distances"])
        return times

    keys = [f"{name}: {way}" for name in filters for way in ("batch", "single")]
    for key in keys:
        turn(key)
    done = interleave(keys, rounds, turn)
    return {"rows": rows, "batch": len(asked), "rounds": done, "filters": _summary(found, done, len(asked))}


def _summary(found: dict[str, dict[str, Any]], rounds: Rounds, batch: int) -> dict[str, Any]:
    result = {}
    for name, facts in found.items():
        many, one = ([times[f"{name}: {way}"] for times in rounds] for way in ("batch", "single"))
        result[name] = {
            **{key: facts[key] for key in ("matches", "recall", "full")},
            "batch_cpu_ms": spread([1000 * times["cpu_s"] / batch for times in many]),
            "single_cpu_ms": spread([1000 * times["cpu_s"] for times in one]),
            "p50_ms": spread([times["p50_ms"] for times in one]),
        }
    return result
