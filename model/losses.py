"""Labels as people give them, and the losses of the four problems.

What the reference (multimolecule 0.0.8) does differently, and why it is not so here:
    - positions of padding count in its losses, so a loss depends on what else is in the batch; here there are none;
    - only multiclass has a value for "not labelled"; here every problem has (-100, for regression NaN);
    - labels without the batch dimension are refused, those of its own examples too; here a single sequence needs none;
    - regression with several outputs sums their root mean squared errors; here it is the mean squared error (as in
      its release 0.2.2);
    - the problem inferred from the first labels is kept for all later ones; here each call looks at its own;
    - it takes two distinct values for multilabel and any other number for multiclass, also where the shape says the
      opposite; here the shape decides.

Legend: L nucleotides of one sequence, S sequences, C labels; "..." is () for a sequence head, (L,) for a token head and
(L, L) for a contact or structure head. All L * L pairs count there, the diagonal and both triangles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.errors import ModelError
from model.head_config import HeadConfig, Kind, Problem

IGNORE = -100
"""The label of what is not labelled; regression has NaN instead, since -100 is a value there."""

AXES: dict[Kind, int] = {"sequence": 0, "token": 1, "contact": 2, "structure": 2}

Shape = tuple[int, ...]


def loss_terms(logits: Tensor, labels: Tensor | np.ndarray, problem: Problem) -> tuple[Tensor, Tensor]:
    """Sum of the losses of the labelled entries, and their number; the loss is their quotient.

    Sums and numbers of several sequences may be added before the division. Entries: regression has the squared error
    of every value, binary and multilabel the binary cross entropy of every logit (its mean over all entries is the
    multilabel soft margin loss), multiclass the cross entropy of every distribution over the C classes.

    Args:
        logits: (..., C), or (...) where C is 1.
        labels: (..., C) for multilabel and regression, (...) else, and where C is 1 in either form.
        problem: which loss.

    Returns:
        The sum, a float scalar that can be differentiated, and the number, an integer scalar.

    Raises:
        ModelError: the shapes do not fit.
    """
    labels = torch.as_tensor(labels, device=logits.device)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if problem == "multiclass":
        if logits.ndim != labels.ndim + 1 or logits.shape[:-1] != labels.shape:
            raise ModelError(_unequal(logits, labels))
        known = labels != IGNORE
        return F.cross_entropy(logits[known], labels[known].long(), reduction="sum"), known.sum()
    if logits.ndim == labels.ndim + 1 and logits.shape[-1] == 1:
        logits = logits.squeeze(-1)
    elif labels.ndim == logits.ndim + 1 and labels.shape[-1] == 1:
        labels = labels.squeeze(-1)
    if logits.shape != labels.shape:
        raise ModelError(_unequal(logits, labels))
    # Chosen before anything is computed, so that what is ignored gives no gradient, not even of NaN.
    known = ~labels.isnan() if problem == "regression" else labels != IGNORE
    given, wanted = logits[known], labels[known].to(logits.dtype)
    entropy = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
    return entropy(given, wanted, reduction="sum"), known.sum()


def infer_problem(labels: Any, config: HeadConfig, shapes: Sequence[Shape] | None = None) -> Problem:
    """What kind of problem the labels pose, where the head's settings do not say.

    Floating point labels are regression; whole ones are binary where C is 1, multilabel where there is one for each of
    the C labels, multiclass else.

    Args:
        labels: as in `fit_labels`.
        config: of the head.
        shapes: as in `fit_labels`. Without them there must be one row per sequence, also for a single one.
    """
    if config.problem is not None:
        return config.problem
    rows = _rows(labels) if shapes is None else as_arrays(labels, shapes, config)
    rows = [row for row in rows if row.size]
    if any(row.dtype.kind == "f" for row in rows):
        return "regression"
    if config.num_labels == 1:
        return "binary"
    axes = AXES[config.kind]
    many = all(row.ndim == axes + 1 and row.shape[-1] == config.num_labels for row in rows)
    return "multilabel" if rows and many else "multiclass"


def fit_labels(labels: Any, shapes: Sequence[Shape], config: HeadConfig, problem: Problem) -> list[np.ndarray]:
    """Labels in the form that `loss_terms` takes, one new array per sequence.

    Args:
        labels: lists, NumPy arrays or torch tensors, one per sequence; for a single sequence also its labels alone.
            Rows may be padded to a common length with -100 (for regression with NaN or -100). An axis for the labels
            stands last for multilabel and for regression with C > 1; elsewhere one of length 1 may.
            multiclass: 0 to C - 1; binary and multilabel: 0 or 1, or a probability; regression: any number.
            -100, or NaN for regression, says that there is none.
        shapes: what "..." is for each sequence: (), (L,) or (L, L).
        config: of the head.
        problem: of the head or as inferred.

    Returns:
        int64 arrays (...) for multiclass; float32 for the others, (...) or (..., C).

    Raises:
        ModelError: shapes that do not fit or values that are no labels; it names the sequence.
    """
    rows = as_arrays(labels, shapes, config)
    return [_fit(row, shape, config, problem, i) for i, (row, shape) in enumerate(zip(rows, shapes, strict=True))]


def as_arrays(labels: Any, shapes: Sequence[Shape], config: HeadConfig) -> list[np.ndarray]:
    """One array per sequence, as it was given; labels of a single sequence may come without the batch dimension.

    Raises:
        ModelError: another number of rows than sequences, or rows that are no arrays of numbers.
    """
    if len(shapes) == 1:
        whole = label_array(labels, 0)
        forms = [np.asarray(whole[0]), whole] if whole.ndim and len(whole) == 1 else [whole]
        for padded in (False, True):
            for row in forms:
                if _may_fit(row.shape, shapes[0], config.num_labels, padded):
                    return [row]
        return forms[:1]
    rows = _rows(labels)
    if len(rows) != len(shapes):
        raise ModelError(f"{len(rows)} rows of labels for {len(shapes)} sequences; give one row per sequence")
    return rows


def _rows(labels: Any) -> list[np.ndarray]:
    """The labels of each sequence; one row of what cannot be counted off."""
    if isinstance(labels, Tensor | np.ndarray) and labels.ndim:
        return [np.asarray(row) for row in label_array(labels, 0)]
    if isinstance(labels, Sequence) and not isinstance(labels, str | bytes):
        return [label_array(row, i) for i, row in enumerate(labels)]
    return [label_array(labels, 0)]


def label_array(row: Any, index: int) -> np.ndarray:
    """Labels of sequence number `index` of a list, whatever holds them, as an array."""
    try:
        array = np.asarray(_plain(row))
    except ValueError:
        raise ModelError(f"the labels of sequence {index + 1} of the list are lists of unequal lengths") from None
    if array.dtype.kind not in "biuf":
        raise ModelError(f"the labels of sequence {index + 1} of the list are not numbers ({array.dtype})")
    return array


def _plain(value: Any) -> Any:
    """Torch tensors, also inside of lists, as NumPy arrays."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, list | tuple) and any(isinstance(part, Tensor | list | tuple) for part in value):
        return [_plain(part) for part in value]
    return value


def _may_fit(given: Shape, wanted: Shape, num_labels: int, padded: bool) -> bool:
    lead = given[: len(wanted)]
    if len(lead) < len(wanted) or given[len(wanted) :] not in ((), (1,), (num_labels,)):
        return False
    return all(n >= m for n, m in zip(lead, wanted, strict=True)) if padded else lead == wanted


def _fit(row: np.ndarray, shape: Shape, config: HeadConfig, problem: Problem, index: int) -> np.ndarray:
    count = config.num_labels
    tail: Shape = (count,) if problem == "multilabel" or (problem == "regression" and count > 1) else ()
    wanted = (*shape, *tail)
    fitted = row
    if not tail and row.ndim == len(shape) + 1 and row.shape[-1] == 1:
        fitted = row[..., 0]
    elif tail == (1,) and row.ndim == len(shape):
        fitted = row[..., None]
    inside = tuple(slice(n) for n in shape)
    outside = np.ones(fitted.shape, dtype=bool)
    outside[inside] = False
    if fitted[inside].shape != wanted or fitted.shape[len(shape) :] != tail:
        raise ModelError(
            f"the labels of sequence {index + 1} of the list have the shape {row.shape}; a {problem} {config.kind} "
            f"head with {count} label{'s' if count > 1 else ''} takes {wanted}"
        )
    beyond = fitted[outside]
    ignored = (beyond == IGNORE) | (np.isnan(beyond) if problem == "regression" else False)
    if not np.all(ignored):
        raise ModelError(
            f"the labels of sequence {index + 1} of the list have the shape {row.shape}, which is more than its "
            f"{shape}; beyond these only {IGNORE} may stand"
        )
    return _checked(np.asarray(fitted[inside]), count, problem, index)


def _checked(values: np.ndarray, count: int, problem: Problem, index: int) -> np.ndarray:
    if problem == "regression":
        bad, allowed = np.isinf(values), "numbers, or NaN where there is none"
    elif problem == "multiclass":
        good = (values >= 0) & (values < count) & (values == np.floor(values))
        bad, allowed = (values != IGNORE) & ~good, f"classes, 0 to {count - 1}, or {IGNORE} where there is none"
    else:
        bad = (values != IGNORE) & ~((values >= 0) & (values <= 1))
        allowed = f"0 or 1 (or a probability), or {IGNORE} where there is none"
    if np.any(bad):
        raise ModelError(
            f"the labels of sequence {index + 1} of the list hold {values[bad][0]}; those of a {problem} head are "
            f"{allowed}"
        )
    return np.array(values, dtype=np.int64 if problem == "multiclass" else np.float32)


def _unequal(logits: Tensor, labels: Tensor) -> str:
    return f"logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)} do not fit each other"
