"""Measure a head: on valid while it learns, and what predictions of the finished head are worth.

Legend: n labelled sequences or nucleotides, C outputs of the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model.losses import IGNORE
from model.predictions import ContactPrediction, probabilities
from model.structure_metrics import compare_pairs
from raypipe.finetuning.batching import plain_batches
from raypipe.finetuning.examples import Examples
from raypipe.finetuning.learners import Learner
from raypipe.finetuning.metrics import Metrics, by_class, measure, standard_error
from raypipe.finetuning.pairs import THRESHOLDS, PairMaps, figures, pairs_error
from raypipe.finetuning.spaces import Space


@dataclass(frozen=True)
class Measured:
    """A part as a head sees it while it learns.

    Attributes:
        figures: loss and figures by name.
        pairs: of a pair task.
        labels, values: of the others, (n,) or (n, C) and (n, C).
    """

    figures: dict[str, Any]
    pairs: PairMaps | None = None
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0))
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def best_threshold(self, space: Space) -> float:
        """The threshold with the highest F1 of the yes, for several outputs of its mean."""
        if self.pairs is not None:
            return self.pairs.best_threshold()
        name = "f1" if space.problem == "binary" else "macro_f1"
        return max(map(float, THRESHOLDS), key=lambda t: measure(space, self.labels, self.values, t)[name] or 0.0)


def measure_learner(
    learner: Learner, examples: Examples, places: np.ndarray, batch_tokens: int, threshold: float | None
) -> Measured:
    """Loss and figures of a part, of a head in evaluation mode.

    Args:
        learner: the head and what it reads.
        examples: with their labels.
        places: of the part.
        batch_tokens: of a batch.
        threshold: above which an answer is yes; None looks for the best one of pairs, and is 0.5 else.
    """
    space = examples.space
    pairs = PairMaps(space.task == "structure") if space.task in ("contact", "structure") else None
    total = count = 0.0
    values: dict[int, np.ndarray] = {}
    for batch in plain_batches(places, examples.lengths, batch_tokens):
        logits, sum_ = learner.measure(batch)
        total, count = total + sum_, count + learner.count(batch)
        for place, rows in zip(batch, logits, strict=True):
            if pairs is None:
                values[place] = probabilities(rows, space.problem)
            else:
                pairs.add(examples.sequences[place], examples.labels[place], probabilities(rows, "binary"))
    found: dict[str, Any] = {"loss": total / max(count, 1e-12)}
    if pairs is None:
        labels, all_values = _together(examples, places, [values[place] for place in places.tolist()])
        found |= measure(space, labels, all_values, 0.5 if threshold is None else threshold)
        return Measured(found, None, labels, all_values)
    limit = pairs.likely_threshold() if threshold is None else threshold
    return Measured(found | pairs.measure(limit) | {"threshold": limit}, pairs)


def measure_predictions(
    examples: Examples, places: np.ndarray, predictions: Sequence[Any], threshold: float, metric: str
) -> dict[str, Any]:
    """What the predictions of a finished head are worth, with those of a guess that looks at no sequence beside it.

    Args:
        examples: with their labels.
        places: of those that were predicted.
        predictions: as `Model.predict` gives them, in the order of `places`.
        threshold: above which an answer is yes.
        metric: the figure that gets a standard error, `<metric>_error`.
    """
    space = examples.space
    error = f"{metric}_error"
    if space.task in ("contact", "structure"):
        counts = [
            compare_pairs(said_pairs(space.task, found), examples.labels[place], len(examples.sequences[place]))
            for place, found in zip(places.tolist(), predictions, strict=True)
        ]
        spread = pairs_error(counts, metric)
        return {"sequences": len(places), "n": sum(one.known for one in counts), **figures(counts), error: spread}
    labels, values = _together(examples, places, [found.values for found in predictions])
    found: dict[str, Any] = {
        "sequences": len(places),
        "n": labelled(space, labels),
        **measure(space, labels, values, threshold),
        error: standard_error(space, *_each(examples, places, predictions), threshold, metric),
    }
    found["baseline"] = _baseline(examples, labels, len(values), threshold)
    if space.problem == "multiclass":
        found["classes"] = by_class(space, labels, values)
    elif space.num_labels > 1:
        found["outputs"] = {
            name: measure(_single(space, name), labels[..., c], values[:, c : c + 1], threshold)
            for c, name in enumerate(space.names)
        }
    return found


def said_pairs(task: str, prediction: ContactPrediction) -> np.ndarray:
    """The pairs (n, 2) of a prediction: of its structure for a structure head, else all above the threshold."""
    if task == "structure":
        assert prediction.structure is not None
        return np.array(prediction.structure.pairs, np.int64).reshape(-1, 2)
    return np.stack([prediction.i, prediction.j], axis=1)


def labelled(space: Space, labels: np.ndarray) -> int:
    """How many entries are; -100 is a value of regression."""
    return int((~np.isnan(labels) if space.problem == "regression" else labels != IGNORE).sum())


def _single(space: Space, name: str) -> Space:
    return Space(space.task, "binary" if space.problem == "multilabel" else space.problem, (name,))


def _together(examples: Examples, places: np.ndarray, values: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) or (n, C), and values (n, C)."""
    join = np.stack if examples.space.task == "sequence" else np.concatenate
    return examples.labels_of(places), join(values)


def _each(
    examples: Examples, places: np.ndarray, predictions: Sequence[Any]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Labels and values of each sequence, its labelled things along the first axis."""
    axis = (None,) if examples.space.task == "sequence" else ()
    labels = [examples.labels[place][axis] for place in places.tolist()]
    return labels, [found.values[axis] for found in predictions]


def _baseline(examples: Examples, labels: np.ndarray, number: int, threshold: float) -> Metrics:
    """Figures of a guess that is the same for all: how often a class is there in train, the mean of its values."""
    space = examples.space
    guess = _guess(space, (examples.labels[place] for place in examples.part("train")))
    return measure(space, labels, np.tile(guess, (number, 1)), threshold)


def _guess(space: Space, labels: Iterable[np.ndarray]) -> np.ndarray:
    """(C,)."""
    listed = list(labels)
    if not listed:
        return np.zeros(space.num_labels, np.float32)
    if space.problem == "multiclass":
        all_ = np.concatenate([np.ravel(array) for array in listed])
        counts = np.bincount(all_[all_ >= 0], minlength=space.num_labels)
        return (counts / max(counts.sum(), 1)).astype(np.float32)
    rows = np.concatenate([np.asarray(array).reshape(-1, space.num_labels) for array in listed])
    if space.problem != "regression":
        rows = np.where(rows == IGNORE, np.nan, rows)
    return np.nan_to_num(np.nanmean(rows, axis=0)).astype(np.float32)
