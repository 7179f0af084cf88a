"""Losses by their definitions, what is ignored, and the forms that labels come in."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from model import ModelError
from model.head_config import HeadConfig, Kind, Problem
from model.losses import IGNORE, as_arrays, fit_labels, infer_problem, loss_terms

PROBLEMS: tuple[Problem, ...] = get_args(Problem)


def _case(problem: Problem, shape: tuple[int, ...], count: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Random logits (..., C) and labels, about a third of them ignored."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (*shape, count)).astype(np.float32))
    if problem == "multiclass":
        labels = rng.integers(0, count, shape)
    elif problem == "regression":
        labels = rng.normal(0, 2, (*shape, count)).astype(np.float32)
    else:
        labels = rng.integers(0, 2, (*shape, count)).astype(np.float32)
    hidden = rng.random(labels.shape) < 0.3
    return logits, np.where(hidden, np.nan if problem == "regression" else IGNORE, labels)


def _by_hand(problem: Problem, logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """The loss of every labelled entry, from its definition, in float64."""
    out = []
    logits = logits.astype(np.float64)
    for place in np.ndindex(labels.shape):
        label, score = labels[place], logits[place]
        if np.isnan(label) if problem == "regression" else label == IGNORE:
            continue
        if problem == "regression":
            out.append((score - label) ** 2)
        elif problem == "multiclass":
            out.append(np.log(np.exp(score).sum()) - score[int(label)])
        else:
            p = 1 / (1 + np.exp(-score))
            out.append(-np.log(p) if label == 1 else -np.log(1 - p))
    return out


@pytest.mark.parametrize("shape", [(6,), (5, 5)])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_sum_over_what_is_labelled_is_the_definitions(problem: Problem, shape: tuple[int, ...]) -> None:
    logits, labels = _case(problem, shape, 1 if problem == "binary" else 3)
    total, count = loss_terms(logits, labels, problem)
    expected = _by_hand(problem, logits.numpy(), labels)
    assert 0 < len(expected) < labels.size
    assert int(count) == len(expected)
    assert float(total) == pytest.approx(sum(expected), rel=1e-5)


def test_the_mean_over_all_entries_is_torchs_own_loss() -> None:
    logits, _ = _case("multilabel", (7,), 4)
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (7, 4)))
    total, count = loss_terms(logits, labels, "multilabel")
    assert torch.allclose(total / count, torch.nn.functional.multilabel_soft_margin_loss(logits, labels))
    # Two outputs: the plain mean squared error, not a sum of roots.
    values = torch.randn(7, 4)
    total, count = loss_terms(logits, values, "regression")
    assert torch.allclose(total / count, torch.nn.functional.mse_loss(logits, values))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_is_ignored_gives_no_gradient_and_the_rest_a_finite_one(problem: Problem) -> None:
    logits, labels = _case(problem, (9,), 1 if problem == "binary" else 3)
    ignored = np.isnan(labels) if problem == "regression" else labels == IGNORE
    if problem == "multiclass":
        ignored = np.broadcast_to(ignored[:, None], logits.shape)
    spoilt = logits.clone()
    spoilt[torch.from_numpy(np.array(ignored))] = float("nan")
    gradients = []
    for scores in (logits, spoilt):
        scores.requires_grad_()
        total, count = loss_terms(scores, labels, problem)
        (total / count).backward()
        assert scores.grad is not None
        gradients.append(scores.grad)
    assert torch.equal(*gradients)
    assert gradients[0].isfinite().all()
    assert torch.equal(gradients[0] == 0, torch.from_numpy(np.array(ignored)))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_nothing_labelled_is_nothing(problem: Problem) -> None:
    logits = torch.randn(4, 1 if problem == "binary" else 3, requires_grad=True)
    shape = (4,) if problem == "multiclass" else logits.shape
    total, count = loss_terms(logits, torch.full(shape, float("nan") if problem == "regression" else IGNORE), problem)
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0)
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("problem", ["binary", "regression"])
def test_one_output_with_and_without_its_axis(problem: Problem) -> None:
    logits, labels = _case(problem, (5,), 1)
    forms = [
        loss_terms(scores, wanted, problem)[0]
        for scores in (logits, logits[:, 0])
        for wanted in (labels, labels[:, 0], torch.from_numpy(labels))
    ]
    assert len({float(total) for total in forms}) == 1


def test_low_precision_is_summed_in_float32() -> None:
    logits, labels = _case("multiclass", (200,), 5)
    rounded = logits.bfloat16()
    total, _ = loss_terms(rounded, labels, "multiclass")
    assert total.dtype == torch.float32
    assert torch.equal(total, loss_terms(rounded.float(), labels, "multiclass")[0])


@pytest.mark.parametrize(
    ("logits", "labels", "problem"),
    [
        ((5, 3), (4,), "multiclass"),
        ((5,), (5,), "multiclass"),
        ((5, 3), (5,), "multilabel"),
        ((5, 1), (1, 5), "binary"),
        ((5, 3), (3, 5), "regression"),
    ],
)
def test_shapes_are_never_stretched(logits: tuple[int, ...], labels: tuple[int, ...], problem: Problem) -> None:
    with pytest.raises(ModelError, match="do not fit"):
        loss_terms(torch.zeros(logits), torch.zeros(labels), problem)


# Kind of head, problem, C.
HEADS: list[tuple[Kind, Problem, int]] = [
    ("sequence", "binary", 1),
    ("sequence", "multiclass", 3),
    ("sequence", "multilabel", 3),
    ("sequence", "regression", 1),
    ("sequence", "regression", 2),
    ("token", "binary", 1),
    ("token", "multiclass", 4),
    ("token", "multilabel", 2),
    ("token", "regression", 1),
    ("token", "regression", 3),
    ("contact", "binary", 1),
    ("contact", "multiclass", 3),
    ("contact", "multilabel", 2),
    ("structure", "binary", 1),
]


def _labels(kind: Kind, problem: Problem, count: int, lengths: list[int]) -> tuple[list[tuple[int, ...]], list[Any]]:
    shapes = [(n,) * {"sequence": 0, "token": 1}.get(kind, 2) for n in lengths]
    rows = []
    for i, shape in enumerate(shapes):
        _, row = _case(problem, shape, count, seed=i)
        rows.append(row if problem == "multilabel" or count > 1 else row[..., 0])
    return shapes, rows


def _padded(rows: list[np.ndarray], axes: int, filler: float) -> np.ndarray:
    longest = max(row.shape[0] for row in rows)
    out = np.full((len(rows), *(longest,) * axes, *rows[0].shape[axes:]), filler, dtype=rows[0].dtype)
    for whole, row in zip(out, rows, strict=True):
        whole[tuple(slice(n) for n in row.shape)] = row
    return out


@pytest.mark.parametrize(("kind", "problem", "count"), HEADS)
def test_all_forms_of_labels_come_to_the_same(kind: Kind, problem: Problem, count: int) -> None:
    config = HeadConfig(kind, problem, count)
    shapes, rows = _labels(kind, problem, count, [4, 1, 6])
    whole = problem == "multiclass"
    expected = fit_labels(rows, shapes, config, problem)
    for ours, row in zip(expected, rows, strict=True):
        assert ours.dtype == (np.int64 if whole else np.float32)
        np.testing.assert_array_equal(ours, row)
    forms: list[Any] = [
        [row.tolist() for row in rows],
        [torch.from_numpy(np.array(row)) for row in rows],
        tuple(rows),
    ]
    if problem != "multilabel" and count == 1:
        forms.append([row[..., None] for row in rows])
    if not whole and problem != "regression":
        forms += [[row.astype(np.int8) for row in rows], [torch.from_numpy(np.array(row)).bfloat16() for row in rows]]
    if kind == "sequence":
        forms += [np.stack(rows), torch.from_numpy(np.stack(rows)), [list(np.atleast_1d(row)) for row in rows]]
    else:
        padded = _padded(rows, len(shapes[0]), IGNORE)
        forms += [padded, torch.from_numpy(padded), padded.tolist()]
        if problem == "regression":
            forms.append(_padded(rows, len(shapes[0]), np.nan))
    for form in forms:
        for ours, theirs in zip(fit_labels(form, shapes, config, problem), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize(("kind", "problem", "count"), HEADS)
def test_a_single_sequence_needs_no_batch_dimension(kind: Kind, problem: Problem, count: int, length: int) -> None:
    config = HeadConfig(kind, problem, count)
    shapes, [row] = _labels(kind, problem, count, [length])
    forms: list[Any] = [row, [row], row[None], row.tolist(), row[None].tolist(), torch.from_numpy(np.array(row))]
    for form in forms:
        [ours] = fit_labels(form, shapes, config, problem)
        np.testing.assert_array_equal(ours, row)
    # Regression is known by its type, and multiclass and multilabel by the shape.
    open_config = HeadConfig(kind, None, count)
    for form in forms:
        given = form if problem == "regression" else _whole(form)
        assert infer_problem(given, open_config, shapes) == problem


def _whole(form: Any) -> Any:
    if isinstance(form, torch.Tensor):
        return form.long()
    if isinstance(form, np.ndarray):
        return form.astype(np.int64)
    return [_whole(part) for part in form] if isinstance(form, list) else int(form)


def test_the_model_cards_examples() -> None:
    """Labels of one value, one row, and one map, for a single sequence, without a batch dimension."""
    rng = np.random.default_rng(5)
    examples: list[tuple[Kind, tuple[int, ...]]] = [("sequence", ()), ("token", (21,)), ("contact", (21, 21))]
    for kind, shape in examples:
        labels = torch.from_numpy(rng.integers(0, 2, shape or 1))
        config = HeadConfig(kind)
        problem = infer_problem(labels, config, [shape])
        assert problem == "binary"
        [row] = fit_labels(labels, [shape], config, problem)
        assert row.shape == shape


def test_padding_never_counts() -> None:
    config = HeadConfig("token", "multiclass", 4)
    shapes, rows = _labels("token", "multiclass", 4, [3, 8])
    logits = [torch.randn(3, 4), torch.randn(8, 4)]
    terms = [loss_terms(x, row, "multiclass") for x, row in zip(logits, rows, strict=True)]
    fitted = fit_labels(_padded(rows, 1, IGNORE), shapes, config, "multiclass")
    for (total, count), x, row in zip(terms, logits, fitted, strict=True):
        assert (float(total), int(count)) == tuple(map(float, loss_terms(x, row, "multiclass")))
    together, count = loss_terms(torch.cat(logits), np.concatenate(rows), "multiclass")
    assert int(count) == sum(int(n) for _, n in terms)
    assert float(together) == pytest.approx(sum(float(total) for total, _ in terms), rel=1e-6)


def test_nothing_that_was_given_is_changed() -> None:
    config = HeadConfig("token", "multiclass", 4)
    shapes, rows = _labels("token", "multiclass", 4, [3, 8])
    padded = torch.from_numpy(_padded(rows, 1, IGNORE)).long()
    before = padded.clone()
    fitted = fit_labels(padded, shapes, config, "multiclass")
    logits = torch.randn(8, 4)
    kept = logits.clone()
    loss_terms(logits, fitted[1], "multiclass")
    for row in fitted:
        row[:] = 0
    assert torch.equal(padded, before)
    assert torch.equal(logits, kept)
    frozen = np.zeros(3, dtype=np.int64)
    frozen.flags.writeable = False
    assert fit_labels([frozen], [(3,)], config, "multiclass")[0].flags.writeable


@pytest.mark.parametrize(
    ("kind", "count", "labels", "problem"),
    [
        ("sequence", 1, [0, 1, 1], "binary"),
        ("sequence", 1, [0.5, 1.0, 2.0], "regression"),
        ("sequence", 3, [0, 2, 0], "multiclass"),  # two distinct values; the reference takes it for multilabel
        ("sequence", 3, [[0, 0, 0], [0, 0, 0], [0, 0, 0]], "multilabel"),  # one; the reference says multiclass
        ("sequence", 3, [[0.0, 0.1, 0.2]] * 3, "regression"),
        ("token", 3, [[0, 1], [2, 2, 1], [0]], "multiclass"),
        ("token", 3, [[0, 1, 2], [2, 2, 1], [0, 0, 0]], "multiclass"),
        ("token", 2, [[[0, 1]], [[1, 1]], [[0, 0]]], "multilabel"),
        ("structure", 1, [[[0.0]], [[0.0]], [[0.0]]], "binary"),
    ],
)
def test_the_problem_that_labels_pose(kind: Kind, count: int, labels: list[Any], problem: Problem) -> None:
    config = HeadConfig(kind, None, count)
    assert infer_problem(labels, config) == problem
    # Nothing is kept from call to call.
    other = [[0.5]] * 3
    assert infer_problem(other, config) == ("binary" if kind == "structure" else "regression")
    assert infer_problem(labels, config) == problem
    assert infer_problem(other, HeadConfig(kind, "binary")) == "binary"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([[0, 1, 2], [1, 1]], "sequence 2 of the list have the shape (2,)"),
        ([[0, 1, 2]], "1 rows of labels for 2 sequences"),
        ([[0, 1, 2], [1, 1, 1, 1], [0]], "3 rows"),
        ([[0, 1, 3], [1, 1, 1, 1]], "sequence 1 of the list hold 3"),
        ([[0, 1, 2], [1, 1, -1, 1]], "sequence 2 of the list hold -1"),
        ([[0, 1, 0.5], [1, 1, 1, 1]], "hold 0.5"),
        ([[0, 1, float("nan")], [1, 1, 1, 1]], "hold nan"),
        ([[0, 1, 2, 1], [1, 1, 1, 1]], "beyond these only -100"),
        ([[0, 1, 2], [[1, 2, 0]] * 4], "sequence 2 of the list have the shape (4, 3)"),
        ([[0, 1, 2], [[1], [1, 2], [0], [0]]], "sequence 2 of the list are lists of unequal lengths"),
        ([[0, 1, 2], ["a", "b", "c", "d"]], "sequence 2 of the list are not numbers"),
        ([[0, 1, 2], None], "sequence 2 of the list are not numbers"),
        (np.zeros((2, 3), dtype=np.int64), "sequence 2 of the list have the shape (3,)"),
        (7, "1 rows"),
    ],
)
def test_labels_that_do_not_fit_are_refused_by_the_number_of_their_sequence(labels: Any, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        fit_labels(labels, [(3,), (4,)], HeadConfig("token", "multiclass", 3), "multiclass")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "problem", "count", "shape", "labels", "words"),
    [
        ("sequence", "binary", 1, (), 2, "0 or 1"),
        ("sequence", "binary", 1, (), [0, 1], "takes ()"),
        ("sequence", "multilabel", 3, (), [0, 1], "takes (3,)"),
        ("sequence", "multilabel", 3, (), [0, 1, -1], "hold -1"),
        ("sequence", "regression", 2, (), [0.5], "takes (2,)"),
        ("sequence", "regression", 1, (), float("inf"), "hold inf"),
        ("token", "regression", 2, (3,), [0.5, 1.0, 2.0], "takes (3, 2)"),
        ("contact", "binary", 1, (3, 3), np.zeros((3, 2)), "takes (3, 3)"),
        ("structure", "binary", 1, (2, 2), np.ones((3, 3)), "beyond these"),
    ],
)
def test_a_single_sequences_labels_that_do_not_fit(
    kind: Kind, problem: Problem, count: int, shape: tuple[int, ...], labels: Any, words: str
) -> None:
    with pytest.raises(ModelError) as caught:
        fit_labels(labels, [shape], HeadConfig(kind, problem, count), problem)
    assert "sequence 1 of the list" in str(caught.value)
    assert words in str(caught.value)


def test_empty_lists_and_sequences() -> None:
    config = HeadConfig("token", "multiclass", 3)
    assert as_arrays([], [], config) == []
    first, second = fit_labels([[], [1, 2]], [(0,), (2,)], config, "multiclass")
    assert first.shape == (0,)
    assert second.tolist() == [1, 2]
    assert infer_problem([[], [1, 2]], HeadConfig("token", None, 3)) == "multiclass"
