"""Sequences that share a long stretch with those of held-out families.

Most ncRNAs carry no family label, and some of them are of held-out families all the same. A stretch of 32 nucleotides
in common by chance is out of the question (4**32 of them), so whoever shares one is kin, or holds a piece of kin.

Legend: S sequences of the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

STRETCH = 32
"""Nucleotides; two bits of each fill a 64-bit word."""

_AT_ONCE = 4_000_000
"""Nucleotides, of which a few arrays of 64-bit words are held."""


def share_stretch(ids: np.ndarray, offsets: np.ndarray, known: np.ndarray, nucleotides: np.ndarray) -> np.ndarray:
    """Which sequences have `STRETCH` nucleotides in a row in common with one of `known`, on the same strand.

    Holds 8 bytes for every nucleotide of the known sequences.

    Args:
        ids: token ids of all sequences end to end.
        offsets: (S + 1,) int64, where each begins.
        known: (S,) bool.
        nucleotides: (4,) ids of A, C, G and U; a stretch with any other letter is like no other.

    Returns:
        (S,) bool, True for the known ones that are long enough as well.
    """
    code = np.full(256, 4, dtype=np.uint8)
    code[nucleotides] = np.arange(4)
    words = [np.unique(found) for rows, found, _ in _stretches(ids, offsets, np.flatnonzero(known), code)]
    wanted = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *words]))
    shares = np.zeros(len(offsets) - 1, dtype=bool)
    for rows, found, owner in _stretches(ids, offsets, np.arange(len(offsets) - 1), code):
        place = np.searchsorted(wanted, found)
        hit = place < len(wanted)
        hit[hit] = wanted[place[hit]] == found[hit]
        shares[rows[owner[hit]]] = True
    return shares


def _stretches(
    ids: np.ndarray, offsets: np.ndarray, rows: np.ndarray, code: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every stretch of some sequences as a word: (rows at hand, (W,) uint64 words, (W,) place of each one's row)."""
    lengths = np.diff(offsets)[rows]
    ends = np.cumsum(lengths)
    first = 0
    while first < len(rows):
        begun = ends[first - 1] if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, begun + _AT_ONCE, side="right")))
        chosen, size = rows[first:stop], lengths[first:stop]
        starts = np.cumsum(size) - size
        place = np.repeat(offsets[chosen] - starts, size) + np.arange(size.sum())
        letters = code[ids[place]]
        owner = np.repeat(np.arange(len(chosen)), size)
        words, fits = letters.astype(np.uint64), letters < 4
        width = 1
        while width < STRETCH:
            words = (words[:-width] << np.uint64(2 * width)) | words[width:]
            fits = fits[:-width] & fits[width:]
            width *= 2
        # A stretch that begins in one sequence and ends in the next is of neither.
        fits &= owner[: len(fits)] == owner[STRETCH - 1 :][: len(fits)]
        yield chosen, words[fits], owner[: len(fits)][fits]
        first = stop
