"""Exact neighbours and recall of the search benchmarks. NumPy alone: every side of the comparison imports it.

Shapes: n vectors, Q queries, D values per vector, k neighbours. A distance is Euclidean, between vectors of length 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

BLOCK = 16_384
# A neighbour counts as found when it is no farther than the true k-th one by this factor: ties have no order.
TIES = 1 + 1e-3


def unit(vectors: np.ndarray) -> np.ndarray:
    """`vectors` (n, D) scaled to length 1, float32."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def unit_blocks(file: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Vectors of a .npy file by blocks: number of the first row, (n, D) float32 of length 1."""
    stored = np.load(file, mmap_mode="r")
    for start in range(0, len(stored), BLOCK):
        yield start, unit(stored[start : start + BLOCK])


def all_units(file: Path) -> np.ndarray:
    """All vectors of a .npy file, (n, D) float32 of length 1."""
    result = np.empty(np.load(file, mmap_mode="r").shape, np.float32)
    for start, block in unit_blocks(file):
        result[start : start + len(block)] = block
    return result


def nearest(file: Path, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """The exact neighbours, block by block: proposed in float32, ordered in float64.

    Args:
        file: of the vectors.
        queries: (Q, D) of any length.
        allowed: (n,) bool, rows that may be found; all if None.

    Returns:
        Rows and distances (Q, min(k, allowed rows)), nearest first.
    """
    asked = unit(queries)
    rows, cosines = np.empty((len(asked), 0), np.int64), np.empty((len(asked), 0))
    for start, block in unit_blocks(file):
        own = np.arange(start, start + len(block))
        if allowed is not None:
            own, block = own[allowed[own]], block[allowed[own]]
        if not len(own):
            continue
        rough = asked @ block.T
        # A few more than k: what float32 leaves open is settled below.
        near = np.argpartition(-rough, min(2 * k, len(own)) - 1, axis=1)[:, : 2 * k]
        exact = np.empty(near.shape)
        for line, chosen in enumerate(near):
            exact[line] = block[chosen].astype(np.float64) @ asked[line].astype(np.float64)
        rows, cosines = np.hstack([rows, own[near]]), np.hstack([cosines, exact])
        order = np.lexsort((rows, -cosines))[:, :k]
        rows, cosines = np.take_along_axis(rows, order, 1), np.take_along_axis(cosines, order, 1)
    return rows, np.sqrt(np.maximum(0, 2 - 2 * cosines))


def recall(file: Path, queries: np.ndarray, found: np.ndarray, distances: np.ndarray, ties: float = TIES) -> float:
    """The share of true neighbours that was found.

    Args:
        file: of the vectors.
        queries: (Q, D).
        found: (Q, k) rows; -1 is none. A row that is named twice counts once.
        distances: (Q, m) of the true neighbours, m <= k.
        ties: how many times farther than the true m-th neighbour a found row may be.
    """
    stored = np.load(file, mmap_mode="r")
    wanted = distances.shape[1]
    if wanted == 0:
        return 1.0
    right = 0
    for line, query in enumerate(unit(queries).astype(np.float64)):
        rows = np.unique(found[line][found[line] >= 0])
        if len(rows):
            cosines = unit(stored[rows]).astype(np.float64) @ query
            away = np.sqrt(np.maximum(0, 2 - 2 * cosines))
            # Distances near zero are differences of rounded numbers.
            right += min(wanted, int((away <= distances[line, -1] * ties + 1e-6).sum()))
    return right / (wanted * len(queries))


def describe(file: Path, seed: int, distances: np.ndarray) -> dict[str, float]:
    """What the set is like.

    Args:
        file: of the vectors.
        distances: (Q, k) of the queries to their neighbours.

    Returns:
        `pair_cosine`: mean of random pairs; `neighbour_cosine`: median of the k-th neighbours of the queries;
        `axes_90`, `axes_95`, `axes_99`: principal axes that hold so many percent of the variance;
        `local_dimension`: median of the maximum-likelihood estimates (Levina and Bickel 2004) over the k neighbours.
    """
    dice = np.random.default_rng(seed)
    stored = np.load(file, mmap_mode="r")
    some = unit(stored[np.sort(dice.permutation(len(stored))[:20_000])])
    left, right = dice.permutation(some), dice.permutation(some)
    spread = np.linalg.eigvalsh(np.cov(some, rowvar=False, dtype=np.float64))[::-1]
    held = np.cumsum(spread) / spread.sum()
    near = np.maximum(distances, 1e-9)
    local = 1 / np.maximum(np.log(near[:, -1:] / near[:, :-1]).mean(axis=1), 1e-9)
    return {
        "pair_cosine": float((left * right).sum(1).mean()),
        "neighbour_cosine": float(np.median(1 - distances[:, -1] ** 2 / 2)),
        **{f"axes_{share}": float(np.searchsorted(held, share / 100) + 1) for share in (90, 95, 99)},
        "local_dimension": float(np.median(local)),
    }
