"""Figures of merit of classes, yes-or-no labels and values, by scikit-learn and SciPy.

Legend: n labelled sequences or nucleotides, C outputs of the head.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from raypipe.errors import RaypipeError, UsageError
from raypipe.finetuning.spaces import IGNORE, Space

Metrics = dict[str, float | None]
"""By name; None where a figure is not defined (a class that is not there, labels that do not vary)."""

_Figures = dict[str, Callable[[], Any]]
# Sequences are drawn again so often, and less often where there are many labels: so many of them in all.
_DRAWS, _DRAWN = (20, 100), 500_000
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


def usual_metric(chosen: str, space: Space) -> str:
    """The figure that a finished head is told by: the chosen one, but for the loss."""
    return USUAL[problem_of(space)] if chosen == "loss" else chosen


def check_metric(metric: str, space: Space, labels: np.ndarray) -> None:
    """Refuse a figure that cannot be computed on valid, whatever is predicted there.

    Args:
        metric: the figure.
        space: what the labels are.
        labels: (n,) or (n, C) of valid.

    Raises:
        UsageError: its labels do not vary, or a class has no member.
    """
    if metric == "loss" or problem_of(space) == "pairs":
        return
    # Of predictions that vary.
    values = np.random.default_rng(0).random((len(labels), space.num_labels)).astype(np.float32)
    if measure(space, labels, values)[metric] is None:
        raise UsageError(
            f"--metric {metric}: is not defined on valid, where labels do not vary or a class has no member; choose "
            "another --metric, such as loss, or give valid more sequences"
        )


def is_better(metric: str, new: float, old: float | None) -> bool:
    """Whether a figure is better than another; anything is better than None."""
    if old is None:
        return True
    return new < old if metric in LOWER_IS_BETTER else new > old


def measure(
    space: Space, labels: np.ndarray, values: np.ndarray, threshold: float = 0.5, names: Sequence[str] | None = None
) -> Metrics:
    """Compare predictions with labels.

    Args:
        space: what the labels are; no pairs.
        labels: (n,) or (n, C), -100 or NaN where nothing is known.
        values: (n, C) probabilities, or values for regression.
        threshold: above which an answer is yes.
        names: of the figures; by default all of `NAMES`.
    """
    names = NAMES[space.problem] if names is None else names
    with warnings.catch_warnings():
        # What is not defined is told by None.
        warnings.simplefilter("ignore")
        if space.problem == "multiclass":
            return _computed(_multiclass(labels, values), names)
        pairs = zip(labels.reshape(len(values), -1).T, values.T, strict=True)
        columns = [_column(space.problem, own, said, threshold) for own, said in pairs]
        if space.problem == "multilabel":
            # Of the yes of each output: mean over outputs; all outputs counted together.
            columns = [{**column, "macro_f1": column["f1"]} for column in columns]
        found = [_computed(column, names) for column in columns]
        means = {name: _mean([one[name] for one in found]) for name in names}
        if "micro_f1" in names:
            means["micro_f1"] = _number(_micro_f1(labels, values, threshold))
    return means


def standard_error(
    space: Space, labels: Sequence[np.ndarray], values: Sequence[np.ndarray], threshold: float, name: str
) -> float | None:
    """Standard error of a figure: how it varies over sequences drawn again, with replacement (bootstrap).

    Args:
        space: as for `measure`.
        labels, values: of each sequence, (n, ...) and (n, C).
        threshold: as for `measure`.
        name: of the figure.
    """
    number = len(labels)
    times = int(np.clip(_DRAWN // max(sum(map(len, values)), 1), *_DRAWS))
    dice = np.random.default_rng(0)
    found: list[float] = []
    for _ in range(times if number > 1 else 0):
        drawn = dice.integers(0, number, number).tolist()
        own, said = (np.concatenate([parts[place] for place in drawn]) for parts in (labels, values))
        if (value := measure(space, own, said, threshold, [name])[name]) is not None:
            found.append(value)
    return float(np.std(found, ddof=1)) if len(found) > 1 else None


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


def _multiclass(labels: np.ndarray, values: np.ndarray) -> _Figures:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, roc_auc_score

    known = labels != IGNORE
    wanted, values = labels[known], values[known]
    if not len(wanted):
        return {}
    said, there = values.argmax(1), np.unique(wanted)

    def auroc() -> float | None:
        # One class against the rest, for those that are there; scikit-learn's own refuses a class without members.
        return _mean([roc_auc_score(wanted == k, values[:, k]) for k in there.tolist() if len(there) > 1])

    return {
        "accuracy": lambda: accuracy_score(wanted, said),
        "macro_f1": lambda: f1_score(wanted, said, labels=there, average="macro", **_NONE),
        "mcc": lambda: matthews_corrcoef(wanted, said),
        "auroc": auroc,
    }


def _column(problem: str, labels: np.ndarray, values: np.ndarray, threshold: float) -> _Figures:
    """One output."""
    return _regression(labels, values) if problem == "regression" else _yes_no(labels, values, threshold)


def _yes_no(labels: np.ndarray, values: np.ndarray, threshold: float) -> _Figures:
    from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef, roc_auc_score

    known = labels != IGNORE
    wanted, values = labels[known] > 0.5, values[known]
    if not len(wanted):
        return {"f1": lambda: None}
    said = values > threshold
    both = 0 < wanted.mean() < 1
    return {
        "accuracy": lambda: (wanted == said).mean(),
        "f1": lambda: f1_score(wanted, said, **_NONE),
        "macro_f1": lambda: f1_score(wanted, said, average="macro", **_NONE),
        "mcc": lambda: matthews_corrcoef(wanted, said) if both else None,
        "auroc": lambda: roc_auc_score(wanted, values) if both else None,
        "average_precision": lambda: average_precision_score(wanted, values) if both else None,
    }


def _regression(labels: np.ndarray, values: np.ndarray) -> _Figures:
    from scipy import stats

    known = ~np.isnan(labels)
    wanted, values = labels[known].astype(np.float64), values[known].astype(np.float64)
    if not len(wanted):
        return {}
    error = values - wanted
    vary = len(wanted) > 1 and np.ptp(wanted) > 0
    both = vary and np.ptp(values) > 0
    tests: Any = stats
    return {
        "spearman": lambda: tests.spearmanr(wanted, values).statistic if both else None,
        "pearson": lambda: tests.pearsonr(wanted, values).statistic if both else None,
        "r2": lambda: 1 - (error**2).sum() / ((wanted - wanted.mean()) ** 2).sum() if vary else None,
        "rmse": lambda: np.sqrt((error**2).mean()),
        "mae": lambda: np.abs(error).mean(),
    }


def _micro_f1(labels: np.ndarray, values: np.ndarray, threshold: float) -> float | None:
    from sklearn.metrics import f1_score

    known = labels != IGNORE
    if not known.any():
        return None
    return float(f1_score(labels[known] > 0.5, values[known] > threshold, **_NONE))


def _computed(figures: _Figures, names: Sequence[str]) -> Metrics:
    """Those that are asked for; None for what is not defined."""
    return {name: _number(figures[name]()) if name in figures else None for name in names}


def _mean(values: Sequence[Any]) -> float | None:
    """Of what is defined."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(there)) if there else None


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
