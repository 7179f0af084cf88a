"""The centroids of inverted lists by k-means, whatever computes the products.

Lloyd's rounds over all vectors, as FAISS makes them: fewer vectors or rounds, or two levels of centroids, are faster to
learn and need several times the lists to be visited for the same recall. But a centroid moves little after the first
rounds, and then a vector's next one is among the neighbours of the one that it had: only these are compared.

Shapes: n vectors, m centroids, E values of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

ROUNDS = 10
# Of these, the first compare each vector with all centroids, and on a CPU later ones with so many near its own.
FULL_ROUNDS = 3
NEIGHBOURS = 32
_BLOCK_BYTES = 64 << 20


class Nearest(Protocol):
    """Finds the nearest centroid of each vector by comparing it with all; it can be pickled."""

    @property
    def on_gpu(self) -> bool:
        """Whether it is so fast that no graph over the centroids is faster."""
        ...

    def __call__(self, vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
        """Vectors (n, E) and centroids (m, E), float32, to the number of each vector's nearest centroid, int64 (n,)."""
        ...


class NearestByBlas:
    """With NumPy."""

    on_gpu = False

    def __call__(self, vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
        """By squared distance, of which the vector's own length is left out.

        What all centroids share is subtracted: where it is large, products would differ by less than their rounding.
        """
        found = np.empty(len(vectors), dtype=np.int64)
        common = centroids.mean(axis=0)
        centroids = centroids - common
        halves = np.einsum("me,me->m", centroids, centroids) / 2
        step = max(1, _BLOCK_BYTES // (4 * len(centroids)))
        for start in range(0, len(vectors), step):
            found[start : start + step] = ((vectors[start : start + step] - common) @ centroids.T - halves).argmax(
                axis=1
            )
        return found


def k_means(vectors: np.ndarray, number: int, nearest: Nearest, seed: int) -> np.ndarray:
    """Centroids (number, E) float32 of `vectors` (n, E) float32; n is at least their number."""
    generator = np.random.default_rng(seed)
    centroids = _some(vectors, number, generator)
    labels = np.empty(0, np.int64)
    for turn in range(ROUNDS):
        if turn < FULL_ROUNDS or nearest.on_gpu or number <= 2 * NEIGHBOURS:
            labels = nearest(vectors, centroids)
        else:
            labels = _followed(vectors, centroids, labels)
        # One that no vector is nearest to starts anew from any.
        centroids = _some(vectors, number, generator)
        for place, members in _members(labels, number):
            centroids[place] = vectors[members].mean(axis=0)
    return centroids


def _members(labels: np.ndarray, number: int) -> Iterator[tuple[int, np.ndarray]]:
    """Each label that occurs, and where."""
    order, ends = np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=number))
    for place, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if end > start:
            yield place, order[start:end]


def _followed(vectors: np.ndarray, centroids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The nearest centroid of each vector, among those near the one that it had."""
    common = centroids.mean(axis=0)
    centred = centroids - common
    halves = np.einsum("me,me->m", centred, centred) / 2
    result = np.empty_like(labels)
    near = _near(centred, halves)
    for place, members in _members(labels, len(centroids)):
        some = near[place]
        found = ((vectors[members] - common) @ centred[some].T - halves[some]).argmax(axis=1)
        result[members] = some[found]
    return result


def _near(centred: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """NEIGHBOURS centroids for each, itself among them, (m, NEIGHBOURS)."""
    result = np.empty((len(centred), NEIGHBOURS), dtype=np.int64)
    step = max(1, _BLOCK_BYTES // (4 * len(centred)))
    for start in range(0, len(centred), step):
        closeness = centred[start : start + step] @ centred.T - halves
        result[start : start + step] = np.argpartition(closeness, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
    return result


def _some(vectors: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    return vectors[generator.choice(len(vectors), number, replace=False)]
