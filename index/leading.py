"""The leading axes of unit vectors, by which exact search knows what it need not compare.

On m orthonormal axes a vector x has coordinates c(x) and leaves a rest of length r(x). By Cauchy and Schwarz
<q, x> <= <c(q), c(x)> + r(q) r(x), and this bound is itself an inner product, of m + 1 numbers. Where few axes carry
nearly all in which the vectors differ, the few vectors whose bound reaches the k-th best score are found at a fraction
of the cost of comparing all, and no other one can be a hit: the answer is exact.

Shapes: n vectors, E values of each, m axes.
"""

from __future__ import annotations

import numpy as np

from index.exact import ALONE

STEP = 16
MOST_SHARE = 0.25  # of E, that m may be
# Bounds have to save so much of what comparing all costs.
MOST_COST = 0.5
ASKED, NEIGHBOURS = 100, 10
# Added to r^2: float32 sums may take a rest for smaller than it is, and a bound must never be too low.
MARGIN = 4e-6


def leading_axes(vectors: np.ndarray) -> np.ndarray | None:
    """As many axes, (E, m) float32, as let exact search take the least time; None where none would save enough.

    That is tried with some of the vectors as queries among all that are given. How much of the vectors the axes carry
    tells too little: those of a language model share so much that their cosines differ only in what is left.

    Args:
        vectors: (n, E) float32 of length 1, in random order.
    """
    dimension = vectors.shape[1]
    if len(vectors) <= NEIGHBOURS or dimension * MOST_SHARE < STEP:
        return None
    wide = vectors.astype(np.float64)
    axes = np.ascontiguousarray(np.linalg.eigh(wide.T @ wide)[1][:, ::-1], dtype=np.float32)
    asked = vectors[:ASKED]
    # The query itself is among them.
    floors = np.partition(asked @ vectors.T, -NEIGHBOURS - 1, axis=1)[:, -NEIGHBOURS - 1]
    best, chosen = MOST_COST * dimension, 0
    carried, products = np.zeros(len(vectors)), np.zeros((len(asked), len(vectors)), dtype=np.float32)
    for number in range(STEP, int(MOST_SHARE * dimension) + 1, STEP):
        more = vectors @ axes[:, number - STEP : number]
        carried += np.einsum("nm,nm->n", more, more, dtype=np.float64)
        products += more[:ASKED] @ more.T
        rests = _rests(carried)
        # Of vectors whose bound does not tell them from the hits; where they are too many all are compared.
        shares = np.mean(products + rests[:ASKED, None] * rests >= floors[:, None], axis=1)
        if (cost := number + 1 + dimension * float(np.minimum(ALONE * shares, 1).mean())) < best:
            best, chosen = cost, number
    return np.ascontiguousarray(axes[:, :chosen]) if chosen else None


def leads(vectors: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Coordinates and length of the rest, (n, m + 1) float32, of `vectors` (n, E) of length 1."""
    result = np.empty((len(vectors), axes.shape[1] + 1), dtype=np.float32)
    np.matmul(vectors, axes, out=result[:, :-1])
    carried = np.einsum("nm,nm->n", result[:, :-1], result[:, :-1], dtype=np.float64)
    result[:, -1] = _rests(carried)
    return result


def _rests(carried: np.ndarray) -> np.ndarray:
    """Lengths of the rests, (n,) float32, of unit vectors whose coordinates have these squared lengths (n,)."""
    return np.sqrt(np.maximum(0, 1 - carried) + MARGIN).astype(np.float32)
