"""Maps: who is drawn, where points go, and how far the plane tells the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from raypipe.mapping import draw
from raypipe.mapping_plain import number_kinds
from raypipe.mapping_projection import faithfulness, principal_values, project


def test_a_sample_shows_rare_kinds() -> None:
    kinds = np.repeat([0, 1, 2, 3], [9000, 900, 90, 10])
    for sample in (40, 100, 1000, 9990):
        chosen = draw(kinds, sample, np.random.default_rng(1))
        assert len(np.unique(chosen)) == len(chosen) == sample
        assert np.all(np.diff(chosen) > 0)
        counts = np.bincount(kinds[chosen], minlength=4)
        even = np.minimum([9000, 900, 90, 10], sample // 8)
        assert np.all(counts >= even), counts
        assert np.all(np.diff(counts) <= 0), counts
    again = draw(kinds, 100, np.random.default_rng(1))
    assert np.array_equal(again, draw(kinds, 100, np.random.default_rng(1)))
    assert not np.array_equal(again, draw(kinds, 100, np.random.default_rng(2)))


def test_a_sample_of_fewer_than_there_are_kinds() -> None:
    kinds = np.concatenate([np.arange(1000), np.zeros(1000, dtype=np.int64)])
    chosen = draw(kinds, 10, np.random.default_rng(0))
    assert len(np.unique(chosen)) == 10
    assert (kinds[chosen] == 0).sum() >= 5
    assert np.array_equal(draw(np.array([7, 3]), 1, np.random.default_rng(0)).shape, [1])


def test_principal_values_are_those_of_the_largest_spread() -> None:
    generator = np.random.default_rng(5)
    spreads = np.array([5.0, 3.0, 1.0, 0.1])
    turn, _ = np.linalg.qr(generator.standard_normal((4, 4)))
    vectors = (generator.standard_normal((400, 4)) * spreads) @ turn.T + 7
    values = principal_values(lambda: np.array_split(vectors.astype(np.float32), 7), len(vectors))
    assert values.shape == (400, 4)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(values.T), np.diag(np.diag(np.cov(values.T))), atol=0.05)
    assert np.all(np.diff(values.std(axis=0)) < 0)
    centred = vectors - vectors.mean(axis=0)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), np.linalg.norm(centred, axis=1), rtol=1e-3)
    assert principal_values(lambda: [np.ones((3, 1), np.float32)], 3).shape == (3, 2)


def test_faithfulness_counts_neighbours_that_stay() -> None:
    line = np.arange(30.0)
    places = np.stack([line, 0 * line], axis=1).astype(np.float32)
    gaps = np.abs(line[:, None] - line)
    np.fill_diagonal(gaps, np.inf)
    near = np.argsort(gaps + line / 1000, axis=1)[:, :10]
    kept = faithfulness(places, near)
    assert kept is not None
    assert kept > 0.94  # all but where two are equally far
    far = np.argsort(np.where(np.isinf(gaps), np.inf, -gaps), axis=1)[:, :10]
    other = faithfulness(places, far)
    assert other is not None
    assert other < 0.35
    assert faithfulness(np.zeros((1, 2), np.float32), np.empty((1, 0), np.int64)) is None
    assert faithfulness(places[:2], np.array([[1, -1], [0, -1]])) == 1.0


def test_few_points_are_placed_by_pca_alone() -> None:
    values = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    near = np.zeros((20, 3), dtype=np.int64)
    places, method = project(values, near, np.zeros((20, 3), np.float32), 1)
    assert method == "PCA"
    np.testing.assert_array_equal(places, values[:, :2])


def test_kinds_are_told_apart_by_few_colours() -> None:
    def kinds(values: Sequence[object]) -> tuple[list[int], list[str]]:
        return number_kinds(pa.chunked_array([pa.array(values)]))

    assert kinds(["b", None, "a", "b"]) == ([0, 1, 2, 0], ["b", "(none)", "a"])
    assert kinds([3, 3, 1]) == ([0, 0, 1], ["3", "1"])
    numbers, names = kinds([f"v{number // (number % 20 + 1)}" for number in range(200)])
    assert (len(names), names[-1], max(numbers)) == (10, "(others)", 9)
    numbers, names = kinds([*range(100), None])
    assert names[0] == "0 to 12.375"
    assert names[-2:] == ["86.625 to 99", "(none)"]
    assert numbers[:100] == sorted(numbers[:100])
    assert [numbers[0], numbers[99], numbers[100]] == [0, 7, 8]
    assert np.all(np.bincount(numbers)[:8] >= 12)
    assert kinds([*map(float, range(50)), float("nan")])[1][-1] == "(none)"
    numbers, names = kinds(range(12_345_600, 12_345_700))
    assert len(set(numbers)) == len(set(names)) == 8
    assert names[0] == "1.23456e+07 to 1.234561e+07"
    skewed = [0.0] * 90 + [float(number) for number in range(1, 12)]
    numbers, names = kinds(skewed)
    assert len(set(numbers)) == len(names) >= 1


@pytest.mark.slow
def test_umap_keeps_families_together() -> None:
    """Twelve tight families, with the neighbours that are given: the same places again, and families apart."""
    pytest.importorskip("umap")
    generator = np.random.default_rng(3)
    owners = np.arange(240) % 12
    vectors = (generator.standard_normal((12, 16)) * 3)[owners] + 0.2 * generator.standard_normal((240, 16))
    vectors = vectors.astype(np.float32)
    gaps = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    np.fill_diagonal(gaps, np.inf)
    near = np.argsort(gaps, axis=1)[:, :12]
    lengths = np.take_along_axis(gaps, near, axis=1)
    near[5, 8:], lengths[5, 8:] = -1, np.nan  # one that has fewer
    values = principal_values(lambda: [vectors], len(vectors))
    places, method = project(values, near, lengths, 7)
    assert method == "UMAP"
    again, _ = project(values, near, lengths, 7)
    np.testing.assert_array_equal(places, again)
    kept = faithfulness(places, near)
    assert kept is not None
    assert kept > 0.5
    centres = np.stack([places[owners == owner].mean(axis=0) for owner in range(12)])
    assert np.mean(np.linalg.norm(places[:, None] - centres, axis=2).argmin(axis=1) == owners) > 0.95
