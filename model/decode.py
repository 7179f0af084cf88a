"""From a map of pairing probabilities to a structure.

Legend: L nucleotides of the sequence, n candidate pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.errors import ModelError
from model.nested import best_nested
from model.structure import Structure, canonical_letters

MOST_LAYERS = 10
"""Layers that are looked for with pseudoknots. Known structures have fewer but for rare ones, noise has dozens, and
this many can be written: by `Structure.layers`, which lays them anew, they have become no more than 18 of the 30
kinds of brackets in maps of pure noise of 4,096 nucleotides."""

# Maps joined from windows are sums of float32 products; more than this is no rounding.
_ROUNDING = 1e-5

_CANONICAL = np.zeros((128, 128), dtype=bool)
for _pair in ("AU", "GC", "GU"):
    _CANONICAL[ord(_pair[0]), ord(_pair[1])] = _CANONICAL[ord(_pair[1]), ord(_pair[0])] = True


def decode_structure(
    probabilities: Any,
    sequence: str,
    *,
    threshold: float = 0.5,
    pseudoknots: bool = False,
    canonical: bool = True,
    min_loop: int = 3,
) -> Structure:
    """The nested structure with the highest sum of (p_ij - threshold) over its pairs.

    With threshold = 1 / (gamma + 1) this is the gamma-centroid estimate of Hamada et al. (2009): the lower the
    threshold, the more pairs. The result is exact and equal input gives equal output.

    With pseudoknots, the best nested pairing among the nucleotides that are still unpaired is added, again and again
    until there is none or there are MOST_LAYERS. So the pairs of the nested structure all stay, and what is added
    crosses them. Adding layers to what is left is the idea of iterated loop matching (Ruan, Stormo and Zhang 2004),
    which takes one helix at a time; a whole layer is taken here. The sum over all layers is not always the highest
    that is possible.

    Args:
        probabilities: (L, L) symmetric, of 0..1; the diagonal is not looked at.
        sequence: L letters of either case, T is read as U.
        threshold: 0 <= threshold < 1; only pairs with p_ij above it, in the number type of the map, can be chosen.
        canonical: choose A-U, G-C and G-U only; a nucleotide with another letter then stays unpaired.
        min_loop: fewest nucleotides that must lie between two that pair.

    Raises:
        ModelError: the map has another shape, is not symmetric, or holds NaN or values outside of 0..1; another
            argument is outside of its range.
    """
    letters = canonical_letters(sequence)
    probabilities = _checked(probabilities, len(letters))
    if not 0 <= threshold < 1:
        raise ModelError(f"the threshold must be at least 0 and below 1, not {threshold}")
    if not isinstance(min_loop, int) or min_loop < 0:
        raise ModelError(f"min_loop must be a whole number from 0, not {min_loop!r}")

    limit = probabilities.dtype.type(threshold)
    first, second = np.nonzero(np.triu(probabilities > limit, min_loop + 1))
    if canonical:
        codes = np.frombuffer(letters.encode("ascii"), dtype=np.uint8)
        kept = _CANONICAL[codes[first], codes[second]]
        first, second = first[kept], second[kept]
    score = probabilities[first, second].astype(np.float64) - float(limit)

    pairs: list[tuple[int, int]] = []
    free = np.ones(len(letters), dtype=bool)
    for _ in range(MOST_LAYERS if pseudoknots else 1):
        chosen = best_nested(first, second, score)
        pairs += zip(first[chosen].tolist(), second[chosen].tolist(), strict=True)
        free[first[chosen]] = free[second[chosen]] = False
        left = free[first] & free[second]
        first, second, score = first[left], second[left], score[left]
    return Structure(letters, tuple(pairs))


def _checked(probabilities: Any, length: int) -> np.ndarray:
    """The map as an array of floats."""
    values = np.asarray(probabilities)
    if values.shape != (length, length):
        raise ModelError(
            f"the map of probabilities has the shape {values.shape}, the sequence has {length} letters: the map must "
            f"have the shape ({length}, {length})"
        )
    if values.dtype.kind in "biu":
        values = values.astype(np.float64)
    if values.dtype.kind != "f":
        raise ModelError(f"the map of probabilities must hold numbers, not {values.dtype}")
    # Written so that NaN is bad too.
    if bad := _first(~((values >= -_ROUNDING) & (values <= 1 + _ROUNDING))):
        raise ModelError(
            f"the map of probabilities has {values[bad]} at [{bad[0]}, {bad[1]}]; probabilities lie in 0..1, and "
            "logits become probabilities by the sigmoid function"
        )
    if bad := _first(np.abs(values - values.T) > _ROUNDING):
        raise ModelError(
            f"the map of probabilities is not symmetric: [{bad[0]}, {bad[1]}] is {values[bad]}, "
            f"[{bad[1]}, {bad[0]}] is {values[bad[::-1]]}; take the mean of the map and its transpose"
        )
    return values


def _first(bad: np.ndarray) -> tuple[int, int] | None:
    """Row and column of the first place that is true."""
    if not bad.any():
        return None
    row, column = np.unravel_index(int(bad.argmax()), bad.shape)
    return int(row), int(column)
