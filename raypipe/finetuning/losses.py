"""Losses with weights, and labels of regression in units of their spread.

Legend: C outputs of the head, L nucleotides; "..." is (S,) or (L,).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.losses import IGNORE, loss_terms
from raypipe.errors import UsageError
from raypipe.finetuning.spaces import Space, tally


@dataclass(frozen=True)
class Loss:
    """Sum of the losses of what is labelled, and what to divide it by.

    Attributes:
        problem: see `model.losses.loss_terms`, which it is where there are no weights.
        weights: (C,) of the classes (multiclass) or of the yes of each output (binary, multilabel).
    """

    problem: str
    weights: Tensor | None = None

    def total(self, logits: Tensor, labels: np.ndarray) -> Tensor:
        """(..., C) and labels -> a scalar with gradients."""
        if self.weights is None:
            return loss_terms(logits, labels, self.problem)[0]  # type: ignore[arg-type]
        known = torch.from_numpy(labels).to(logits.device)
        if self.problem == "multiclass":
            return F.cross_entropy(
                logits.flatten(0, -2), known.flatten(), self.weights, ignore_index=IGNORE, reduction="sum"
            )
        logits = logits.reshape(known.shape)
        there = known != IGNORE
        weights = self.weights.expand(known.shape)[there]
        return F.binary_cross_entropy_with_logits(logits[there], known[there], pos_weight=weights, reduction="sum")

    def count(self, labels: np.ndarray) -> float:
        """What the sum is divided by: labelled entries, for weighted classes the sum of their weights."""
        if self.problem == "regression":
            return float((~np.isnan(labels)).sum())
        known = labels[labels != IGNORE]
        if self.problem == "multiclass" and self.weights is not None:
            return float(self.weights.cpu().numpy()[known].sum())
        return float(known.size)


@dataclass(frozen=True)
class Scale:
    """Labels of regression have a mean of 0 and a spread of 1 while they are learned.

    Attributes:
        mean, spread: (C,) of the training labels.
    """

    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, labels: Iterable[np.ndarray], num_labels: int) -> Scale:
        """Of the training labels."""
        rows = np.concatenate([np.asarray(array, np.float64).reshape(-1, num_labels) for array in labels])
        spread = np.nanstd(rows, axis=0)
        return cls(np.nanmean(rows, axis=0), np.where(spread > 0, spread, 1.0))

    def shrink(self, labels: np.ndarray) -> np.ndarray:
        """As they are learned; an axis for one output is left away."""
        mean, spread = (self.mean, self.spread) if len(self.mean) > 1 else (self.mean[0], self.spread[0])
        return ((labels - mean) / spread).astype(np.float32)

    def fold(self, decoder: nn.Linear) -> None:
        """Have the head give values in the units of the labels, in place."""
        with torch.no_grad():
            mean, spread = self._tensors(decoder)
            decoder.weight.mul_(spread[:, None])
            decoder.bias.mul_(spread).add_(mean)

    def unfold(self, decoder: nn.Linear) -> None:
        """The opposite."""
        with torch.no_grad():
            mean, spread = self._tensors(decoder)
            decoder.weight.div_(spread[:, None])
            decoder.bias.sub_(mean).div_(spread)

    def _tensors(self, decoder: nn.Linear) -> tuple[Tensor, Tensor]:
        mean, spread = (torch.from_numpy(x).to(decoder.weight) for x in (self.mean, self.spread))
        return mean, spread


def class_weights(space: Space, labels: Sequence[np.ndarray], asked: Sequence[str]) -> list[float] | None:
    """Weights as `Loss` takes them.

    "balanced" gives every class the same share of the whole: n / (C n_c), and the yes of a label the weight of its no:
    n_no / n_yes.

    Args:
        space: what the labels are.
        labels: the training labels.
        asked: ["none"], ["balanced"] or NAME=WEIGHT texts.

    Raises:
        UsageError: another word, an unknown name, or a weight that is none.
    """
    if list(asked) in ([], ["none"]):
        return None
    if space.problem == "regression":
        raise UsageError("--class-weights: values have no classes; leave it out")
    if list(asked) == ["balanced"]:
        counts = tally(space, labels)
        if space.problem == "multiclass":
            total = sum(counts.values())
            return [total / (space.num_labels * max(counts[name], 1)) for name in space.names]
        known = np.concatenate([(array != IGNORE).reshape(-1, space.num_labels) for array in labels]).sum(0)
        yes = np.array([counts[name] for name in space.names])
        return [float(x) for x in (known - yes) / np.maximum(yes, 1)]
    weights = dict.fromkeys(space.names, 1.0)
    for text in asked:
        name, equals, number = text.rpartition("=")
        if not equals:
            raise UsageError(f"--class-weights {text}: write none, balanced, or NAME=WEIGHT,...")
        if name not in weights:
            raise UsageError(f"--class-weights: no class {name!r}; there are {', '.join(space.names)}")
        try:
            weights[name] = float(number)
        except ValueError:
            raise UsageError(f"--class-weights {text}: {number!r} is no number") from None
        if not 0 < weights[name] < float("inf"):
            raise UsageError(f"--class-weights {text}: a weight is above 0")
    return list(weights.values())
