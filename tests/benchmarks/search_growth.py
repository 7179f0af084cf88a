"""How our index grows with the number of vectors, and what that says about many more."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import search_atlas, search_memory, search_set
from tests.benchmarks.rounds import Rounds, Turn, interleave, spread
from tests.benchmarks.search_process import NEIGHBOURS, Asked, Entrant, ours
from tests.benchmarks.search_vectors import nearest

FAR = 42_000_000


def power(sizes: Sequence[float], values: Sequence[float], at: float = FAR) -> dict[str, float]:
    """value = factor * size ** exponent by least squares of the logarithms; `far` is its value at `at`."""
    if len(sizes) < 2 or min(values) <= 0:
        return {}
    exponent, factor = np.polyfit(np.log(sizes), np.log(values), 1)
    return {"exponent": float(exponent), "far": float(np.exp(factor + exponent * np.log(at)))}


def line(sizes: Sequence[float], values: Sequence[float], at: float = FAR) -> dict[str, float]:
    """value = start + slope * size by least squares; `far` is its value at `at`."""
    if len(sizes) < 2:
        return {}
    slope, start = np.polyfit(sizes, values, 1)
    return {"start": float(start), "slope": float(slope), "far": float(start + slope * at)}


def measure(
    home: Path,
    sizes: Sequence[int],
    *,
    dimension: int,
    queries: int,
    singles: int,
    kind: str,
    target: float,
    threads: int,
    rounds: int,
    seed: int,
) -> dict[str, Any]:
    """Build, open and ask an index at each size, over the first rows of one set.

    Returns:
        `sizes`: for each its build, memory, recall and times; `fits`: by quantity the fitted growth.
    """
    whole = home / "growth"
    search_set.write(whole, max(sizes), queries, dimension, seed)
    entrants: dict[str, Entrant] = {}
    asked: dict[str, Asked] = {}
    found: list[dict[str, Any]] = []
    for rows in sizes:
        part = home / f"growth-{rows}"
        part.mkdir()
        vectors = part / "vectors.npy"
        search_set.head(whole / "vectors.npy", vectors, rows)
        name = f"{rows:,}"
        asked[name] = Asked(
            vectors, whole / "queries.npy", nearest(vectors, np.load(whole / "queries.npy"), NEIGHBOURS)[1]
        )
        search_atlas.make(part / "atlas", vectors, rows)
        entrant = ours(name, part / "atlas", threads, search_atlas.resolve(kind, rows), target, singles)
        entrant.tune(asked[name], part, target)
        memory = search_memory.measure(part / "atlas", asked[name], rows, threads, entrant.point, queries)
        entrants[name] = entrant
        found.append(
            {"rows": rows, "build": entrant.about, "recall": entrant.recall, "point": entrant.point, "memory": memory}
        )
        print(f"{name} vectors: built in {entrant.about['wall_s']:.1f} s, recall {entrant.recall:.4f}", flush=True)

    def turn(key: str) -> Turn:
        name, way = key.split(": ")
        if way == "single":
            return entrants[name].single(asked[name])
        return entrants[name].batch(asked[name], home, entrants[name].point)[0]

    done = interleave([f"{name}: {way}" for name in entrants for way in ("batch", "single")], rounds, turn)
    for entrant in entrants.values():
        entrant.warm.close()
    for one in found:
        _times(one, done, queries)
        shutil.rmtree(home / f"growth-{one['rows']}")
    shutil.rmtree(whole)
    return {"sizes": found, "rounds": done, "fits": fit(found)}


def _times(one: dict[str, Any], rounds: Rounds, queries: int) -> None:
    name = f"{one['rows']:,}"
    many, single = ([times[f"{name}: {way}"] for times in rounds] for way in ("batch", "single"))
    one["rate"] = spread([queries / times["wall_s"] for times in many])
    one["batch_cpu_ms"] = spread([1000 * times["cpu_s"] / queries for times in many])
    one["p50_ms"] = spread([times["p50_ms"] for times in single])
    one["p99_ms"] = spread([times["p99_ms"] for times in single])


def fit(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The growth of each quantity: of times by a power of the rows, of bytes by a straight line."""
    rows = [one["rows"] for one in found]
    hot = [one["memory"]["hot"] * one["rows"] for one in found]
    return {
        "p50_ms": power(rows, [one["p50_ms"]["median"] for one in found]),
        "batch_cpu_ms": power(rows, [one["batch_cpu_ms"]["median"] for one in found]),
        "build_cpu_s": power(rows, [one["build"]["cpu_s"] for one in found]),
        "hot_bytes": line(rows, hot),
        "index_bytes": line(rows, [one["build"]["bytes"] for one in found]),
        "peak_bytes": line(rows, [one["build"]["peak_bytes"] for one in found]),
    }
