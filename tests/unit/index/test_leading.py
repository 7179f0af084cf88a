"""Exact search by bounds over leading axes: it finds what comparing everything finds, and compares less."""

from __future__ import annotations

import numpy as np
import pytest

from index import engines
from index.build import build_index
from index.exact import TopK, _Best, _Block, _promising
from index.info import AXES, LEADING
from index.leading import leading_axes, leads
from index.search import Searcher


def family(generator: np.random.Generator, number: int, dimension: int = 128) -> np.ndarray:
    """Unit vectors (number, D) that lie near eight axes, as those of a language model lie near few."""
    axes = generator.standard_normal((8, dimension))
    made = generator.standard_normal((number, 8)) @ axes + 0.02 * generator.standard_normal((number, dimension))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def alike(generator: np.random.Generator, number: int, dimension: int = 128) -> np.ndarray:
    """Unit vectors (number, D) whose cosines are all 0.99 and differ in all directions: bounds tell nothing apart."""
    made = 10 + generator.standard_normal((number, dimension))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def test_axes_are_as_many_as_save_time():
    vectors = family(np.random.default_rng(0), 6000)
    axes = leading_axes(vectors)
    assert axes is not None
    assert axes.shape == (128, 16)
    np.testing.assert_allclose(axes.T @ axes, np.eye(16), atol=1e-5)
    even = np.random.default_rng(0).standard_normal((6000, 128)).astype(np.float32)
    assert leading_axes(even / np.linalg.norm(even, axis=1, keepdims=True)) is None
    assert leading_axes(alike(np.random.default_rng(0), 6000)) is None, (
        "one axis carries 99 % of them, and tells nothing"
    )
    assert leading_axes(vectors[:0]) is None
    assert leading_axes(vectors[:, :32]) is None, "a quarter of 32 values is no whole step"


@pytest.mark.parametrize("copies", [0, 3])
def test_bounds_are_never_below_the_cosine(copies):
    """Also where a vector lies in the axes entirely, and rounding takes its rest for nothing."""
    generator = np.random.default_rng(1)
    vectors = family(generator, 5000)
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
    """With ties, a filter, queries unlike all vectors, and several blocks of rows in several windows."""
    monkeypatch.setattr(engines, "BOUNDED", 1)
    monkeypatch.setattr(engines, "BOUNDED_ROWS", 700)
    monkeypatch.setattr(engines, "WINDOW_ROWS", 2500)
    monkeypatch.setattr(engines, "FEW_ROWS", 100)
    generator = np.random.default_rng(2)
    vectors = family(generator, 6000)
    vectors[500:520] = vectors[7]
    store = builder.embedded(vectors)
    with store.lock():
        info = build_index(store, transform="none")
    assert AXES in info.trained["checksums"]
    assert LEADING in info.segments[0].checksums
    opened = Searcher.open(store)
    strange = generator.standard_normal((5, 128)).astype(np.float32)
    queries = np.vstack([vectors[[3, 7, 510, 5999]], strange])
    allowed = None if share == 1 else np.sort(generator.permutation(6000)[: int(share * 6000)])
    found, scores = opened.search(queries, 30, allowed=allowed)
    exact = cosines(queries, vectors).astype(np.float32)
    if allowed is not None:
        exact[:, np.setdiff1d(np.arange(6000), allowed)] = -np.inf
    order = np.argsort(-exact, axis=1, kind="stable")[:, :30]
    np.testing.assert_array_equal(found, order)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, order, 1), atol=1e-6)


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many pairs are compared from now on: `alone`, and with all others of a block, `together`."""
    counts = {"alone": 0, "together": 0}
    cosines, all_cosines = _Block.cosines, _Block.all_cosines

    def alone(block, line, row, dtype=np.float64):
        counts["alone"] += len(line)
        return cosines(block, line, row, dtype)

    def together(block):
        counts["together"] += len(block.queries) * len(block.ids)
        return all_cosines(block)

    monkeypatch.setattr(_Block, "cosines", alone)
    monkeypatch.setattr(_Block, "all_cosines", together)
    return counts


def test_most_vectors_are_not_compared(monkeypatch):
    """Else it would be exact for nothing."""
    vectors = family(np.random.default_rng(3), 8000)
    axes = leading_axes(vectors)
    assert axes is not None
    counts = counted(monkeypatch)
    found = TopK(vectors[:10], 10, leads(vectors[:10], axes))
    found.see(np.arange(8000), vectors, leads(vectors, axes))
    assert found.ids.shape == (10, 10)
    assert found.ids[:, 0].tolist() == list(range(10))
    assert 0 < counts["alone"] < 0.1 * 10 * 8000
    assert counts["together"] == 0


@pytest.mark.parametrize("aligned", [True, False])
def test_bounds_that_tell_too_little_cost_one_comparison_of_all(cosines, monkeypatch, aligned):
    """As where what was added is unlike what the axes were learned from, and as FAISS maps vectors from a file."""
    vectors = alike(np.random.default_rng(4), 3000)
    if not aligned:
        held = np.frombuffer(b"-" + vectors.tobytes(), np.float32, offset=1).reshape(vectors.shape)
        assert not held.flags.aligned
        vectors = held
    axes = np.linalg.qr(np.random.default_rng(5).standard_normal((128, 16)))[0].astype(np.float32)
    counts = counted(monkeypatch)
    allowed = np.random.default_rng(6).random(3000) < 0.9
    queries = np.array(vectors[:300])
    found = TopK(queries, 10, leads(queries, axes))
    for some in (slice(0, None, 2), slice(1, None, 2)):
        found.see(np.arange(3000)[some], vectors[some], leads(np.array(vectors[some]), axes), allowed[some])
    exact = np.where(allowed, cosines(queries, vectors).astype(np.float32), -np.inf)
    np.testing.assert_array_equal(found.ids, np.argsort(-exact, axis=1, kind="stable")[:, :10])
    assert counts["together"] == 300 * 3000
    assert counts["alone"] < 0.05 * 300 * 3000


@pytest.mark.parametrize("num_rows", [3, 100, 1000])
def test_what_looks_best_is_looked_at_first(num_rows):
    rough = np.random.default_rng(7).standard_normal((20, num_rows)).astype(np.float32)
    rough[:, 1] = -np.inf
    rough[3] = -np.inf
    line, row = _promising(rough, 5)
    assert (rough[line, row] > -np.inf).all()
    assert len(set(zip(line.tolist(), row.tolist(), strict=True))) == len(line)
    assert 3 not in line
    for each in {*range(20)} - {3}:
        looked_at = row[line == each]
        assert len(looked_at) == min(5, num_rows - 1)
        assert np.argmax(rough[each]) in looked_at
        if num_rows >= 100:
            assert np.median(rough[each, looked_at]) >= np.quantile(rough[each], 0.9)


def test_floors_rise_and_no_row_of_the_best_is_closed():
    vectors = family(np.random.default_rng(8), 2000)
    block = _Block(vectors[:7], np.arange(2000), vectors)
    best_so_far = _Best(np.empty((7, 0), np.int64), np.empty((7, 0), np.float32), 10, 10)
    assert (best_so_far.floors < -1).all()
    rough = vectors[:7] @ vectors.T
    line, row = best_so_far.open_places(rough, block)
    assert (best_so_far.floors > 0).all()
    assert len(line) < 7 * 2000 / 10
    best_so_far.take((line, row), block)
    np.testing.assert_array_equal(
        best_so_far.ids, np.argsort(-(vectors[:7] @ vectors.T), axis=1, kind="stable")[:, :10]
    )
