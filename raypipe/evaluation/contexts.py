"""What letters can be guessed from without a language model: a nucleotide's nearest neighbours, counted.

The baseline of `raypipe eval mlm`. Letters are codes: 0 to 3 for A, C, G, U, OTHER for any other letter and for what
lies beyond the ends, HIDDEN for a letter that is masked. Hidden neighbours are part of the context, and are learned
from: training sequences are masked as those that are asked for.

Shapes: P places, T letters end to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from raypipe.evaluation.kmers import LETTERS, codes

OTHER, HIDDEN, SYMBOLS = LETTERS, LETTERS + 1, LETTERS + 2
# How many observations the guess of the next smaller context is worth.
PRIOR = 10.0
_CHUNK_LETTERS = 2_000_000


class ContextModel:
    """p(letter | k letters on its left and k on its right), smoothed by ever smaller contexts.

    p_j(x | c) = (n_j(x, c) + m p_{j-1}(x | c without its outermost letters)) / (n_j(c) + m), with m = PRIOR and
    p_{-1} = 1/4: interpolation with a Dirichlet prior (MacKay and Peto 1995).

    Args:
        sequences: to learn from, upper case.
        width: k.
        rate: share of the neighbours that is hidden while learning.
        seed: of what is hidden.
    """

    def __init__(self, sequences: Sequence[str], width: int, *, rate: float, seed: int) -> None:
        self._counts = [np.zeros((SYMBOLS ** (2 * size), LETTERS), dtype=np.int64) for size in range(width + 1)]
        rng = np.random.default_rng(seed)
        for chunk in _chunks(sequences):
            letters, places = _laid_out(chunk, width)
            known = places[letters[places] < LETTERS]
            seen = letters.copy()
            # The letter in the middle is no part of its context, so that it may itself be hidden or not.
            seen[known[rng.random(len(known)) < rate]] = HIDDEN
            for size, counts in enumerate(self._counts):
                joint = _contexts(seen, known, size) * LETTERS + letters[known]
                counts += np.bincount(joint, minlength=counts.size).reshape(counts.shape)

    def log_probabilities(self, letters: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(P, 4) float64, natural logarithm.

        Args:
            letters: codes as `surroundings` lays them out, HIDDEN where masked.
            places: (P,) places in it.
        """
        values = np.full((len(places), LETTERS), 1 / LETTERS)
        for size, counts in enumerate(self._counts):
            seen = counts[_contexts(letters, places, size)]
            values = (seen + PRIOR * values) / (seen.sum(axis=1, keepdims=True) + PRIOR)
        return np.log(values)

    @property
    def learned_from(self) -> int:
        """Letters."""
        return int(self._counts[0].sum())


def surroundings(sequence: str, hidden: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a sequence with `width` letters OTHER at both ends, HIDDEN at `hidden`; where those places are now."""
    letters, _ = _laid_out([sequence], width)
    letters[hidden + width] = HIDDEN
    return letters, hidden + width


def _chunks(sequences: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in sequences:
        chunk.append(text)
        size += len(text)
        if size >= _CHUNK_LETTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _laid_out(sequences: Sequence[str], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes end to end with `width` letters OTHER before, between and behind; and the places of the real ones."""
    between = "N" * width
    letters, _ = codes([between + between.join(sequences) + between])
    real = np.ones(len(letters), dtype=bool)
    place = 0
    for text in sequences:
        real[place : place + width] = False
        place += width + len(text)
    real[place:] = False
    return letters, np.flatnonzero(real)


def _contexts(letters: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
    """A number for the letters around each place: the nearest ones count least."""
    numbers = np.zeros(len(places), dtype=np.int64)
    for distance in range(size, 0, -1):
        numbers = (numbers * SYMBOLS + letters[places - distance]) * SYMBOLS + letters[places + distance]
    return numbers
