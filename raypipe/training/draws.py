"""Which sequences a step reads. Everything follows from the seed and the step, so a run can go on anywhere.

Legend: S sequences of the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raypipe.training.corpus import TRAIN, Corpus
from raypipe.training.labels import UNKNOWN

# Streams of chance that must not meet: the order of an epoch, what is drawn for a contrastive batch and the views of
# that, stretches and masks of a plain batch.
_ORDER, _DRAW, PLAIN = 1, 2, 3
_POOL = 16
"""Batches that are sorted by length together: passes of like lengths are faster, and their order is random again."""


@dataclass(frozen=True)
class Epochs:
    """The corpus, read again and again in batches of a token budget, each sequence as often as its weight says.

    A weight of 2.3 is two visits in every epoch and a third in 30 % of them; 0.05 one visit in every twentieth.

    Args:
        corpus: what is read; only its sequences in TRAIN.
        batch_tokens: budget of a batch, special tokens counted.
        context: nucleotides that are read of a longer sequence, a random stretch at every visit.
        seed: of the order.
    """

    corpus: Corpus
    batch_tokens: int
    context: int
    seed: int

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.flatnonzero((self.corpus.part == TRAIN) & (self.corpus.weight > 0))

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of one epoch, each as rows of the corpus, in the order of reading."""
        rng = np.random.default_rng([self.seed, _ORDER, epoch])
        rows = self._rows
        visits = np.floor(self.corpus.weight[rows] + rng.random(len(rows))).astype(np.int64)
        order = rng.permutation(np.repeat(rows, visits))
        size = np.minimum(self.corpus.lengths[order], self.context) + 2
        made: list[np.ndarray] = []
        over = np.array([], dtype=np.int64)
        for pool in _cut(size, _POOL * self.batch_tokens):
            inside = np.concatenate([over, np.arange(pool.start, pool.stop)])
            inside = inside[np.argsort(-size[inside], kind="stable")]
            *full, rest = [inside[part] for part in _cut(size[inside], self.batch_tokens)]
            # What fills no batch waits for the next pool: a step over a few short sequences would be noise.
            made += [order[part] for part in full]
            over = rest
        if len(over):
            made.append(order[over])
        return [made[i] for i in rng.permutation(len(made))]


class Reader:
    """Batch after batch of `Epochs` by running number.

    The epoch at hand is kept, and of all others how many batches they have. One thread may ask for batches while
    another asks for the rest.
    """

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self._lengths: dict[int, int] = {}
        self._epoch, self._first, self._batches = 0, 0, epochs.batches(0)
        self._lengths[0] = len(self._batches)

    def __getitem__(self, number: int) -> np.ndarray:
        if number < self._first:
            self._epoch, self._first, self._batches = 0, 0, self._epochs.batches(0)
        while number >= self._first + len(self._batches):
            self._first += len(self._batches)
            self._epoch += 1
            self._batches = self._epochs.batches(self._epoch)
            self._lengths[self._epoch] = len(self._batches)
        return self._batches[number - self._first]

    def count(self, epochs: float) -> int:
        """Batches of so many epochs."""
        whole = int(epochs)
        rest = (epochs - whole) * self._length(whole) if epochs > whole else 0
        return max(1, sum(map(self._length, range(whole))) + round(rest))

    def epoch_of(self, number: int) -> float:
        """Epochs read when batch `number` begins."""
        epoch = 0
        while number >= self._length(epoch):
            number -= self._length(epoch)
            epoch += 1
        return epoch + number / self._length(epoch)

    def _length(self, epoch: int) -> int:
        if epoch not in self._lengths:
            self._lengths[epoch] = len(self._epochs.batches(epoch))
        return self._lengths[epoch]


class Families:
    """Draws related sequences for contrastive learning.

    Every group (a clan, or a family of none) is as likely as any: large families are no better known than small ones.

    Args:
        corpus: its sequences of `part` with a family and a weight above 0; how large the weight is does not count.
        part: TRAIN or VALID.
        seed: of the draws.
    """

    def __init__(self, corpus: Corpus, part: int, seed: int) -> None:
        self._corpus, self._seed = corpus, seed
        rows = np.flatnonzero((corpus.part == part) & (corpus.family != UNKNOWN) & (corpus.weight > 0))
        order = rows[np.lexsort((rows, corpus.family[rows], corpus.group[rows]))]
        self._families = np.split(order, np.flatnonzero(np.diff(corpus.family[order])) + 1) if len(order) else []
        groups = np.array([corpus.group[rows[0]] for rows in self._families], dtype=np.int64)
        self._groups = np.split(np.arange(len(groups)), np.flatnonzero(np.diff(groups)) + 1) if len(groups) else []
        # Weights count here too: what an epoch reads seldom is seldom a single.
        weight = np.where(corpus.part == part, corpus.weight, 0).astype(np.float64)
        self._cumulative = np.cumsum(weight)

    def __len__(self) -> int:
        return len(self._groups)

    def draw(self, number: int, *, groups: int, per_group: int, per_family: int, singles: int) -> Drawn:
        """The sequences of one batch.

        Args:
            number: of the batch; the same number gives the same batch.
            groups: groups drawn.
            per_group: families of each, at most.
            per_family: sequences of each; of a family with fewer, further views of them.
            singles: sequences of any kind, two views of each.
        """
        rng = np.random.default_rng([self._seed, _DRAW, number])
        rows: list[int] = []
        families: list[int] = []
        for g in rng.permutation(len(self._groups))[:groups]:
            for f in rng.permutation(self._groups[g])[:per_group]:
                members = self._families[f]
                chosen = (
                    rng.permutation(members)[:per_family]
                    if len(members) >= per_family
                    else rng.choice(members, per_family)
                )
                rows += chosen.tolist()
                families += [int(self._corpus.family[chosen[0]])] * per_family
        group = self._corpus.group[np.array(rows, dtype=np.int64)].astype(np.int64)
        family = np.array(families, dtype=np.int64)
        if singles and self._cumulative[-1] > 0:
            found = np.searchsorted(self._cumulative, rng.random(singles) * self._cumulative[-1], side="right")
            found = np.repeat(np.unique(found), 2)
            # A single of a known family must not be pushed from that family, so it is one of it.
            known = self._corpus.family[found]
            own = -2 - found
            rows += found.tolist()
            family = np.concatenate([family, np.where(known == UNKNOWN, own, known)])
            group = np.concatenate([group, np.where(known == UNKNOWN, own, self._corpus.group[found])])
        return Drawn(np.array(rows, dtype=np.int64), family, group, rng)


@dataclass(frozen=True)
class Drawn:
    """Sequences of a contrastive batch.

    Attributes:
        rows: (V,) of the corpus, one for each view.
        family: (V,) whose views are of one kind.
        group: (V,) whose families are related.
        rng: chance for what is done with them.
    """

    rows: np.ndarray
    family: np.ndarray
    group: np.ndarray
    rng: np.random.Generator


def _cut(sizes: np.ndarray, budget: int) -> list[slice]:
    """Consecutive stretches of at most `budget` in sum; one item over the budget is a stretch of its own."""
    cumulative = np.concatenate([[0], np.cumsum(sizes)])
    stretches, begin = [], 0
    while begin < len(sizes):
        fits = int(np.searchsorted(cumulative, cumulative[begin] + budget, side="right")) - 1
        stretches.append(slice(begin, max(fits, begin + 1)))
        begin = stretches[-1].stop
    return stretches
