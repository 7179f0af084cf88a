"""The arithmetic of whitening: principal axes, and how far to trust the variances along them.

Of the vectors of an index, and of what a head learns on.

Shapes: n rows, D values per vector.
"""

from __future__ import annotations

import numpy as np

from index.vectors import BATCH_BYTES


def oas_shrinkage(values: np.ndarray, num_rows: int) -> float:
    """How far to move the variances towards their mean, from 0 to 1: oracle approximating shrinkage.

    Chen et al. 2010, "Shrinkage algorithms for MMSE covariance estimation", eq. 23. It keeps an axis whose variance is
    noise, or 0, from being blown up: the more, the fewer the rows and the more even the axes. A fixed floor (a share
    of the mean variance) does as well for the rows that it is tuned to, and far worse for fewer or for even axes.

    Args:
        values: (D,) eigenvalues of the sample's covariance.
        num_rows: of the sample.
    """
    dimension = len(values)
    square, trace = float((values**2).sum()), float(values.sum())
    if dimension == 1:
        return 1.0
    top = (1 - 2 / dimension) * square + trace**2
    bottom = (num_rows + 1 - 2 / dimension) * (square - trace**2 / dimension)
    return 1.0 if bottom <= top else top / bottom


def principal_axes(units: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (D,) of the covariance, largest first, and axes (D, D), one a column."""
    dimension = units.shape[1]
    covariance = np.zeros((dimension, dimension))
    step = max(1, BATCH_BYTES // (8 * dimension))
    for start in range(0, len(units), step):
        block = units[start : start + step] - mean
        covariance += block.T @ block
    return axes_of(covariance / len(units))


def axes_of(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (D,) of a covariance (D, D), largest first, and axes (D, D), one a column."""
    values, axes = np.linalg.eigh(covariance)
    values, axes = np.maximum(values[::-1], 0), axes[:, ::-1]
    # An axis points either way: the one where its largest part is positive, so that every machine gives the same.
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    return values, axes * np.where(largest < 0, -1.0, 1.0)
