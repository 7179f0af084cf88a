"""The queries that an index is measured with, and their true neighbours in each of its segments.

Both are kept beside the index: the neighbours are found while a segment's vectors are at hand, so that nothing is read
twice. They stand for the vectors that the lists were learned with; an index that grew is measured with others (see
`index.build`).

Shapes: Q queries, E values of a vector as it is indexed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from index.exact import best

QUERIES = "queries.npz"
TRUTH = "truth.npz"
NEIGHBOURS = 10
SAMPLE = 500
# Room for ties, and for the query itself.
KEPT = 3 * NEIGHBOURS + 1


class Queries(NamedTuple):
    """Stored vectors that are searched for.

    Attributes:
        seq_ids: (Q,) int64.
        vectors: (Q, E) float32, as they are indexed.
    """

    seq_ids: np.ndarray
    vectors: np.ndarray


class Truth(NamedTuple):
    """The nearest of each query.

    Attributes:
        seq_ids: (Q, k) int64, by (cosine descending, seq_id ascending), the query itself among them; k is KEPT, or all.
        cosines: (Q, k) float32.
    """

    seq_ids: np.ndarray
    cosines: np.ndarray


def save_queries(queries: Queries, file: Path) -> None:
    """Write them."""
    np.savez(file, seq_ids=queries.seq_ids, vectors=queries.vectors)


def load_queries(file: Path) -> Queries:
    """Read what `save_queries` wrote."""
    with np.load(file) as held:
        return Queries(held["seq_ids"], held["vectors"])


def save_truth(truth: Truth, file: Path) -> None:
    """Write it."""
    np.savez(file, seq_ids=truth.seq_ids, cosines=truth.cosines)


def load_truth(file: Path) -> Truth:
    """Read what `save_truth` wrote."""
    with np.load(file) as held:
        return Truth(held["seq_ids"], held["cosines"])


def merged(truths: Sequence[Truth]) -> Truth:
    """Of several segments."""
    seq_ids, cosines = (np.hstack(each) for each in zip(*truths, strict=True))
    return Truth(*best(seq_ids, cosines, KEPT))
