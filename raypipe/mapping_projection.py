"""From vectors to places in a plane, and how far to trust them.

Shapes: n points, E values of a vector, C principal values, K neighbours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import numpy as np

from index.exact import NO_HIT

PRINCIPAL = 50
FEWEST_FOR_UMAP = 50
"""Points; below, neighbourhoods are most of what there is, and the plane of the largest variance shows them as well."""

JUDGED = 10
"""Nearest neighbours by which a projection is judged."""

SPREAD = 10.0  # of the places that UMAP begins with


def principal_values(blocks: Callable[[], Iterable[np.ndarray]], points: int) -> np.ndarray:
    """Coordinates along the axes of the largest variance, at most PRINCIPAL: (n, C) float32, C at least 2.

    Args:
        blocks: gives all vectors in order, (m, E) at a time; it is called twice, so that they need not fit in memory.
        points: n.
    """
    total: np.ndarray | float = 0.0
    products: np.ndarray | float = 0.0
    for block in blocks():
        wide = block.astype(np.float64)
        total, products = total + wide.sum(axis=0), products + wide.T @ wide
    mean = np.asarray(total) / points
    spreads, axes = np.linalg.eigh(np.asarray(products) / points - np.outer(mean, mean))
    axes = axes[:, np.argsort(-spreads, kind="stable")[:PRINCIPAL]]
    # LAPACK leaves the signs open.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    values = np.concatenate([(block - mean) @ axes for block in blocks()]).astype(np.float32)
    return values if values.shape[1] > 1 else np.pad(values, ((0, 0), (0, 1)))


def project(values: np.ndarray, near: np.ndarray, distances: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """Places (n, 2) float32, and the method: UMAP by given neighbours from the plane of PCA, or that plane alone.

    Args:
        values: (n, C) principal values.
        near: (n, K) places of the nearest, -1 where there are fewer.
        distances: (n, K).
    """
    if len(values) < FEWEST_FOR_UMAP:
        return np.ascontiguousarray(values[:, :2]), "PCA"
    with warnings.catch_warnings():
        # That new points cannot be added, that a seed means one thread, and what numba has to say of its own.
        warnings.simplefilter("ignore")
        from umap import UMAP

        itself = np.arange(len(values))[:, None]
        farthest = np.nanmax(distances, axis=1, initial=0, keepdims=True)
        reach = np.where(near == NO_HIT, farthest, np.maximum(distances, 0))
        indices = np.hstack([itself, near])
        lengths = np.hstack([np.zeros_like(farthest), reach]).astype(np.float32)
        begin = values[:, :2] * (SPREAD / max(float(np.abs(values[:, :2]).max()), 1e-12))
        placed = UMAP(
            n_neighbors=indices.shape[1],
            min_dist=0.1,
            init=begin,  # pyright: ignore[reportArgumentType]
            precomputed_knn=(indices, lengths),
            random_state=seed,
            n_jobs=1,
        ).fit_transform(values)
    return np.asarray(placed, dtype=np.float32), "UMAP"


def faithfulness(places: np.ndarray, near: np.ndarray) -> float | None:
    """Share of the JUDGED nearest of each point that are among as many nearest of it in the plane.

    Args:
        places: (n, 2).
        near: (n, K), the nearest first, -1 where there are fewer.
    """
    from scipy.spatial import KDTree

    asked = near[:, :JUDGED]
    known = asked != NO_HIT
    if not known.any():
        return None
    found = KDTree(places).query(places, k=min(asked.shape[1] + 1, len(places)))[1]
    # Where points fall together a point may not come first, nor at all.
    others = np.where(found == np.arange(len(places))[:, None], NO_HIT - 1, found)
    kept = (asked[:, :, None] == others[:, None, :]).any(axis=2) & known
    return float(kept.sum() / known.sum())
