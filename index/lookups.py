"""Look-ups in sorted arrays.

Shapes: n values asked for, m values that are known.
"""

from __future__ import annotations

import numpy as np


def find(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Places of `wanted` (n,) in `known` (m,), which ascends; -1 where they are not: (n,) int64."""
    if not len(known):
        return np.full(len(wanted), -1)
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[places] == wanted, places, -1)


def runs(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The numbers of runs, one run after another: of each of `starts` (n,) so many as `counts` (n,) says."""
    return np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
