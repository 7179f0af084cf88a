"""Two rules that fold without knowing any structure: what a model has to beat.

Shapes: L nucleotides of one sequence.
"""

from __future__ import annotations

import numpy as np

from model.decode import decode_structure
from model.structure import Pairs

MIN_LOOP = 3
_BONDS = {"GC": 3.0, "AU": 2.0, "GU": 1.0}


def most_pairs(sequence: str) -> Pairs:
    """The most canonical pairs (A-U, G-C, G-U) that nest, hairpin loops of 3 nucleotides or more.

    The maximum matching of Nussinov et al. (1978), decoded as a model's map of equal probabilities would be; of many
    such matchings it is the one that pairs the leftmost position with its nearest partner.
    """
    return decode_structure(np.ones((len(sequence),) * 2, np.float32), sequence, min_loop=MIN_LOOP).pairs


def strongest_helices(sequence: str) -> Pairs:
    """The nested pairs with the highest sum of the strengths of the helices that each could be in.

    The helix of a pair (i, j) is the longest run of canonical pairs (i + k, j - k) through it, its strength the sum
    over them of 3 for G-C, 2 for A-U and 1 for G-U. Nothing in it was fitted to known structures.
    """
    strength = helix_strengths(sequence)
    top = strength.max(initial=0.0)
    if not top:
        return ()
    return decode_structure(strength / top, sequence, threshold=0.0, min_loop=MIN_LOOP).pairs


def helix_strengths(sequence: str) -> np.ndarray:
    """Strength of the helix of every pair, (L, L) float64, symmetric; 0 where two nucleotides cannot pair."""
    length = len(sequence)
    letters = np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)
    bonds = np.zeros((length, length))
    for (one, other), value in _BONDS.items():
        for first, second in ((one, other), (other, one)):
            bonds[np.ix_(letters == ord(first), letters == ord(second))] = value
    away = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    bonds[away <= MIN_LOOP] = 0.0
    # Run sums from either end of the antidiagonals, with a margin of zeros around the map.
    outer, inner = np.zeros((2, length + 2, length + 2))
    for i in range(length):
        outer[i + 1, 1:-1] = np.where(bonds[i] > 0, bonds[i] + outer[i, 2:], 0.0)
    for i in reversed(range(length)):
        inner[i + 1, 1:-1] = np.where(bonds[i] > 0, bonds[i] + inner[i + 2, :-2], 0.0)
    return outer[1:-1, 1:-1] + inner[1:-1, 1:-1] - bonds
