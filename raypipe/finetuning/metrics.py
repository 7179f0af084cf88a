"""Figures of merit of classes, yes-or-no labels and values, by scikit-learn and SciPy.

Legend: n labelled sequences or nucleotides, C outputs of the head.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from raypipe.errors import RaypipeError, UsageError
from raypipe.finetuning.spaces import IGNORE, Space

Metrics = dict[str, float | None]
"""By name; None where a figure is not defined (a class that is not there, labels that do not vary)."""

# Precision and recall of a class that nobody predicts.
_NONE: dict[str, Any] = {"zero_division": 0.0}
LOWER_IS_BETTER = ("loss", "rmse", "mae")
_PAIRS = ("precision", "recall", "f1", "precision_shift", "recall_shift", "f1_shift", "mcc", "pooled_f1")
NAMES: dict[str, tuple[str, ...]] = {
    "multiclass": ("accuracy", "macro_f1", "mcc", "auroc"),
    "binary": ("accuracy", "f1", "macro_f1", "mcc", "auroc", "average_precision"),
    "multilabel": ("accuracy", "macro_f1", "micro_f1", "mcc", "auroc", "average_precision"),
    "regression": ("spearman", "pearson", "r2", "rmse", "mae"),
    "pairs": _PAIRS,
}
"""Names of the figures by problem; "pairs" for contacts and structures."""

USUAL = {
    "multiclass": "macro_f1",
    "binary": "auroc",
    "multilabel": "auroc",
    "regression": "spearman",
    "pairs": "f1",
}
"""What the best epoch is chosen by unless told otherwise."""


def check_installed() -> None:
    """Refuse to begin where the figures could not be computed at the end.

    Raises:
        RaypipeError: scikit-learn or matplotlib is not installed.
    """
    for module, name in (("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")):
        if find_spec(module) is None:
            raise RaypipeError(f"fine-tuning needs {name}, which is not installed: pip install 'raypipe[train]'")


def problem_of(space: Space) -> str:
    """The problem, as `NAMES` calls it."""
    return "pairs" if space.task in ("contact", "structure") else space.problem


def choose_metric(asked: str | None, space: Space) -> str:
    """The figure that the best epoch is chosen by.

    Raises:
        UsageError: there is no such figure for this problem.
    """
    problem = problem_of(space)
    known = ("loss", *NAMES[problem])
    if asked is not None and asked not in known:
        raise UsageError(f"--metric {asked}: {problem} labels have {', '.join(known)}")
    return asked or USUAL[problem]


def is_better(metric: str, new: float, old: float | None) -> bool:
    """Whether a figure is better than another; anything is better than None."""
    if old is None:
        return True
    return new < old if metric in LOWER_IS_BETTER else new > old


def measure(space: Space, labels: np.ndarray, values: np.ndarray, threshold: float = 0.5) -> Metrics:
    """Compare predictions with labels.

    Args:
        space: what the labels are; no pairs.
        labels: (n,) or (n, C), -100 or NaN where nothing is known.
        values: (n, C) probabilities, or values for regression.
        threshold: above which an answer is yes.
    """
    with warnings.catch_warnings():
        # What is not defined is told by None.
        warnings.simplefilter("ignore")
        if space.problem == "multiclass":
            found = _multiclass(labels, values)
        else:
            columns = [
                _column(space.problem, labels.reshape(len(values), -1)[:, c], values[:, c], threshold)
                for c in range(values.shape[1])
            ]
            found = {name: _mean([column[name] for column in columns]) for name in columns[0]}
            if space.problem == "multilabel":
                found["micro_f1"] = _micro_f1(labels, values, threshold)
    return {name: _number(found.get(name)) for name in NAMES[space.problem]}


def by_class(space: Space, labels: np.ndarray, values: np.ndarray) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of each class of a multiclass problem that is there."""
    from sklearn.metrics import precision_recall_fscore_support

    known = labels != IGNORE
    classes = np.unique(labels[known])
    found: Any = precision_recall_fscore_support(labels[known], values[known].argmax(1), labels=classes, **_NONE)
    return {
        space.names[k]: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
        for k, p, r, f, n in zip(classes.tolist(), *found, strict=True)
    }


def _multiclass(labels: np.ndarray, values: np.ndarray) -> Metrics:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, roc_auc_score

    known = labels != IGNORE
    wanted, values = labels[known], values[known]
    if not len(wanted):
        return {}
    said = values.argmax(1)
    # One class against the rest, for those that are there; scikit-learn's own refuses a class without members.
    there = [k for k in np.unique(wanted).tolist() if 0 < (wanted == k).mean() < 1]
    areas = [float(roc_auc_score(wanted == k, values[:, k])) for k in there]
    return {
        "accuracy": float(accuracy_score(wanted, said)),
        "macro_f1": float(f1_score(wanted, said, labels=np.unique(wanted), average="macro", **_NONE)),
        "mcc": float(matthews_corrcoef(wanted, said)),
        "auroc": _mean(areas),
    }


def _column(problem: str, labels: np.ndarray, values: np.ndarray, threshold: float) -> Metrics:
    """One output."""
    return _regression(labels, values) if problem == "regression" else _yes_no(labels, values, threshold)


def _yes_no(labels: np.ndarray, values: np.ndarray, threshold: float) -> Metrics:
    from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef, roc_auc_score

    known = labels != IGNORE
    wanted, values = labels[known] > 0.5, values[known]
    names = ("accuracy", "f1", "macro_f1", "mcc", "auroc", "average_precision")
    if not len(wanted):
        return dict.fromkeys(names)
    said = values > threshold
    both = 0 < wanted.mean() < 1
    return {
        "accuracy": float((wanted == said).mean()),
        "f1": float(f1_score(wanted, said, **_NONE)),
        "macro_f1": float(f1_score(wanted, said, average="macro", **_NONE)),
        "mcc": float(matthews_corrcoef(wanted, said)) if both else None,
        "auroc": float(roc_auc_score(wanted, values)) if both else None,
        "average_precision": float(average_precision_score(wanted, values)) if both else None,
    }


def _regression(labels: np.ndarray, values: np.ndarray) -> Metrics:
    from scipy import stats

    known = ~np.isnan(labels)
    wanted, values = labels[known].astype(np.float64), values[known].astype(np.float64)
    if not len(wanted):
        return dict.fromkeys(NAMES["regression"])
    error = values - wanted
    vary = len(wanted) > 1 and np.ptp(wanted) > 0
    both = vary and np.ptp(values) > 0
    return {
        "spearman": _correlation(stats.spearmanr(wanted, values)) if both else None,
        "pearson": _correlation(stats.pearsonr(wanted, values)) if both else None,
        "r2": float(1 - (error**2).sum() / ((wanted - wanted.mean()) ** 2).sum()) if vary else None,
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
    }


def _micro_f1(labels: np.ndarray, values: np.ndarray, threshold: float) -> float | None:
    from sklearn.metrics import f1_score

    known = labels != IGNORE
    if not known.any():
        return None
    return float(f1_score(labels[known] > 0.5, values[known] > threshold, **_NONE))


def _correlation(result: Any) -> float:
    return float(result.statistic)


def _mean(values: Sequence[Any]) -> float | None:
    """Of what is defined."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(there)) if there else None


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
