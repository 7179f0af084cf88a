"""The best nested choice among given pairs: the one piece of dynamic programming that decoding and writing share.

Legend: n pairs, P distinct positions that occur in them.
"""

from __future__ import annotations

import numpy as np


def best_nested(first: np.ndarray, second: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Choose pairs that do not cross, share no position and have the highest sum of scores.

    The recursion is that of Nussinov, Pieczenik, Griggs and Kleitman (1978): with best[a, b] for the positions
    a <= x < b, position a is either left out or paired with some k of its pairs,

        best[a, b] = max(best[a + 1, b], max over k of score(a, k) + best[a + 1, k] + best[k + 1, b]).

    A pair (a, k) that is no better than what a..k reaches without it cannot be better inside of a longer stretch,
    so it is passed over (Wexler, Zilberstein and Ziv-Ukelson 2007). What remains is done for all b at once.

    Args:
        first: (n,) positions, any integers.
        second: (n,) their partners, each greater than its `first`; no pair is given twice.
        score: (n,) positive numbers.

    Returns:
        (m,) places of the chosen pairs in the arguments, ascending. Among equal choices it is always the same one; with
        scores that add up without rounding, the one that pairs the leftmost position, with its nearest partner.
        Memory is 4 P^2 bytes.
    """
    positions, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    size, n = len(positions), len(first)
    order = np.lexsort((place[n:], place[:n]))
    left, right = place[:n][order], place[n:][order]
    score = np.asarray(score, dtype=np.float64)[order]
    start = np.searchsorted(left, np.arange(size + 1)).tolist()

    # Only the part right of the diagonal is ever written, the rest of the zeros takes no memory.
    best = np.zeros((size + 1, size + 1))
    for a in range(size - 1, -1, -1):
        row = best[a]
        row[a + 1 :] = best[a + 1, a + 1 :]
        partners = right[start[a] : start[a + 1]]
        inner = score[start[a] : start[a + 1]] + best[a + 1, partners]
        useful = inner > row[partners + 1]
        for k, value in zip(partners[useful].tolist(), inner[useful].tolist(), strict=True):
            if value > row[k + 1]:
                np.maximum(row[k + 1 :], value + best[k + 1, k + 1 :], out=row[k + 1 :])

    chosen: list[int] = []
    stretches = [(0, size)]
    while stretches:
        a, b = stretches.pop()
        while best[a, b] > 0:
            partners = right[start[a] : start[a + 1]]
            partners = partners[partners < b]
            pairs = score[start[a] : start[a] + len(partners)]
            # The same additions in the same order as above, so equality is exact.
            same = np.flatnonzero(pairs + best[a + 1, partners] + best[partners + 1, b] == best[a, b])
            if len(same):
                k = int(partners[same[0]])
                chosen.append(start[a] + int(same[0]))
                stretches.append((a + 1, k))
                a = k + 1
            else:
                a += 1
    return np.sort(order[chosen])
