"""Base pairs and contacts: the best threshold, and how well pairs are found.

Legend: L nucleotides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from model.decode import decode_structure
from model.structure_metrics import PairCounts, compare_pairs, mean_scores, pooled_scores
from raypipe.finetuning.metrics import Metrics

BINS = 100
THRESHOLDS = np.arange(5, 96, 5) / 100
"""Among which the best is looked for."""
_DRAWS = 100
_KEPT = 10
"""Likeliest pairs that are kept of a sequence while a threshold is looked for, times its nucleotides: 20 times those
of any structure."""


@dataclass
class PairMaps:
    """What a head says of the pairs of many sequences, as much of it as measuring needs.

    Attributes:
        structure: whether pairs are put together into a nested structure; contacts are all pairs above the threshold.
        texts, truths: sequences, and their pairs (n, 2).
        found: the likeliest pairs: i, j and probability.
        yes, no: how many true and other pairs have a probability in each of `BINS`.
    """

    structure: bool
    texts: list[str] = field(default_factory=list)
    truths: list[np.ndarray] = field(default_factory=list)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    yes: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    no: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, text: str, truth: np.ndarray, probabilities: np.ndarray) -> None:
        """Take the (L, L) map of a sequence."""
        length = len(text)
        i, j = np.triu_indices(length, 1)
        p = probabilities[i, j]
        place = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        is_pair = np.zeros((length, length), bool)
        is_pair[truth[:, 0], truth[:, 1]] = True
        true = is_pair[i, j]
        self.yes += np.bincount(place[true], minlength=BINS)
        self.no += np.bincount(place[~true], minlength=BINS)
        if len(p) > _KEPT * length:
            best = np.argpartition(-p, _KEPT * length)[: _KEPT * length]
            i, j, p = i[best], j[best], p[best]
        self.texts.append(text)
        self.truths.append(truth)
        self.found.append((i.astype(np.int32), j.astype(np.int32), p.astype(np.float32)))

    def likely_threshold(self) -> float:
        """The one of `THRESHOLDS` that parts pairs from the rest best, by the F1 of all pairs before any decoding."""
        # From each bin up: what is above the threshold.
        hits, wrong = self.yes[::-1].cumsum()[::-1], self.no[::-1].cumsum()[::-1]
        places = np.round(THRESHOLDS * BINS).astype(int)
        f1 = 2 * hits[places] / np.maximum(hits[places] + wrong[places] + self.yes.sum(), 1)
        return float(THRESHOLDS[int(f1.argmax())])

    def measure(self, threshold: float) -> Metrics:
        """Figures at a threshold, means over sequences."""
        return figures([self._compare(place, threshold) for place in range(len(self.texts))])

    def best_threshold(self) -> float:
        """The one of `THRESHOLDS` with the highest mean F1, near the one that is likely."""
        likely = self.likely_threshold()
        near = [float(t) for t in THRESHOLDS if abs(t - likely) < 0.26]
        return max(near, key=lambda t: self.measure(t)["f1"] or 0.0)

    def _compare(self, place: int, threshold: float) -> PairCounts:
        text, (i, j, p) = self.texts[place], self.found[place]
        if self.structure:
            dense = np.zeros((len(text), len(text)), np.float32)
            dense[i, j] = dense[j, i] = p
            said = np.array(decode_structure(dense, text, threshold=threshold).pairs, np.int64).reshape(-1, 2)
        else:
            above = p > threshold
            said = np.stack([i[above], j[above]], axis=1)
        return compare_pairs(said, self.truths[place], len(text))


def figures(counts: Sequence[PairCounts]) -> Metrics:
    """Means over sequences, and the F1 of all pairs together."""
    if not counts:
        return {}
    return {**asdict(mean_scores(counts)), "pooled_f1": pooled_scores(counts).f1}


def pairs_error(counts: Sequence[PairCounts], name: str) -> float | None:
    """Standard error of a figure over sequences drawn again, with replacement (bootstrap)."""
    dice = np.random.default_rng(0)
    number = len(counts)
    drawn = [dice.integers(0, number, number).tolist() for _ in range(_DRAWS if number > 1 else 0)]
    values = (figures([counts[place] for place in places])[name] for places in drawn)
    found = [value for value in values if value is not None]
    return float(np.std(found, ddof=1)) if len(found) > 1 else None
