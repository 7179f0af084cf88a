"""Figures of merit, against what they are by hand."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import numpy as np
import pytest
from sklearn import metrics

from model.decode import decode_structure
from model.structure_metrics import compare_pairs
from raypipe.errors import RaypipeError, UsageError
from raypipe.finetuning.metrics import (
    NAMES,
    by_class,
    check_installed,
    check_metric,
    choose_metric,
    is_better,
    measure,
    standard_error,
)
from raypipe.finetuning.pairs import PairMaps, pairs_error
from raypipe.finetuning.scoring import Measured, labelled
from raypipe.finetuning.spaces import IGNORE, Space

THREE = Space("sequence", "multiclass", ("a", "b", "c"))
YES = Space("sequence", "binary", ("yes",))
VALUE = Space("sequence", "regression", ("v",))


def test_classes() -> None:
    values = np.array([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4], [0.9, 0.05, 0.05]])
    labels = np.array([0, 1, 1, 2, IGNORE])
    found = measure(THREE, labels, values)
    assert set(found) == set(NAMES["multiclass"])
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx(np.mean([2 / 3, 2 / 3, 1]))
    assert found["auroc"] == pytest.approx(np.mean([1, 1, 1]))
    assert by_class(THREE, labels, values)["a"] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "n": 1}


def test_a_class_that_is_not_there_does_not_count() -> None:
    values = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    found = measure(THREE, np.array([0, 1]), values)
    assert (found["macro_f1"], found["auroc"]) == (1, 1)
    assert measure(THREE, np.array([0, 0]), values)["auroc"] is None
    assert measure(THREE, np.array([IGNORE, IGNORE]), values)["accuracy"] is None


def test_yes_and_no() -> None:
    labels, values = np.array([1, 0, 1, 0, IGNORE], float), np.array([[0.9], [0.6], [0.4], [0.1], [0.5]])
    found = measure(YES, labels, values)
    assert (found["accuracy"], found["f1"], found["mcc"], found["auroc"]) == (0.5, 0.5, 0, 0.75)
    assert measure(YES, labels, values, threshold=0.35)["accuracy"] == 0.75
    assert measure(YES, np.array([1.0, 1.0]), values[:2])["auroc"] is None


def test_several_yes_or_no() -> None:
    """Against scikit-learn, on predictions that know a little."""
    space = Space("sequence", "multilabel", ("a", "b", "c"))
    dice = np.random.default_rng(3)
    labels = (dice.random((200, 3)) < (0.05, 0.4, 0.8)).astype(float)
    values = np.clip(0.3 * labels + 0.6 * dice.random((200, 3)), 0, 1)
    found = measure(space, labels, values)
    wanted, said = labels > 0.5, values > 0.5
    assert found == pytest.approx(
        {
            "accuracy": (wanted == said).mean(),
            "macro_f1": metrics.f1_score(wanted, said, average="macro"),
            "micro_f1": metrics.f1_score(wanted, said, average="micro"),
            "mcc": np.mean([metrics.matthews_corrcoef(wanted[:, c], said[:, c]) for c in range(3)]),
            "auroc": metrics.roc_auc_score(wanted, values, average="macro"),
            "average_precision": metrics.average_precision_score(wanted, values, average="macro"),
        }
    )
    # Nothing is said: what few labels have is not half right.
    assert measure(space, labels, np.zeros((200, 3)))["macro_f1"] == 0
    # What is not known does not count: as if the output were that of the other rows alone.
    some = labels.copy()
    some[:50, 1] = IGNORE
    assert measure(space, some, values, names=["mcc"])["mcc"] == pytest.approx(
        np.mean([metrics.matthews_corrcoef(wanted[k:, c], said[k:, c]) for c, k in ((0, 0), (1, 50), (2, 0))])
    )


def test_the_threshold_is_that_of_the_yes() -> None:
    labels = np.array([1.0] * 4 + [0.0] * 96)
    values = np.concatenate([[0.2, 0.22, 0.24, 0.6], np.linspace(0, 0.34, 96)])[:, None]
    best = Measured({}, labels=labels, values=values).best_threshold(YES)
    assert best == max((k / 100 for k in range(5, 96, 5)), key=lambda t: metrics.f1_score(labels, values[:, 0] > t))


def test_how_far_a_figure_is_chance() -> None:
    """The standard error of an accuracy is that of a share."""
    dice = np.random.default_rng(5)
    labels = dice.integers(0, 2, 400)
    values = np.where(dice.random(400) < 0.8, labels, 1 - labels)[:, None].astype(float)
    one, other = list(labels[:, None]), list(values[:, None])
    error = standard_error(YES, one, other, 0.5, "accuracy")
    assert error == pytest.approx(np.sqrt(0.8 * 0.2 / 400), rel=0.25)
    assert standard_error(YES, one[:1], other[:1], 0.5, "accuracy") is None
    pairs = [compare_pairs(np.array([[0, k], [1, 9]]), np.array([[0, 11], [1, 9]]), 12) for k in (11, 11, 10, 8, 7)]
    error = np.std([one.scores().f1 for one in pairs]) / np.sqrt(5)
    assert pairs_error(pairs, "f1") == pytest.approx(error, rel=0.3)
    assert pairs_error(pairs[:1], "f1") is None


@pytest.mark.parametrize(
    ("space", "metric", "labels", "defined"),
    [
        (THREE, "macro_f1", [0, 0, 0], True),
        (THREE, "auroc", [0, 0, 0], False),
        (THREE, "auroc", [0, 1, 1], True),
        (YES, "auroc", [1.0, 1.0, IGNORE], False),
        (YES, "accuracy", [1.0, 1.0, IGNORE], True),
        (VALUE, "spearman", [2.0, 2.0, np.nan], False),
        (VALUE, "spearman", [2.0, 3.0, np.nan], True),
        (VALUE, "loss", [2.0, 2.0, 2.0], True),
    ],
)
def test_a_figure_that_valid_cannot_have_is_refused(space: Space, metric: str, labels: list, defined: bool) -> None:
    with nullcontext() if defined else pytest.raises(UsageError, match=f"--metric {metric}: is not defined on valid"):
        check_metric(metric, space, np.array(labels))


def test_values() -> None:
    labels, values = np.array([1, 2, 3, np.nan, 4], float), np.array([[1.0], [4], [9], [0], [16]])
    found = measure(VALUE, labels, values)
    assert found["spearman"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 4, 9, 16])[0, 1])
    assert found["rmse"] == pytest.approx(np.sqrt((0 + 4 + 36 + 144) / 4))
    assert found["mae"] == pytest.approx(20 / 4)
    assert measure(VALUE, labels, np.ones((5, 1)))["spearman"] is None
    # What says "not labelled" of classes is a value here.
    assert labelled(VALUE, np.array([-100.0, 3.0])) == 2
    assert labelled(VALUE, labels) == 4
    assert labelled(YES, np.array([IGNORE, 1.0])) == 1


def test_which_figure_counts() -> None:
    assert choose_metric(None, THREE) == "macro_f1"
    assert choose_metric(None, Space("contact", "binary", ("contact",))) == "f1"
    assert choose_metric("loss", VALUE) == "loss"
    with pytest.raises(UsageError, match="regression labels have loss, spearman"):
        choose_metric("accuracy", VALUE)
    assert is_better("loss", 1.0, 2.0)
    assert not is_better("f1", 1.0, 2.0)
    assert is_better("f1", 0.0, None)


def test_pairs_and_their_threshold() -> None:
    """Probabilities that part true pairs from the rest at 0.3."""
    sequence = "GGGGAAAACCCC"
    truth = np.array([[0, 11], [1, 10], [2, 9], [3, 8]])
    map_ = np.full((12, 12), 0.22, np.float32)
    for i, j in truth:
        map_[i, j] = map_[j, i] = 0.41
    for structure in (True, False):
        maps = PairMaps(structure)
        maps.add(sequence, truth, map_)
        assert 0.2 < maps.likely_threshold() < 0.41
        assert maps.measure(maps.best_threshold())["f1"] == 1
        assert maps.measure(0.5)["f1"] == 0
        assert set(NAMES["pairs"]) == set(maps.measure(0.3))
    # Every pair is above 0.1: a contact head says them all, a structure holds those that fit together.
    maps = PairMaps(True)
    maps.add(sequence, truth, map_)
    said = decode_structure(map_, sequence, threshold=0.1).pairs
    right = len(set(said) & set(map(tuple, truth.tolist())))
    assert maps.measure(0.1)["precision"] == right / len(said)


def test_what_is_not_installed_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    # As Python itself marks a module that cannot be imported.
    monkeypatch.setitem(sys.modules, "sklearn", None)  # type: ignore[arg-type]
    with pytest.raises(RaypipeError, match=r"scikit-learn.*pip install 'raypipe\[train\]'"):
        check_installed()
