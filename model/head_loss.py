"""Losses of whole sequences, windows and truncation included, over what `model.losses` says of single arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from model.errors import ModelError
from model.head_config import HeadConfig, Problem
from model.losses import AXES, IGNORE, fit_labels, infer_problem, label_array, loss_terms
from model.passes import Reading
from model.windows import pair_coverage


class HeadLoss:
    """The loss of one task head over a list of sequences: `terms` of each, then their `mean`.

    Args:
        config: of the head; where it does not say its problem, the labels do.
        labels: see `Model.loss`.
        reading: the sequences.

    Raises:
        ModelError: labels do not fit.
    """

    def __init__(self, config: HeadConfig, labels: Any, reading: Reading) -> None:
        self._windows = reading.windows
        self._pairs = config.kind in ("contact", "structure")
        lengths = [int(n) for n in reading.tokens.lengths]
        axes = AXES[config.kind]
        shapes = [(n,) * axes for n in lengths]
        self._problem: Problem = config.problem or infer_problem(labels, config, shapes)
        rows = fit_labels(labels, shapes, config, self._problem)
        # What is not read has no logits.
        kept = [int(n) for n in reading.windows.kept]
        self._rows = [np.asarray(row[(slice(n),) * axes]) for row, n in zip(rows, kept, strict=True)]

    def terms(self, index: int, logits: np.ndarray) -> tuple[float, int]:
        """Sum of the losses of what is labelled in a sequence, and how many entries that is."""
        labels = self._rows[index]
        if self._pairs and self._windows.count[index] > 1:
            # Of pairs that no window covers the model says nothing.
            own = np.flatnonzero(self._windows.sequence == index)
            read = pair_coverage(self._windows.start[own], self._windows.length[own], len(labels)) > 0
            logits, labels = logits[read], labels[read]
        total, count = loss_terms(torch.from_numpy(logits), labels, self._problem)
        return float(total), int(count)

    def mean(self, terms: Sequence[tuple[float, int]]) -> float:
        """The mean over everything that is labelled.

        Raises:
            ModelError: nothing is.
        """
        count = sum(n for _, n in terms)
        if not count:
            raise ModelError("nothing is labelled (all labels are -100 or NaN), so there is no loss")
        return sum(total for total, _ in terms) / count


def masked_lm_loss(logits: Sequence[np.ndarray], labels: Sequence[Any] | np.ndarray, reading: Reading) -> float:
    """Mean cross entropy over the labelled tokens of all sequences.

    Args:
        logits: one (L + 2, V) array per sequence.
        labels: one row of token ids per sequence, special tokens included, -100 where nothing is asked.
        reading: the sequences.

    Raises:
        ModelError: rows do not fit the sequences, or no token is labelled.
    """
    if not hasattr(labels, "__len__"):
        raise ModelError("labels of the masked LM are token ids, one row for each sequence")
    if len(reading) == 1 and len(labels) != 1:
        labels = [labels]
    if len(labels) != len(reading):
        raise ModelError(f"{len(labels)} rows of labels for {len(reading)} sequences")
    rows = [_fit_tokens(label_array(row, i), reading, i) for i, row in enumerate(labels)]
    if not any((row >= 0).any() for row in rows):
        raise ModelError("no token is labelled (all are -100), so there is no loss")
    targets = torch.from_numpy(np.concatenate(rows).astype(np.int64))
    return float(F.cross_entropy(torch.from_numpy(np.concatenate(logits)), targets, ignore_index=IGNORE))


def _fit_tokens(row: np.ndarray, reading: Reading, index: int) -> np.ndarray:
    whole, kept = int(reading.tokens.lengths[index]) + 2, int(reading.windows.kept[index]) + 2
    if row.ndim != 1 or len(row) < whole or (row[whole:] != IGNORE).any():
        raise ModelError(
            f"the labels of sequence {index + 1} of the list do not fit its {whole} tokens (special tokens "
            f"included; beyond them only {IGNORE} may stand)"
        )
    if (
        not np.issubdtype(row.dtype, np.integer)
        or ((row != IGNORE) & ((row < 0) | (row >= len(reading.alphabet)))).any()
    ):
        raise ModelError(f"the labels of sequence {index + 1} of the list must be token ids or {IGNORE}")
    return np.concatenate([row[: kept - 1], row[whole - 1 : whole]])
