"""A head that learns: gradients and logits of batches, by what the head reads.

Legend: S sequences, L nucleotides, D hidden size, C outputs of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.structure_head import StructureHead
from raypipe.finetuning.examples import Examples
from raypipe.finetuning.feeds import Feed, Parts
from raypipe.finetuning.losses import Loss, Scale

Batch = Sequence[int]
"""Places of examples."""


class Learner(Protocol):
    """What `training` needs of a task."""

    def count(self, batch: Batch) -> float:
        """What the loss of a batch is to be divided by."""
        ...

    def backward(self, batch: Batch, divisor: float) -> float:
        """Add the gradients of the batch's loss over `divisor`; returns the sum that was divided."""
        ...

    def measure(self, batch: Batch) -> tuple[list[np.ndarray], float]:
        """Without gradients: the logits of each example, and the sum of their losses.

        Logits are (C,), (L, C) or (L, L); values are in the units of the labels.
        """
        ...


class NotFinite(ArithmeticError):
    """A loss that is no number.

    Args:
        total: the loss.
        batch: of these examples.
    """

    def __init__(self, total: float, batch: Batch) -> None:
        super().__init__(f"the loss is {total}")
        self.batch = batch


@dataclass
class RowLearner:
    """Sequence and token heads, whose outputs are rows.

    Attributes:
        head: the module.
        feed: what it reads.
        examples: with their labels.
        loss_of: the loss.
        scale: of regression, else None.
    """

    head: nn.Module
    feed: Feed
    examples: Examples
    loss_of: Loss
    scale: Scale | None = None

    def count(self, batch: Batch) -> float:
        """See `Learner`."""
        return self.loss_of.count(self._labels(batch))

    def backward(self, batch: Batch, divisor: float) -> float:
        """See `Learner`."""
        total = self.loss_of.total(self._rows(batch), self._labels(batch))
        _check(total, batch)
        if total.requires_grad:
            (total / divisor).backward()
        return float(total.detach())

    def measure(self, batch: Batch) -> tuple[list[np.ndarray], float]:
        """See `Learner`."""
        with torch.no_grad():
            logits = self._rows(batch).float()
            total = self.loss_of.total(logits, self._labels(batch))
        _check(total, batch)
        rows = logits.cpu().numpy()
        if self.scale is not None:
            rows = rows * self.scale.spread.astype(np.float32) + self.scale.mean.astype(np.float32)
        if self.examples.space.task == "sequence":
            return list(rows), float(total)
        return np.split(rows, np.cumsum(self.examples.lengths[np.asarray(batch)])[:-1]), float(total)

    def _rows(self, batch: Batch) -> Tensor:
        """(S, C), or (all nucleotides, C)."""
        food = self.feed(batch)
        if isinstance(food, Tensor):
            return self.head(food)
        rows = self.head(torch.cat([states for parts in food for _, states in parts]))
        if all(len(parts) == 1 for parts in food):
            return rows
        return _joined(rows, food)

    def _labels(self, batch: Batch) -> np.ndarray:
        found = [self.examples.labels[place] for place in batch]
        labels = np.stack(found) if self.examples.space.task == "sequence" else np.concatenate(found)
        return labels if self.scale is None else self.scale.shrink(labels)


@dataclass
class PairLearner:
    """Contact and structure heads: every pair of nucleotides i < j of a sequence.

    The loss of a sequence is the sum over its pairs divided by its nucleotides, and sequences count alike: a mean over
    pairs would weigh a pair of a long sequence less and less, as there are about as many true pairs as nucleotides.
    Sequences go through the head one by one, forward and backward, so that the maps of one stand in memory at a time.

    Attributes:
        head, feed, examples: as above.
        positive_weight: of the pairs that are there.
    """

    head: nn.Module
    feed: Feed
    examples: Examples
    positive_weight: float = 1.0

    def count(self, batch: Batch) -> float:
        """See `Learner`."""
        return float(len(batch))

    def backward(self, batch: Batch, divisor: float) -> float:
        """See `Learner`."""
        sum_ = 0.0
        food = self.feed(batch)
        trained: list[Tensor] = []
        gradients: list[Tensor] = []
        for place, ((_, states),) in zip(batch, food, strict=True):
            # The trunk's graph is shared by the batch: it gets the gradients of all sequences at once, below.
            leaf = states.detach().requires_grad_(states.requires_grad)
            total = self._loss(place, self._map(leaf))
            _check(total, [place])
            (total / divisor).backward()
            if leaf.grad is not None:
                trained.append(states)
                gradients.append(leaf.grad)
            sum_ += float(total.detach())
        if trained:
            torch.autograd.backward(trained, gradients)
        return sum_

    def measure(self, batch: Batch) -> tuple[list[np.ndarray], float]:
        """See `Learner`."""
        with torch.no_grad():
            maps = [self._map(states) for ((_, states),) in self.feed(batch)]
            losses = [self._loss(place, found) for place, found in zip(batch, maps, strict=True)]
        for place, loss in zip(batch, losses, strict=True):
            _check(loss, [place])
        return [found.cpu().numpy() for found in maps], sum(map(float, losses))

    def _map(self, states: Tensor) -> Tensor:
        """(L, D) -> (L, L)."""
        logits = self.head(states)
        return logits if logits.ndim == 2 else logits[..., 0]

    def _loss(self, place: int, logits: Tensor) -> Tensor:
        length = len(logits)
        i, j = torch.triu_indices(length, length, 1, device=logits.device)
        wanted = torch.zeros_like(logits, requires_grad=False)
        pairs = torch.from_numpy(self.examples.labels[place]).long().to(logits.device)
        wanted[pairs[:, 0], pairs[:, 1]] = 1
        weight = torch.tensor(self.positive_weight, device=logits.device)
        total = F.binary_cross_entropy_with_logits(
            logits[i, j].float(), wanted[i, j], pos_weight=weight, reduction="sum"
        )
        return total / max(length, 1)


def set_prior(head: nn.Module, examples: Examples) -> None:
    """Have a fresh pair head begin with the share of the pairs that are there, so that it need not learn that first."""
    last = head.prediction if isinstance(head, StructureHead) else head.decoder
    assert isinstance(last, nn.Conv2d | nn.Linear)
    train = examples.part("train")
    lengths = examples.lengths[train]
    there = sum(len(examples.labels[place]) for place in train.tolist())
    share = (there + 1) / (float((lengths * (lengths - 1) / 2).sum()) + 2)
    if last.bias is not None:
        nn.init.constant_(last.bias, float(np.log(share / (1 - share))))


def _joined(rows: Tensor, food: list[Parts]) -> Tensor:
    """Rows of windows averaged over those that cover a nucleotide."""
    places: list[Tensor] = []
    begin = 0
    for parts in food:
        places += [torch.arange(start, start + len(states)) + begin for start, states in parts]
        begin += max(start + len(states) for start, states in parts)
    place = torch.cat(places).to(rows.device)
    times = torch.zeros(begin, device=rows.device).index_add(0, place, torch.ones_like(place, dtype=torch.float32))
    return rows.new_zeros(begin, rows.shape[1]).index_add(0, place, rows) / times[:, None]


def _check(total: Tensor, batch: Batch) -> None:
    if not torch.isfinite(total):
        raise NotFinite(float(total.detach()), batch)
