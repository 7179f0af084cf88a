"""The second look at an index."""

from __future__ import annotations

import numpy as np
import pytest

from index import segments as segments_module
from index.audit import audit
from index.build import build_index
from index.errors import StoreError
from index.removals import remove_records
from index.search import Searcher


def built(store, kind, recall=0.5):
    with store.lock():
        return build_index(store, kind=kind, recall=recall)


def test_exact_types_are_exact(builder, vectors):
    store = builder.embedded(vectors)
    built(store, "flat")
    found = audit(store, 100)
    assert (found.queries, found.recall, found.target) == (100, 1.0, None)
    assert found.p99_ms >= found.p50_ms > 0
    assert found.disk_bytes > 500 * 16 * 4


def test_recall_is_that_of_brute_force(builder, vectors, cosines):
    """Few lists are visited, so that some is lost; NumPy counts what."""
    store = builder.embedded(vectors)
    info = built(store, "IVF32,Flat", 0.3)
    found = audit(store, 5000)
    assert found.queries == 500
    assert found.target == 0.3
    assert 0.3 <= found.recall < 1
    opened = Searcher.open(store)
    moved = opened.transform.apply(vectors)
    truth = cosines(moved, moved)
    np.fill_diagonal(truth, -2)
    seq_ids, _ = opened.search(vectors, 11)
    nearest = np.argsort(-truth, axis=1)[:, :10]
    hit = sum(
        len(set([one for one in row.tolist() if one not in (line, -1)][:10]) & set(nearest[line].tolist()))
        for line, row in enumerate(seq_ids)
    )
    assert found.recall == pytest.approx(hit / 5000, abs=0.004)  # but for ties
    assert info.operating["recall_at_10"] == pytest.approx(found.recall, abs=0.1)


def test_removed_sequences_are_not_missed(builder, vectors, monkeypatch):
    """Of what was removed nothing is found, and nothing is searched for; the recall is that of the others."""
    monkeypatch.setattr(segments_module, "SEGMENT_BYTES", 100 * 4 * 16)
    store = builder.embedded(vectors, parts=5)
    assert len(built(store, "IVF16,Flat", 0.9).segments) == 5
    before = audit(store, 500)
    with store.lock():
        remove_records(store, [f"R{number:05d}" for number in range(0, 500, 3)])
    after = audit(store, 500)
    assert (before.queries, after.queries) == (500, 333)
    # The living are searched among with more visits, so that as many of them are looked at.
    assert after.recall >= before.recall - 0.02
    with store.lock():
        remove_records(store, [f"R{number:05d}" for number in range(500) if number % 3 and number > 4])
    few = audit(store, 500)
    assert (few.queries, few.recall) == (3, 1.0), "of three each has two neighbours"


def test_what_it_takes(builder, vectors):
    """Only pages of its own files count as mapped, and memory is that of an index of this size."""
    many = np.tile(vectors, (40, 4)) + np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float32)
    store = builder.embedded(many)
    built(store, "flat")
    found = audit(store, 50)
    vectors_and_rows = 20_000 * (64 * 4 + 8)
    assert 0.5 * vectors_and_rows <= found.mapped_bytes <= vectors_and_rows + 100_000
    assert found.private_bytes < 100e6
    assert 0 < found.opened_ms < 60_000


def test_nothing_to_look_at(builder, vectors):
    store = builder.embedded(vectors[:1], parts=1)
    with pytest.raises(StoreError, match="no index yet"):
        audit(store, 10)
    built(store, "flat")
    with pytest.raises(StoreError, match="holds 1 vectors"):
        audit(store, 10)
