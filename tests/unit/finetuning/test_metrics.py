"""Figures of merit, against what they are by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from model.decode import decode_structure
from raypipe.errors import RaypipeError, UsageError
from raypipe.finetuning.metrics import NAMES, by_class, check_installed, choose_metric, is_better, measure
from raypipe.finetuning.pairs import PairMaps
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
    space = Space("sequence", "multilabel", ("a", "b"))
    labels = np.array([[1, 0], [0, IGNORE], [1, 1]], float)
    values = np.array([[0.9, 0.2], [0.1, 0.9], [0.8, 0.7]])
    found = measure(space, labels, values)
    assert (found["accuracy"], found["auroc"], found["micro_f1"]) == (1, 1, 1)


def test_values() -> None:
    labels, values = np.array([1, 2, 3, np.nan, 4], float), np.array([[1.0], [4], [9], [0], [16]])
    found = measure(VALUE, labels, values)
    assert found["spearman"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 4, 9, 16])[0, 1])
    assert found["rmse"] == pytest.approx(np.sqrt((0 + 4 + 36 + 144) / 4))
    assert found["mae"] == pytest.approx(20 / 4)
    assert measure(VALUE, labels, np.ones((5, 1)))["spearman"] is None


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
