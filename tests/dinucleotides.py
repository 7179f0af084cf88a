"""Answers the functions of SQL without a model: a sequence's vector are the counts of its pairs of letters."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa

from index.catalog import take_living
from index.errors import QuestionError
from index.filters import matching_sequences
from index.hits import resolve_ids
from index.search import Searcher
from index.store import Store

PAIRS = ["".join(pair) for pair in itertools.product("ACGU", repeat=2)]


def counts(sequence: str) -> np.ndarray:
    """(16,) float32."""
    pairs = [sequence[place : place + 2] for place in range(len(sequence) - 1)]
    return np.array([pairs.count(pair) for pair in PAIRS], np.float32)


class DinucleotideAsker:
    """An asker (`index.functions.Asker`) over the live index of a store of such vectors.

    Attributes:
        asked: what was asked, in order: the function, how many, k and the filter.
    """

    def __init__(self, store: Store):
        self.store, self.searcher = store, Searcher.open(store)
        self.asked: list[tuple[str, int, int, str | None]] = []

    def search(self, sequences: list[str], k: int, where: str | None) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(("search", len(sequences), k, where))
        return self._find(self._vectors(sequences), k, where)

    def neighbors(self, ids: list[str], k: int, where: str | None) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(("neighbors", len(ids), k, where))
        own = resolve_ids(self.store, ids)[1]
        seq_ids, scores = self._find(self.searcher.vectors(own), k + 1, where)
        seq_ids[seq_ids == own[:, None]] = -1
        return seq_ids, scores

    def embed(self, sequences: list[str]) -> np.ndarray:
        self.asked.append(("embed", len(sequences), 0, None))
        return self._vectors(sequences)

    def catalog(self, seq_ids: np.ndarray) -> pa.Table:
        return take_living(self.store, self.searcher.catalog, seq_ids)

    def _vectors(self, sequences: list[str]) -> np.ndarray:
        for sequence in sequences:
            if not set(sequence) <= set("ACGU"):
                raise QuestionError(f"{sequence!r} is no RNA")
        return np.array([counts(sequence) for sequence in sequences])

    def _find(self, vectors: np.ndarray, k: int, where: str | None) -> tuple[np.ndarray, np.ndarray]:
        allowed = None if where is None else matching_sequences(self.store, where)
        return self.searcher.search(vectors, k, allowed=allowed)
