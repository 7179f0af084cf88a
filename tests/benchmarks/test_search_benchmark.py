"""The search benchmark runs, and its arithmetic is right; its figures are made by `make bench`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import search, search_filters, search_growth, search_set
from tests.benchmarks.search_vectors import BLOCK, nearest, recall, unit

SMALL = ["--rows", "2000", "--dimension", "32", "--queries", "50", "--singles", "5", "--least", "0", "--rounds", "1"]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A set of more than a block of vectors, and queries."""
    search_set.write(tmp_path, BLOCK + 100, 20, 8, 3)
    return tmp_path


def test_it_runs(tmp_path: Path) -> None:
    search.main([*SMALL, "--peers", "none", "--filter-rows", "2000", "--results", str(tmp_path)])
    (file,) = tmp_path.glob("search-*.json")
    result = json.loads(file.read_text())
    entrants = result["contest"]["entrants"]
    assert entrants["faiss-flat"]["exact_recall"] == 1.0
    assert entrants[result["summary"]["exact"]]["exact_recall"] == 1.0
    assert entrants["raypipe ivf"]["recall"] >= 0.9
    assert result["contest"]["memory"]["hot"] > 0
    assert all(found["full"] and found["recall"] >= 0.9 for found in result["filters"]["filters"].values())
    page = file.with_suffix(".md").read_text()
    assert "| one query, p50 | < 0.5 ms |" in page
    assert "whole families" in page


def test_a_small_set_is_the_head_of_a_large_one(made: Path, tmp_path: Path) -> None:
    search_set.write(tmp_path / "small", 50, 20, 8, 3)
    large, small = np.load(made / "vectors.npy"), np.load(tmp_path / "small" / "vectors.npy")
    assert np.array_equal(large[:50], small)
    assert not (large[:, None] == np.load(made / "queries.npy")[None]).all(2).any()


def test_neighbours_and_recall_are_those_of_brute_force(made: Path) -> None:
    vectors, queries = unit(np.load(made / "vectors.npy")), np.load(made / "queries.npy")
    allowed = np.arange(len(vectors)) % 3 == 0
    cosines = unit(queries).astype(np.float64) @ vectors.T.astype(np.float64)
    for mask in (None, allowed):
        truth = np.argsort(-(cosines if mask is None else np.where(mask, cosines, -2)), axis=1)[:, :10]
        rows, distances = nearest(made / "vectors.npy", queries, 10, mask)
        assert np.array_equal(rows, truth)
        assert recall(made / "vectors.npy", queries, truth, distances) == 1.0
    lacking = rows.copy()
    lacking[:, 0] = lacking[:, 1]  # named twice: found once
    lacking[:, 9] = -1
    assert recall(made / "vectors.npy", queries, lacking, distances, 1.0) == pytest.approx(0.8)


def test_filters_let_through_what_they_say(made: Path) -> None:
    families = np.load(made / "families.npy")
    found = search_filters.choose(families, len(families), 0)
    assert len(found["1.0% at random"]) == round(0.01 * len(families))
    whole = [rows for name, rows in found.items() if "families" in name]
    assert len(whole) == 2
    for rows in whole:
        assert not set(families[rows]) & set(np.delete(families, rows))


def test_growth_is_fitted() -> None:
    sizes = [100_000, 300_000, 1_000_000]
    power = search_growth.power(sizes, [3 * size**0.5 for size in sizes], at=4e6)
    assert power == pytest.approx({"exponent": 0.5, "far": 6000})
    line = search_growth.line(sizes, [5 + 2 * size for size in sizes], at=10)
    assert line == pytest.approx({"start": 5, "slope": 2, "far": 25})
    assert search_growth.power([1], [1]) == {}
