"""Exact search by bounds over leading axes: it finds what comparing everything finds, and compares less."""

from __future__ import annotations

import numpy as np
import pytest

from index import engines
from index.build import build_index
from index.exact import TopK
from index.info import AXES, LEADING
from index.leading import leading_axes, leads
from index.search import Searcher


def family(generator: np.random.Generator, number: int, dimension: int = 64) -> np.ndarray:
    """Unit vectors (number, D) that lie near eight axes, as those of a language model lie near few."""
    axes = generator.standard_normal((8, dimension))
    made = generator.standard_normal((number, 8)) @ axes + 0.1 * generator.standard_normal((number, dimension))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def test_axes_are_those_that_carry_the_vectors():
    vectors = family(np.random.default_rng(0), 2000)
    axes = leading_axes(vectors)
    assert axes is not None
    assert axes.shape == (64, 16)
    np.testing.assert_allclose(axes.T @ axes, np.eye(16), atol=1e-5)
    even = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32)
    assert leading_axes(even / np.linalg.norm(even, axis=1, keepdims=True)) is None
    assert leading_axes(vectors[:0]) is None


@pytest.mark.parametrize("copies", [0, 3])
def test_bounds_are_never_below_the_cosine(copies):
    """Also where a vector lies in the axes entirely, and rounding takes its rest for nothing."""
    generator = np.random.default_rng(1)
    vectors = family(generator, 500)
    axes = leading_axes(vectors)
    assert axes is not None
    inside = (generator.standard_normal((50, axes.shape[1])) @ axes.T.astype(np.float64)).astype(np.float32)
    inside /= np.linalg.norm(inside, axis=1, keepdims=True)
    vectors = np.vstack([vectors, inside, *[inside] * copies])
    bounds = leads(vectors, axes) @ leads(vectors, axes).T
    assert (bounds >= vectors.astype(np.float64) @ vectors.T.astype(np.float64)).all()
    assert np.median(bounds - vectors @ vectors.T) < 0.02


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_hits_are_those_of_comparing_everything(builder, cosines, share, monkeypatch):
    """With ties, a filter, queries unlike all vectors, and more than one block of rows."""
    monkeypatch.setattr(engines, "BOUNDED_ROWS", 700)
    monkeypatch.setattr(engines, "FEW_ROWS", 100)
    generator = np.random.default_rng(2)
    vectors = family(generator, 3000, 16 * 4)
    vectors[500:520] = vectors[7]
    store = builder.embedded(vectors)
    with store.lock():
        info = build_index(store, transform="none")
    assert AXES in info.trained["checksums"]
    assert LEADING in info.segments[0].checksums
    opened = Searcher.open(store)
    strange = generator.standard_normal((5, 64)).astype(np.float32)
    queries = np.vstack([vectors[[3, 7, 510, 2999]], strange])
    allowed = None if share == 1 else np.sort(generator.permutation(3000)[: int(share * 3000)])
    found, scores = opened.search(queries, 30, allowed=allowed)
    exact = cosines(queries, vectors).astype(np.float32)
    if allowed is not None:
        exact[:, np.setdiff1d(np.arange(3000), allowed)] = -np.inf
    order = np.argsort(-exact, axis=1, kind="stable")[:, :30]
    np.testing.assert_array_equal(found, order)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, order, 1), atol=1e-6)


def test_most_vectors_are_not_compared(monkeypatch):
    """Else it would be exact for nothing."""
    vectors = family(np.random.default_rng(3), 4000)
    axes = leading_axes(vectors)
    assert axes is not None
    compared: list[int] = []
    whole = TopK._with

    def counting(self, had, scores, places, *rest):
        compared.append(len(places[0]))
        return whole(self, had, scores, places, *rest)

    monkeypatch.setattr(TopK, "_with", counting)
    found = TopK(vectors[:10], 10, leads(vectors[:10], axes))
    found.see(np.arange(4000), vectors, leads(vectors, axes))
    assert found.ids.shape == (10, 10)
    assert found.ids[:, 0].tolist() == list(range(10))
    assert sum(compared) < 0.1 * 10 * 4000
