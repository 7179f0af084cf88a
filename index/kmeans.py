"""The centroids of inverted lists by k-means, whatever computes the products.

Lloyd's rounds over all vectors and centroids, as FAISS makes them: fewer vectors or rounds, or two levels of centroids,
are faster to learn and need several times the lists to be visited for the same recall.

Shapes: n vectors, m centroids, E values of each.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

ROUNDS = 10
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
    for _ in range(ROUNDS):
        labels = nearest(vectors, centroids)
        order, counts = np.argsort(labels, kind="stable"), np.bincount(labels, minlength=number)
        # One that no vector is nearest to starts anew from any.
        centroids = _some(vectors, number, generator)
        for place, end in enumerate(np.cumsum(counts)):
            if counts[place]:
                centroids[place] = vectors[order[end - counts[place] : end]].mean(axis=0)
    return centroids


def _some(vectors: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    return vectors[generator.choice(len(vectors), number, replace=False)]
