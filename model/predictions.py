"""What a head says of one sequence, in the words of its task: probabilities, classes, values, contacts.

Legend: L nucleotides of the sequence, C labels of the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from model.decode import decode_structure
from model.errors import ModelError
from model.head_config import HeadConfig, Problem
from model.structure import Structure

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class SequencePrediction:
    """Of a sequence head.

    Attributes:
        head, problem, label_names: whose it is; C names.
        values: (C,) float32: probabilities, or the values themselves for regression.
        label: the likeliest class (multiclass).
        labels: classes above the threshold (multilabel).
        positive: whether the probability is above the threshold (binary).
        value: the value, where a regression has one.
    """

    head: str
    problem: Problem
    label_names: tuple[str, ...]
    values: np.ndarray
    label: str | None = None
    labels: tuple[str, ...] | None = None
    positive: bool | None = None
    value: float | None = None


@dataclass(frozen=True)
class TokenPrediction:
    """Of a token head.

    Attributes:
        head, problem, label_names: whose it is; C names.
        values: (L, C) float32: probabilities, or the values themselves for regression.
        labels: the likeliest class of each nucleotide (multiclass), else None.
    """

    head: str
    problem: Problem
    label_names: tuple[str, ...]
    values: np.ndarray
    labels: list[str] | None = None


@dataclass(frozen=True)
class ContactPrediction:
    """Of a contact or structure head: the pairs i < j (from 0) whose score is above the threshold.

    A multiclass head gives every class of a pair that is above it, one that stands for "no contact" too; regression,
    which knows no threshold, every pair that was read.

    Attributes:
        head, problem, label_names: whose it is; C names.
        i, j: (n,) int32.
        score: (n,) float32 probabilities, or values for regression.
        label: (n,) int32, which of the C labels an entry speaks of; None where there is one.
        structure: the decoded structure, where the head says of each pair whether it is one (binary, C = 1).
        probabilities: (L, L), or (L, L, C) for a contact head: the whole map; None unless asked for.
    """

    head: str
    problem: Problem
    label_names: tuple[str, ...]
    i: np.ndarray
    j: np.ndarray
    score: np.ndarray
    label: np.ndarray | None = None
    structure: Structure | None = None
    probabilities: np.ndarray | None = None


Prediction = SequencePrediction | TokenPrediction | ContactPrediction


@dataclass(frozen=True)
class Decision:
    """How logits become predictions.

    Attributes:
        name: the head's.
        config: its configuration; names its problem.
        threshold: probability from which on something is said to be so; None takes the head's own, else 0.5.
        pseudoknots: whether a structure may have crossing pairs.
        dense: whether to keep whole contact maps.
    """

    name: str
    config: HeadConfig
    threshold: float | None = None
    pseudoknots: bool = False
    dense: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not (isinstance(self.threshold, int | float) and 0 <= self.threshold < 1):
            raise ModelError(f"threshold must be a probability from 0 to below 1, not {self.threshold!r}")
        _ = self.problem

    @property
    def problem(self) -> Problem:
        """The head's problem.

        Raises:
            ModelError: the checkpoint does not say.
        """
        if self.config.problem is None:
            raise ModelError(
                f"the settings of the head {self.name!r} do not say what it predicts (regression, binary, multiclass "
                "or multilabel), so its logits have no meaning in words; read them with Model.logits, or write the "
                "head anew with its HeadConfig.problem set"
            )
        return self.config.problem

    @property
    def limit(self) -> float:
        """The threshold in use."""
        if self.threshold is not None:
            return self.threshold
        return DEFAULT_THRESHOLD if self.config.threshold is None else self.config.threshold

    def predict(self, logits: np.ndarray, sequence: str) -> Prediction:
        """Read the logits of one sequence.

        Args:
            logits: (C,), (L, C), (L, L, C) or (L, L), by the kind of head.
            sequence: its L letters.
        """
        values = probabilities(logits, self.problem)
        about = (self.name, self.problem, self.config.label_names)
        if self.config.kind == "sequence":
            return SequencePrediction(*about, values, **self._words(values))
        if self.config.kind == "token":
            labels = None
            if self.problem == "multiclass":
                labels = [self.config.label_names[best] for best in values.argmax(-1).tolist()]
            return TokenPrediction(*about, values, labels)
        return self._contacts(values, sequence)

    def _words(self, values: np.ndarray) -> dict[str, Any]:
        names = self.config.label_names
        if self.problem == "multiclass":
            return {"label": names[int(values.argmax())]}
        if self.problem == "multilabel":
            return {"labels": tuple(name for name, value in zip(names, values, strict=True) if value > self.limit)}
        if len(values) > 1:
            return {}
        return {"positive": bool(values[0] > self.limit)} if self.problem == "binary" else {"value": float(values[0])}

    def _contacts(self, values: np.ndarray, sequence: str) -> ContactPrediction:
        maps = values.reshape(*values.shape[:2], -1)
        many = maps.shape[-1] > 1
        upper = np.triu(np.ones(maps.shape[:2], dtype=bool), 1)
        # A value is no probability, so no threshold parts contacts from the rest; -inf are pairs that were not read.
        chosen = upper[..., None] & (~np.isneginf(maps) if self.problem == "regression" else maps > self.limit)
        i, j, label = (axis.astype(np.int32) for axis in np.nonzero(chosen))
        structure = None
        if self.problem == "binary" and not many:
            structure = decode_structure(maps[..., 0], sequence, threshold=self.limit, pseudoknots=self.pseudoknots)
        return ContactPrediction(
            self.name,
            self.problem,
            self.config.label_names,
            i,
            j,
            maps[chosen],
            label if many else None,
            structure,
            values if self.dense else None,
        )


def probabilities(logits: np.ndarray, problem: Problem) -> np.ndarray:
    """What logits mean: sigmoid (binary, multilabel), softmax over the last axis (multiclass), or the values.

    Where all logits are -inf (pairs that no window covers) every probability is 0.
    """
    if problem == "regression":
        return logits
    # In place and in float32: maps are large.
    if problem == "multiclass":
        highest = logits.max(-1, keepdims=True)
        x = np.exp(logits - np.where(np.isneginf(highest), np.float32(0), highest))
        x /= np.maximum(x.sum(-1, keepdims=True), np.finfo(np.float32).tiny)
        return x
    # The sigmoid by tanh, which does not overflow.
    x = np.tanh(np.float32(0.5) * logits)
    x += 1
    x *= np.float32(0.5)
    return x
