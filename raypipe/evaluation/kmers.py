"""Profiles of k-mers: how often each word of k letters stands in a sequence, compared by cosine.

Counts are kept sparse, by word: a sequence of 100 nucleotides has some 95 of the 4,096 words of 6 letters, so adding up
the lists of its words costs a small part of a product of dense matrices.

Shapes: n sequences, P pairs of a sequence and a word that stands in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LETTERS = 4


def codes(sequences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """A, C, G, U (T) as 0 to 3, any other letter as 4, all sequences end to end.

    Returns:
        uint8 codes, and int64 offsets (n + 1,).
    """
    table = np.full(256, LETTERS, dtype=np.uint8)
    for code, letters in enumerate(("Aa", "Cc", "Gg", "UuTt")):
        table[[ord(letter) for letter in letters]] = code
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in sequences], dtype=np.int64)])
    return table[np.frombuffer("".join(sequences).encode("latin-1", "replace"), dtype=np.uint8)], offsets


class KmerProfiles:
    """Counts of the words of k letters of n sequences; words with a letter other than A, C, G, U do not count.

    Args:
        sequences: RNA.
        k: length of the words, up to 12.
    """

    def __init__(self, sequences: Sequence[str], k: int) -> None:
        self._number = len(sequences)
        letters, offsets = codes(sequences)
        width = LETTERS**k
        starts = max(0, len(letters) - k + 1)
        word, whole = np.zeros(starts, dtype=np.int64), np.ones(starts, dtype=bool)
        for place in range(k):
            here = letters[place : place + starts]
            whole &= here < LETTERS
            word = word * LETTERS + here
        owner = np.repeat(np.arange(self._number), np.diff(offsets))[:starts]
        whole &= np.arange(starts) + k <= offsets[owner + 1]
        pairs, counts = np.unique(word[whole] * self._number + owner[whole], return_counts=True)
        # Sorted by word, then by sequence: the list of each word lies together.
        self._words, self._owners = np.divmod(pairs, max(1, self._number))
        self._counts = counts.astype(np.float64)
        self._starts = np.searchsorted(self._words, np.arange(width + 1))
        self._by_owner = np.argsort(self._owners, kind="stable")
        self._owner_starts = np.searchsorted(self._owners[self._by_owner], np.arange(self._number + 1))
        norms = np.sqrt(np.bincount(self._owners, self._counts**2, minlength=self._number))
        # Too short for any word: like nothing, not even itself.
        self._scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Cosines of some sequences with all, (m, n) float32; 0 where one has no word."""
        return np.stack([self._line(int(row)) for row in rows])

    def _line(self, row: int) -> np.ndarray:
        own = self._by_owner[self._owner_starts[row] : self._owner_starts[row + 1]]
        words = self._words[own]
        begin, lengths = self._starts[words], self._starts[words + 1] - self._starts[words]
        skipped = np.cumsum(lengths) - lengths
        places = np.arange(lengths.sum()) + np.repeat(begin - skipped, lengths)
        # Whole numbers, added exactly: equal profiles score alike.
        shared = np.bincount(
            self._owners[places], np.repeat(self._counts[own], lengths) * self._counts[places], minlength=self._number
        )
        return (shared * self._scale * self._scale[row]).astype(np.float32)
