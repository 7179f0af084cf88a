"""What compression costs: scores of vectors that are held as FAISS codes, as an index of that type would give them.

Shapes: n vectors, Q queries, E values of each.
"""

from __future__ import annotations

import numpy as np

from index.errors import StoreError
from index.faiss_runtime import load_faiss


class Coded:
    """Vectors (n, E) float32 of length 1, as codes of one FAISS type without lists, such as SQfp16, SQ8 or RaBitQ."""

    def __init__(self, vectors: np.ndarray, codes: str):
        """Learn the codes from the vectors, and hold them.

        Raises:
            StoreError: FAISS does not know the codes, or cannot learn them from so few vectors.
        """
        faiss = load_faiss()
        try:
            self._index = faiss.index_factory(vectors.shape[1], codes, faiss.METRIC_L2)
            self._index.train(vectors)
            self._index.add(vectors)
        except RuntimeError as error:
            said = str(error).splitlines()[0].split("Error:")[-1].strip()[:200]
            raise StoreError(f"codes {codes!r}: FAISS cannot make them of these vectors ({said})") from error
        self.bytes = int(self._index.sa_code_size())

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """(Q, n) float32, higher is nearer: minus the squared distance of each query to each vector, by its code."""
        distances, rows = self._index.search(queries, self._index.ntotal)
        scores = np.empty_like(distances)
        np.put_along_axis(scores, rows, -distances, axis=1)
        return scores
