"""What compression costs: scores of vectors that are held as FAISS codes, as an index of that type would give them.

Shapes: n vectors, Q queries, E values of each.
"""

from __future__ import annotations

import numpy as np

from index.errors import StoreError
from index.faiss_runtime import load_faiss, reason


def code_bytes(codes: str, dimension: int) -> int:
    """Bytes of the code of a vector of `dimension` values.

    Raises:
        StoreError: FAISS does not know the codes for so many values.
    """
    faiss = load_faiss()
    try:
        return int(faiss.index_factory(dimension, codes, faiss.METRIC_L2).sa_code_size())
    except RuntimeError as error:
        raise StoreError(
            f"codes {codes!r}: FAISS has none of that name for {dimension} values ({reason(error)}); there are SQfp16, "
            "SQ8, RaBitQ and others"
        ) from error


class Coded:
    """Vectors (n, E) float32 of length 1, as codes of one FAISS type without lists, such as SQfp16, SQ8 or RaBitQ.

    Attributes:
        bytes: of one code.
    """

    def __init__(self, vectors: np.ndarray, codes: str):
        """Learn the codes from the vectors, and hold them.

        Raises:
            StoreError: FAISS does not know the codes, or cannot learn them from so few vectors.
        """
        faiss = load_faiss()
        self.bytes = code_bytes(codes, vectors.shape[1])
        try:
            self._index = faiss.index_factory(vectors.shape[1], codes, faiss.METRIC_L2)
            self._index.train(vectors)
            self._index.add(vectors)
        except RuntimeError as error:
            raise StoreError(f"codes {codes!r}: FAISS cannot make them of these vectors ({reason(error)})") from error

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """(Q, n) float32, higher is nearer: minus the squared distance of each query to each vector, by its code."""
        distances, rows = self._index.search(queries, self._index.ntotal)
        scores = np.empty_like(distances)
        np.put_along_axis(scores, rows, -distances, axis=1)
        return scores
