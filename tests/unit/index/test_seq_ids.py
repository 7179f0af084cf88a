"""The sequence of each row: a run of them says no more than its first."""

from __future__ import annotations

import numpy as np
import pytest

from index.build import build_index
from index.errors import StoreError
from index.info import ROWS, SEGMENTS, current_info, index_folder
from index.search import Searcher
from index.seq_ids import SeqIds, packed
from tests.made import on_disk


@pytest.mark.parametrize(
    ("ids", "size"),
    [([], 0), ([7], 1), ([7, 8, 9, 10], 1), ([7, 8, 10], 3), ([10, 9, 8], 3), ([4, 0, 9, 2, 5], 5)],
    ids=["none", "one", "run", "gap", "falling", "mixed"],
)
def test_packed_or_not_they_are_the_same(ids, size):
    whole = np.array(ids, dtype=np.int64)
    assert len(packed(whole)) == size
    check(SeqIds(packed(whole), len(ids)), ids)
    check(SeqIds(whole, len(ids)), ids)


def check(seq_ids: SeqIds, ids: list[int]) -> None:
    assert len(seq_ids) == len(ids)
    assert seq_ids.all().tolist() == ids
    assert seq_ids.between(1, 3).tolist() == ids[1:3]
    assert seq_ids.between(2, 99).tolist() == ids[2:]
    rows = np.array([[-1, len(ids) - 1], [0, -1]]) if ids else np.full((2, 2), -1)
    assert seq_ids.pick(np.arange(13) * 2).tolist() == [2 * each for each in ids]
    assert seq_ids.at(rows).tolist() == [[-1 if row < 0 else ids[row] for row in line] for line in rows.tolist()]
    asked = list(range(-2, 13))
    expected = [ids.index(each) if each in ids else -1 for each in asked]
    assert seq_ids.rows_of(np.array(asked)).tolist() == expected
    assert seq_ids.rows_of(np.array([asked, asked])).tolist() == [expected, expected]
    assert seq_ids.rows_of(np.array([], dtype=np.int64)).tolist() == []


def test_another_number_of_them_is_damage():
    for held, num_rows in [([1, 2, 3], 4), ([1, 2], 1), ([], 2), ([1], 0)]:
        with pytest.raises(ValueError, match=f"{len(held)} seq_ids for {num_rows} rows"):
            SeqIds(np.array(held, dtype=np.int64), num_rows)


@pytest.mark.parametrize("kind", ["flat", "IVF8,Flat", "SQ8"])
def test_an_index_that_holds_all_of_a_run_is_searched_alike(builder, vectors, kind, monkeypatch):
    """As indexes were written before."""
    store = builder.embedded(vectors, parts=2)
    monkeypatch.setattr("index.segments.packed", lambda seq_ids: seq_ids)
    with store.lock():
        info = build_index(store, kind=kind)
    (segment,) = info.segments
    file = on_disk(index_folder(store)) / SEGMENTS / segment.name / ROWS
    assert np.load(file).tolist() == [*range(len(vectors))]
    opened = Searcher.open(store, thorough=True)
    assert opened.seq_ids.tolist() == [*range(len(vectors))]
    asked = np.array([7, 499, 250])
    assert opened.find(vectors[asked], 1).seq_ids[:, 0].tolist() == asked.tolist()
    # A filter, and an exact search over what is stored.
    assert opened.find(vectors[asked], 1, allowed=asked[:1]).seq_ids[:, 0].tolist() == [7, 7, 7]
    assert opened.find(vectors[asked], 1, exact=True).seq_ids[:, 0].tolist() == asked.tolist()
    np.testing.assert_array_equal(opened.vectors(asked), opened.stored(asked))


def test_segments_of_runs_and_of_what_has_gaps(builder, vectors):
    """Vectors 0 to 199 in a run, every third of the others in a second segment; hits are named alike."""
    store = builder.store(builder.random_records(len(vectors)))
    made = builder.embedding()
    store.put_embedding(made)
    builder.write_part(store, made, 0, np.arange(200), vectors[:200])
    with store.lock():
        build_index(store, kind="flat")
    rest = np.arange(200, len(vectors), 3)
    # Few enough to be added to what was learned.
    some = rest[:15]
    builder.write_part(store, made, 1, some, vectors[some])
    with store.lock():
        build_index(store, kind="flat")
    info = current_info(store)
    assert info is not None
    files = [on_disk(index_folder(store)) / SEGMENTS / each.name / ROWS for each in info.segments]
    assert [len(np.load(file)) for file in files] == [1, 15]
    opened = Searcher.open(store)
    assert opened.seq_ids.tolist() == [*range(200), *some.tolist()]
    found = opened.find(vectors[[5, some[2]]], 1)
    assert found.seq_ids[:, 0].tolist() == [5, some[2]]
    np.testing.assert_array_equal(opened.vectors(some[[3, 1]]), vectors[some[[3, 1]]].astype(np.float32))
    assert opened.find(vectors[[5]], 2, allowed=some[:1]).seq_ids.tolist() == [[some[0], -1]]
    with pytest.raises(StoreError, match=f"no embedding of seq_id {some[1] + 1}"):
        opened.vectors(np.array([3, some[1] + 1]))
