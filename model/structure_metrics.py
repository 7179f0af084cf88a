"""How well predicted base pairs agree with known ones.

A pair is two nucleotides i < j; pairs that cross (pseudoknots) count as any other, and so do non-canonical ones. Per
sequence, with P predicted and K known pairs:

    precision (positive predictive value) = predicted pairs that are right / P
    recall (sensitivity)                  = known pairs that were found / K
    F1                                    = 2 precision recall / (precision + recall)
    MCC                                   = (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))

Exact: a predicted pair is right, and a known one found, where the other structure has the same pair. With a shift of
one (Mathews 2004, RNA 10:1178): where the other structure has (i, j), (i - 1, j), (i + 1, j), (i, j - 1) or (i, j + 1),
for which of two neighbours pairs is often uncertain, and may change in solution. MCC (Matthews 1975) is exact, over all
L (L - 1) / 2 pairs i < j of a sequence of L nucleotides.

Two structures without any pair agree: all figures are 1. Else a figure whose denominator is 0 is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from math import sqrt
from typing import Any

import numpy as np

from model.errors import ModelError


@dataclass(frozen=True)
class PairScores:
    """The figures of the module's text, each from 0 to 1 (`mcc` from -1).

    Attributes:
        precision, recall, f1: exact.
        precision_shift, recall_shift, f1_shift: with a shift of one.
        mcc: exact.
    """

    precision: float
    recall: float
    f1: float
    precision_shift: float
    recall_shift: float
    f1_shift: float
    mcc: float


@dataclass(frozen=True)
class PairCounts:
    """What a comparison of structures counts; counts of several sequences can be added.

    Attributes:
        predicted: predicted pairs.
        known: known pairs.
        same: pairs that are both.
        right_shift: predicted pairs that are right with a shift of one.
        found_shift: known pairs that were found with a shift of one.
        possible: pairs i < j that there are.
    """

    predicted: int = 0
    known: int = 0
    same: int = 0
    right_shift: int = 0
    found_shift: int = 0
    possible: int = 0

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def scores(self) -> PairScores:
        """The figures that follow from the counts."""
        if not self.predicted and not self.known:
            return PairScores(*(1.0,) * len(fields(PairScores)))
        exact = _ratio(self.same, self.predicted), _ratio(self.same, self.known)
        shifted = _ratio(self.right_shift, self.predicted), _ratio(self.found_shift, self.known)
        return PairScores(*exact, _f1(*exact), *shifted, _f1(*shifted), self._mcc())

    def _mcc(self) -> float:
        wrong, missed = self.predicted - self.same, self.known - self.same
        neither = self.possible - self.same - wrong - missed
        # Python's whole numbers: the product of four counts overflows those of a machine.
        product = self.predicted * self.known * (neither + wrong) * (neither + missed)
        return (self.same * neither - wrong * missed) / sqrt(product) if product else 0.0


def compare_pairs(predicted: Iterable[Any], known: Iterable[Any], length: int) -> PairCounts:
    """Count how two structures of one sequence agree.

    Args:
        predicted: pairs (i, j) with i < j, from 0, such as `Structure.pairs` or a (P, 2) array.
        known: the same.
        length: L nucleotides of the sequence.

    Raises:
        ModelError: a pair that does not fit the sequence, or is given twice.
    """
    first, second = _keys(predicted, length, "predicted"), _keys(known, length, "known")
    return PairCounts(
        predicted=len(first),
        known=len(second),
        same=int(np.isin(first, second).sum()),
        right_shift=_near(first, second, length),
        found_shift=_near(second, first, length),
        possible=length * (length - 1) // 2,
    )


def mean_scores(counts: Sequence[PairCounts]) -> PairScores:
    """Mean over sequences (macro average): each counts the same, however long it is.

    Raises:
        ModelError: there is no sequence.
    """
    _refuse_none(counts)
    each = [one.scores() for one in counts]
    return PairScores(*(float(np.mean([getattr(s, f.name) for s in each])) for f in fields(PairScores)))


def pooled_scores(counts: Sequence[PairCounts]) -> PairScores:
    """The figures of all pairs of all sequences together (micro average): each pair counts the same.

    Raises:
        ModelError: there is no sequence.
    """
    _refuse_none(counts)
    return sum(counts, PairCounts()).scores()


def _keys(pairs: Iterable[Any], length: int, which: str) -> np.ndarray:
    """One number for each pair, (P,) int64: row times the width of a map with a margin of one, plus column."""
    rows = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    bad = ~((rows[:, 0] >= 0) & (rows[:, 0] < rows[:, 1]) & (rows[:, 1] < length))
    if bad.any():
        i, j = rows[bad.argmax()].tolist()
        raise ModelError(f"the {which} pair ({i}, {j}) does not fit a sequence of {length}: 0 <= i < j < {length}")
    keys = np.unique((rows[:, 0] + 1) * (length + 2) + rows[:, 1] + 1)
    if len(keys) < len(rows):
        raise ModelError(f"a {which} pair is given twice")
    return keys


def _near(these: np.ndarray, others: np.ndarray, length: int) -> int:
    """How many of these pairs the others have, with a shift of one."""
    width = length + 2
    # The margin keeps a pair at the edge from becoming one at the other edge of the next row.
    return int(np.any([np.isin(these + step, others) for step in (0, 1, -1, width, -width)], axis=0).sum())


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _refuse_none(counts: Sequence[PairCounts]) -> None:
    if not counts:
        raise ModelError("there is no sequence to take the figures of")
