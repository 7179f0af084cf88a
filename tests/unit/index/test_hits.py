"""The table of hits and its columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from index.annotations import annotate
from index.build import build_index
from index.errors import StoreError
from index.hits import available_columns, hit_table, resolve_ids
from index.search import Searcher


@pytest.fixture
def store(builder, vectors):
    store = builder.embedded(vectors[:30])
    with store.lock():
        build_index(store)
    return store


@pytest.fixture
def annotated(store, tmp_path):
    (tmp_path / "rna.tsv").write_text(
        "id\ttype\tlength\ttaxid\nR00004\tfirst\t1\t7\nR00004\tsecond\t2\t8\nR00002\ttRNA\t3\t9\n"
    )
    (tmp_path / "clan.tsv").write_text("name\tclan\tTYPE\nR00002\tCL1\tx\n")
    with store.lock():
        annotate(store, {"rna": tmp_path / "rna.tsv", "clan": tmp_path / "clan.tsv"})
    return store


SEQ_IDS = np.array([[4, 2, 4], [2, -1, -1]])
SCORES = np.array([[0.9, 0.5, 0.1], [1, np.nan, np.nan]], dtype=np.float32)


def table(store, **options):
    return hit_table(store, Searcher.open(store), ["q1", "q2"], SEQ_IDS, SCORES, **options)


def test_without_annotations(store):
    hits = table(store)
    assert hits.column_names == ["query", "rank", "id", "score", "length", "description"]
    assert hits.select(["query", "rank", "id"]).to_pylist() == [
        {"query": "q1", "rank": 1, "id": "R00004"},
        {"query": "q1", "rank": 2, "id": "R00002"},
        {"query": "q1", "rank": 3, "id": "R00004"},
        {"query": "q2", "rank": 1, "id": "R00002"},
    ]
    assert hits["description"].to_pylist() == ["record 4", "record 2", "record 4", "record 2"]
    np.testing.assert_array_equal(hits["score"].to_numpy(), SCORES[SEQ_IDS >= 0])


def test_annotations_never_multiply_hits(annotated):
    hits = table(annotated)
    assert hits.num_rows == 4
    assert hits.column_names[6:] == ["clan", "clan_TYPE", "rna_type", "rna_length", "taxid"]
    assert hits["rna_type"].to_pylist() == ["first", "tRNA", "first", "tRNA"]
    assert hits["rna_length"].to_pylist() == [1, 3, 1, 3]
    assert hits["clan"].to_pylist() == [None, "CL1", None, "CL1"]
    assert hits["taxid"].type == pa.int64()


def test_chosen_columns(annotated):
    hits = table(annotated, columns=["taxid", "seq_id", "n_records", "query"])
    assert hits.to_pylist()[1] == {"taxid": 9, "seq_id": 2, "n_records": 1, "query": "q1"}
    assert table(annotated, columns=["TAXID", "Clan_type", "ID"]).column_names == ["taxid", "clan_TYPE", "id"]
    with pytest.raises(StoreError, match="asked for twice: id, ID"):
        table(annotated, columns=["id", "ID"])
    assert available_columns(annotated)[-2:] == ["seq_id", "n_records"]
    with pytest.raises(StoreError, match=r"no column 'taxon'; there are: query, rank, .*taxid, seq_id, n_records"):
        table(annotated, columns=["taxon"])
    with pytest.raises(StoreError, match="asked for twice"):
        table(annotated, columns=["id", "id"])


def test_no_hits(annotated):
    empty = np.full((2, 3), -1), np.full((2, 3), np.nan, np.float32)
    hits = hit_table(annotated, Searcher.open(annotated), ["a", "b"], *empty)
    assert hits.num_rows == 0
    assert hits.column_names == available_columns(annotated)[:-2]
    none = hit_table(annotated, Searcher.open(annotated), [], np.empty((0, 3), np.int64), np.empty((0, 3), np.float32))
    assert none.num_rows == 0


def test_many_hits_over_many_row_groups(builder, monkeypatch):
    monkeypatch.setattr("index.catalog.BATCH", 7)
    vectors = np.random.default_rng(0).standard_normal((100, 16)).astype(np.float32)
    store = builder.embedded(vectors)
    with store.lock():
        build_index(store)
    seq_ids = np.random.default_rng(1).integers(0, 100, (40, 9))
    opened = Searcher.open(store)
    hits = hit_table(store, opened, [str(line) for line in range(40)], seq_ids, np.zeros((40, 9), np.float32))
    assert hits["id"].to_pylist() == [f"R{seq_id:05d}" for seq_id in seq_ids.ravel()]


def test_ids_to_sequences(builder):
    store = builder.store(
        [("a", "", "ACGU"), ("b", "", "GGGG"), ("a", "", "ACGU"), ("c", "", "CCCC"), ("c", "", "UUUU")]
    )
    labels, seq_ids = resolve_ids(store, ["b", "a", "b"])
    assert labels == ["b", "a", "b"]
    assert seq_ids.tolist() == [1, 0, 1]
    assert resolve_ids(store, [])[1].tolist() == []
    with pytest.raises(StoreError, match=r"no record with id u0, u1, u2, u3, u4 and 2 more"):
        resolve_ids(store, ["a", *(f"u{number}" for number in range(7))])
    with pytest.raises(StoreError, match=r"id 'c' is carried by records of 2 different sequences \(seq_id 2, 3\)"):
        resolve_ids(store, ["a", "c"])
    with pytest.raises(StoreError, match="no record with id a"):
        resolve_ids(builder.store(None, "none"), ["a"])
