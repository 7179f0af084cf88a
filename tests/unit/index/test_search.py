"""Searching: scores, ties, filters, every family of index."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import engines
from index.build import build_index
from index.errors import StoreError
from index.exact import best, exact_search
from index.search import Searcher

APPROXIMATE = [
    "IVF16,Flat",
    "IVF16,SQ8",
    "IVF16,RaBitQ,Refine(SQfp16)",
    "IVF16,PQ8x4fs,Refine(SQfp16)",
    "RR16,IVF16,Flat",
    "HNSW16",
    "HNSW16,SQfp16",
    "SQ8",
    "RaBitQfs,Refine(SQfp16)",
    "IVF16_HNSW8,Flat",
]


def searcher(store, kind="flat", transform="none", recall=0.9):
    """By raw cosines, unless told otherwise; transformed ones are in test_transformed_search.py."""
    with store.lock():
        build_index(store, kind=kind, transform=transform, recall=recall)
    return Searcher.open(store)


def expected(scores, k):
    """Order by (score descending, seq_id ascending), from exact scores (Q, n)."""
    scores = scores.astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, 1)


def test_flat_equals_numpy(builder, vectors, cosines):
    queries = np.random.default_rng(2).standard_normal((50, 16)).astype(np.float32)
    seq_ids, scores = searcher(builder.embedded(vectors)).search(queries, 12)
    truth, values = expected(cosines(queries, vectors), 12)
    np.testing.assert_allclose(scores, values, atol=1e-6, rtol=0)
    assert (seq_ids == truth).mean() > 0.999
    assert scores.dtype == np.float32
    assert seq_ids.dtype == np.int64


def test_more_neighbours_than_sequences(builder, vectors):
    seq_ids, scores = searcher(builder.embedded(vectors[:5], parts=2)).search(vectors[:2], 8)
    assert sorted(seq_ids[0, :5]) == [0, 1, 2, 3, 4]
    assert (seq_ids[:, 5:] == -1).all()
    assert np.isnan(scores[:, 5:]).all()
    assert seq_ids[0, 0] == 0
    assert scores[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("k", [1, 5, 40, 299])
def test_ties_come_in_the_order_of_seq_id(builder, vectors, k):
    # 300 sequences share 3 vectors, so most places are ties, at the edge of k too.
    repeated = vectors[np.arange(300) % 3]
    opened = searcher(builder.embedded(repeated))
    seq_ids, scores = opened.search(vectors[:3], k)
    for query in range(3):
        alike = np.flatnonzero(np.arange(300) % 3 == query)
        np.testing.assert_array_equal(seq_ids[query, : len(alike)], alike[:k])
        ties = scores[query, :-1] == scores[query, 1:]
        assert (np.diff(seq_ids[query])[ties] > 0).all()
    alone = np.vstack([opened.search(vectors[query : query + 1], k)[0] for query in range(3)])
    np.testing.assert_array_equal(seq_ids, alone)


@pytest.mark.parametrize("first", [0, 1000])
def test_however_many_tie_few_are_fetched(builder, vectors, first, monkeypatch):
    """Two thousand rows tie for the last place: to hold them all for every query would take memory without a bound."""
    monkeypatch.setattr(engines, "FEW_ROWS", 0)
    opened = searcher(builder.embedded(vectors[np.arange(4000) % 2]))
    engine = opened.segments.engine
    assert isinstance(engine, engines.FlatEngine)
    proposed, fetched = engine._searched, []

    def search(queries, k, params=None):
        fetched.append(k)
        return proposed.search(queries, k, params=params)

    engine.by(SimpleNamespace(search=search))
    seq_ids, scores = opened.search(vectors[:2], 5, allowed=np.arange(first, 4000) if first else None)
    np.testing.assert_array_equal(seq_ids, first + np.array([np.arange(0, 10, 2), np.arange(1, 11, 2)]))
    np.testing.assert_allclose(scores, 1, atol=1e-6)
    assert max(fetched) == engines.MOST_FETCHED * min(fetched)


def test_nearly_equal_vectors_are_ordered_exactly(builder, cosines):
    # Differences of some 1e-8 in the score vanish in float32 products of another order of summation.
    generator = np.random.default_rng(3)
    base = generator.standard_normal(64)
    close = (base + 1e-4 * generator.standard_normal((400, 64))).astype(np.float32)
    _, scores = searcher(builder.embedded(close)).search(close[:20], 10)
    values = expected(cosines(close[:20], close), 10)[1]
    np.testing.assert_allclose(scores, values, atol=1.2e-7, rtol=0)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_rows_out_of_order_and_gaps(builder, vectors, cosines):
    store = builder.store(builder.random_records(60))
    made = builder.embedding()
    store.put_embedding(made)
    builder.write_part(store, made, 0, [59, 3, 40], vectors[[59, 3, 40]])
    builder.write_part(store, made, 1, [7, 2], vectors[[7, 2]])
    opened = searcher(store)
    seq_ids, _ = opened.search(vectors[[3]], 9)
    held = np.array([59, 3, 40, 7, 2])
    order = np.argsort(-cosines(vectors[[3]], vectors[held])[0])
    assert seq_ids[0].tolist() == [*held[order].tolist(), -1, -1, -1, -1]
    np.testing.assert_array_equal(opened.vectors(np.array([2, 59, 2])), vectors[[2, 59, 2]])
    with pytest.raises(StoreError, match="no embedding of seq_id 4, 99 in the index"):
        opened.vectors(np.array([2, 4, 99]))


def test_stored_vectors_come_back(builder, vectors):
    opened = searcher(builder.embedded(vectors, parts=4))
    wanted = np.random.default_rng(0).integers(0, 500, 64)
    np.testing.assert_array_equal(opened.vectors(wanted), vectors[wanted])
    assert opened.vectors(np.array([], dtype=np.int64)).shape == (0, 16)


@pytest.mark.parametrize("kind", ["flat", *APPROXIMATE])
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.002, 0.0])
def test_filters_lose_nothing(builder, cosines, kind, share):
    """At every selectivity min(k, matches) hits, and the right ones, as NumPy finds them."""
    generator = np.random.default_rng(4)
    centres = 3 * generator.standard_normal((20, 16))
    vectors = (centres[generator.integers(0, 20, 1000)] + generator.standard_normal((1000, 16))).astype(np.float32)
    queries = vectors[:20] + 0.1
    allowed = np.sort(generator.permutation(1000)[: round(1000 * share)])
    lossy = kind == "IVF16,SQ8"
    opened = searcher(builder.embedded(vectors), kind, recall=0.9 if lossy else 0.98)
    seq_ids, scores = opened.search(queries, 10, allowed=allowed)
    wanted = min(10, len(allowed))
    assert (seq_ids[:, :wanted] >= 0).all()
    assert (seq_ids[:, wanted:] == -1).all()
    assert np.isin(seq_ids[:, :wanted], allowed).all()
    assert all(len(set(line[:wanted])) == wanted for line in seq_ids.tolist())
    if wanted == 0:
        return
    truth, values = expected(cosines(queries, vectors[allowed]), wanted)
    if kind == "flat":
        np.testing.assert_array_equal(seq_ids[:, :wanted], allowed[truth])
        np.testing.assert_allclose(scores[:, :wanted], values, atol=1e-6, rtol=0)
    right = np.mean([len(set(a) & set(b)) / wanted for a, b in zip(seq_ids[:, :wanted], allowed[truth], strict=True)])
    assert right >= (0.6 if lossy else 0.98)


# FAISS learns PQ16 for half a minute, whatever the number of vectors.
PQ16 = pytest.param("HNSW16,PQ16", marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", ["HNSW16", PQ16, "SQ8", "RaBitQfs,Refine(SQfp16)"])
def test_few_that_may_not_be_found_are_dropped(builder, cosines, kind):
    """Removing some records does not make a graph a brute-force search, nor lose a hit near a gap."""
    generator = np.random.default_rng(4)
    centres = 3 * generator.standard_normal((20, 16))
    vectors = (centres[np.arange(1000) % 20] + generator.standard_normal((1000, 16))).astype(np.float32)
    allowed = np.setdiff1d(np.arange(1000), np.arange(0, 900, 20))  # of family 0 only the last are left
    opened = searcher(builder.embedded(vectors), kind)
    queries = vectors[:20] + 0.1
    seq_ids, _, how = opened.find(queries, 10, allowed=allowed)
    assert np.isin(seq_ids, allowed).all()
    truth = allowed[expected(cosines(queries, vectors[allowed]), 10)[0]]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(seq_ids, truth, strict=True)]) >= 0.97
    assert how["searched"][0].startswith("36 neighbours, without 45 of 1,000 rows; for 1 queries ")
    assert "one by one" not in opened.find(queries[1:], 10, allowed=allowed).how["searched"][0]


@pytest.mark.parametrize("kind", ["flat", "IVF16,Flat"])
def test_filters_beyond_the_size_of_a_scan(builder, cosines, kind, monkeypatch):
    """The bitmap inside FAISS, and whole families as filter: the matches may lie far from the query."""
    monkeypatch.setattr("index.engines.FEW_ROWS", 0)
    monkeypatch.setattr("index.engines.FEW_SHARE", 0.0)
    generator = np.random.default_rng(5)
    centres = 8 * generator.standard_normal((20, 16))
    family = generator.integers(0, 20, 1000)
    vectors = (centres[family] + generator.standard_normal((1000, 16))).astype(np.float32)
    opened = searcher(builder.embedded(vectors), kind)
    for allowed in (np.flatnonzero(family == 3), np.flatnonzero(family < 10), np.array([5, 900])):
        seq_ids, _ = opened.search(vectors[family == 4][:10], 10, allowed=allowed)
        truth, _ = expected(cosines(vectors[family == 4][:10], vectors[allowed]), 10)
        wanted = truth.shape[1]
        assert (seq_ids[:, :wanted] >= 0).all()
        assert np.isin(seq_ids[:, :wanted], allowed).all()
        if kind == "flat":
            np.testing.assert_array_equal(seq_ids[:, :wanted], allowed[truth])


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_approximate_types(builder, vectors, cosines, kind):
    opened = searcher(builder.embedded(vectors), kind)
    seq_ids, scores = opened.search(vectors[:50], 10)
    assert (seq_ids >= 0).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    exact = cosines(vectors[:50], vectors)
    estimated = np.take_along_axis(exact, seq_ids, 1)
    tolerance = {"SQ8": 0.03, "IVF16,SQ8": 0.03}.get(kind, 0.005)
    assert np.abs(scores - estimated).max() < tolerance
    whole, _ = opened.search(vectors[:3], 600)
    assert (np.sort(whole[:, :500], axis=1) == np.arange(500)).all()
    assert (whole[:, 500:] == -1).all()


def test_nprobe_can_be_chosen(builder, vectors, cosines):
    opened = searcher(builder.embedded(vectors), "IVF32,Flat")
    truth, _ = expected(cosines(vectors[:50], vectors), 10)

    def recall(nprobe):
        found, _ = opened.search(vectors[:50], 10, nprobe=nprobe)
        return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])

    assert recall(1) < recall(8) < recall(32) == 1.0


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (np.ones((2, 8)), 3, r"queries of shape \(2, 8\): this index holds vectors of 16 values"),
        (np.ones(16), 3, r"queries of shape \(16,\)"),
        (np.vstack([np.ones(16), np.zeros(16)]), 3, "query 2: the vector is zero or not finite"),
        (np.full((1, 16), np.nan), 3, "query 1: the vector is zero or not finite"),
        (np.ones((1, 16)), 0, "k = 0"),
    ],
)
def test_bad_queries(builder, vectors, queries, k, message):
    opened = searcher(builder.embedded(vectors))
    with pytest.raises(StoreError, match=message):
        opened.search(queries, k)


def test_no_queries_and_no_vectors(builder, vectors):
    opened = searcher(builder.embedded(vectors))
    assert opened.search(np.empty((0, 16), np.float32), 3)[0].shape == (0, 3)
    empty = builder.store([], name="empty")
    empty.put_embedding(builder.embedding())
    seq_ids, scores = searcher(empty).search(vectors[:2], 3)
    assert (seq_ids == -1).all()
    assert np.isnan(scores).all()


def test_threads_share_a_searcher(builder, vectors):
    opened = searcher(builder.embedded(vectors))
    alone = opened.search(vectors, 5)[0]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda start: opened.search(vectors[start : start + 50], 5)[0], range(0, 500, 50)))
    np.testing.assert_array_equal(np.vstack(found), alone)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_streaming_in_blocks_changes_nothing(num_rows, k, num_blocks, seed):
    generator = np.random.default_rng(seed)
    vectors = generator.integers(-2, 3, (num_rows, 4)).astype(np.float32) + 0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = generator.permutation(100)[:num_rows]
    blocks = [(ids[part], vectors[part]) for part in np.array_split(np.arange(num_rows), num_blocks)]
    found, scores = exact_search(blocks, vectors[:3], k)
    exact = (vectors[:3].astype(np.float64) @ vectors.T.astype(np.float64)).astype(np.float32).clip(-1, 1)
    wanted, values = best(np.tile(ids, (len(exact), 1)), exact, k)
    np.testing.assert_allclose(scores, values, atol=1e-7, rtol=0)
    assert found.shape == wanted.shape
