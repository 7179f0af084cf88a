"""The leading axes of unit vectors, by which exact search knows what it need not compare.

On m orthonormal axes a vector x has coordinates c(x) and leaves a rest of length r(x). By Cauchy and Schwarz
<q, x> <= <c(q), c(x)> + r(q) r(x), and this bound is itself an inner product, of m + 1 numbers. Where few axes carry
nearly all of the vectors, as those of a language model, the few vectors whose bound reaches the k-th best score are
found at a fraction of the cost of comparing all, and no other one can be a hit: the answer is exact.

Shapes: n vectors, E values of each, m axes.
"""

from __future__ import annotations

import numpy as np

# Of the squared length of the vectors, what the axes may leave out; with more, bounds part too little from far.
MOST_LEFT = 0.02
STEP = 16
MOST_SHARE = 0.25
# Added to r^2: float32 sums may take a rest for smaller than it is, and a bound must never be too low.
MARGIN = 4e-6


def leading_axes(vectors: np.ndarray) -> np.ndarray | None:
    """Axes (E, m) float32 that carry all but MOST_LEFT of `vectors` (n, E), of length 1; None where that takes more
    than MOST_SHARE of E."""
    dimension = vectors.shape[1]
    if len(vectors) == 0:
        return None
    wide = vectors.astype(np.float64)
    values, axes = np.linalg.eigh(wide.T @ wide)
    left = 1 - np.cumsum(values[::-1]) / len(vectors)
    number = STEP * -(-(int(np.argmax(left <= MOST_LEFT)) + 1) // STEP)
    if left[-1] > MOST_LEFT or number > MOST_SHARE * dimension:
        return None
    return np.ascontiguousarray(axes[:, ::-1][:, :number], dtype=np.float32)


def leads(vectors: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Coordinates and length of the rest, (n, m + 1) float32, of `vectors` (n, E) of length 1."""
    result = np.empty((len(vectors), axes.shape[1] + 1), dtype=np.float32)
    np.matmul(vectors, axes, out=result[:, :-1])
    carried = np.einsum("nm,nm->n", result[:, :-1], result[:, :-1], dtype=np.float64)
    result[:, -1] = np.sqrt(np.maximum(0, 1 - carried) + MARGIN)
    return result
