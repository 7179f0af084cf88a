"""Ids and annotations looked up while records are removed, files come and versions are published."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.annotation_rows import open_rows
from index.annotation_tables import annotations_folder
from index.annotations import annotate
from index.build import build_index
from index.catalog import Catalog
from index.errors import QuestionError, StoreError, UnknownRecordError
from index.hits import hit_table, resolve_ids
from index.info import checksum
from index.lookups import find, runs
from index.removals import remove_records
from index.search import Searcher
from index.store import Store
from tests.made import on_disk

RECORDS = [
    ("a", "first", "ACGUACGU"),
    ("b", "second", "GGGGCCCC"),
    ("a", "again", "ACGUACGU"),
    ("b2", "other name", "GGGGCCCC"),
    ("c", "one", "UUUUAAAA"),
    ("c", "another", "CCCCAAAA"),
    ("ü", "umlaut", "ACACACAC"),
]


@pytest.fixture
def store(builder):
    return indexed(builder, builder.store(RECORDS))


def indexed(builder, store: Store) -> Store:
    made = builder.embedding()
    store.put_embedding(made)
    count = store.num_sequences
    builder.write_part(store, made, 0, range(count), np.random.default_rng(0).standard_normal((count, 16)))
    with store.lock():
        build_index(store)
    return store


def both(store: Store, ids: list[str], searcher: Searcher) -> list[int]:
    """By the catalogue, which must say what all the records say."""
    found = resolve_ids(store, ids, searcher.catalog)[1].tolist()
    assert found == resolve_ids(store, ids)[1].tolist()
    return found


def refused(store: Store, ids: list[str], searcher: Searcher, kind: type[Exception], message: str) -> None:
    for catalog in (searcher.catalog, None):
        with pytest.raises(kind, match=message):
            resolve_ids(store, ids, catalog)


def add(store: Store, **tables) -> None:
    with store.lock():
        annotate(store, tables)


def checked(store: Store) -> None:
    opened = open_rows(store)
    assert opened is not None
    opened.check()


def notes(store: Store, searcher: Searcher, seq_ids: list[int], column: str = "n", **options) -> list:
    found = np.array([seq_ids])
    columns = ["id", column]
    return hit_table(store, searcher, ["q"], found, np.zeros(found.shape, np.float32), columns=columns, **options)[
        column
    ].to_pylist()


def test_ids_by_the_catalogue(store):
    searcher = Searcher.open(store)
    assert searcher.catalog.covers(store)
    assert both(store, ["b", "a", "ü", "b2", "a"], searcher) == [1, 0, 4, 1, 0]
    assert both(store, [], searcher) == []
    refused(store, ["a", "nobody"], searcher, UnknownRecordError, "no record with id nobody")
    refused(store, ["a", "c"], searcher, QuestionError, r"'c' is carried by records of 2 .* \(seq_id 2, 3\)")


def test_removed_records(builder, store):
    searcher = Searcher.open(store)
    with store.lock():
        remove_records(store, ["b", "ü"])
    refused(store, ["b"], searcher, UnknownRecordError, "no record with id b")
    refused(store, ["ü"], searcher, UnknownRecordError, "no record with id ü")
    assert both(store, ["b2", "a"], searcher) == [1, 0]
    table = searcher.catalog.take(np.array([1]))
    assert table["id"].to_pylist() == ["b"], "the catalogue is that of the index"
    found = np.array([[1, 0]])
    hits = hit_table(store, searcher, ["q"], found, np.zeros((1, 2), np.float32), columns=["id", "n_records"])
    assert hits.to_pylist() == [{"id": "b2", "n_records": 1}, {"id": "a", "n_records": 2}]
    builder.add_source(store, [("b", "came back", "GAGAGAGA")], "later.fasta")
    assert not searcher.catalog.covers(store)
    assert both(store, ["b"], searcher) == [5], "a record of after the index"
    made = store.embedding()
    builder.write_part(store, made, 1, [5], np.ones((1, 16)))
    with store.lock():
        build_index(store)
    searcher = Searcher.open(store)
    assert searcher.catalog.covers(store)
    assert both(store, ["b", "b2"], searcher) == [5, 1]


def test_a_catalogue_of_before_it_could_be_mapped(store):
    """As an index holds it that an older version built."""
    searcher = Searcher.open(store)
    folder = on_disk(store.root) / "index" / searcher.info.version
    table = searcher.catalog.take(np.arange(5))
    pq.write_table(table, folder / "catalog.parquet")
    named = {name: known for name, known in searcher.info.checksums.items() if not name.endswith(".arrow")}
    old = replace(searcher.info, checksums={**named, "catalog.parquet": checksum(folder / "catalog.parquet")})
    catalog = Catalog.open(store, old)
    assert catalog.take(np.array([3, 0]))["id"].to_pylist() == ["c", "a"]
    assert not catalog.covers(store)
    assert resolve_ids(store, ["b2"], catalog)[1].tolist() == [1]


def test_annotation_rows(store, tmp_path, monkeypatch):
    (tmp_path / "t.tsv").write_text("id\tn\tword\nb\t1\tx\nb2\t2\t\nc\t3\ty\na\t\tz\n")
    nested = pa.table({"id": ["b", "b2", "a"], "tags": [["u", "v"], [], None], "n2": [1, 2, 3]})
    pq.write_table(nested, tmp_path / "nested.parquet")
    add(store, t=tmp_path / "t.tsv", nested=tmp_path / "nested.parquet")
    searcher = Searcher.open(store)
    for mapped in (True, False):
        assert notes(store, searcher, [4, 1, 0, 1]) == [None, 1, None, 1]
        assert notes(store, searcher, [1, 3], "word") == ["x", "y"]
        assert notes(store, searcher, [0, 1, 4], "tags") == [None, ["u", "v"], None], "no column of a mapped file"
        assert notes(store, searcher, [1, 4, 0, 1], all_annotations=True) == [[1, 2], None, [None], [1, 2]]
        assert notes(store, searcher, [1], "word", all_annotations=True) == [["x", None]], "of equal length"
        if mapped:  # a version of before there were such files
            shutil.rmtree(on_disk(annotations_folder(store)) / "000001")
            monkeypatch.setattr("index.annotation_rows._OPENED", {})


def test_damaged_mapped_rows(store, tmp_path, monkeypatch):
    (tmp_path / "t.tsv").write_text("id\tn\nb\t1\na\t2\n")
    add(store, t=tmp_path / "t.tsv")
    checked(store)
    file = on_disk(annotations_folder(store)) / "000001" / "t.arrow"
    content = file.read_bytes()
    place = content.rindex(np.array([0, 1], np.int64).tobytes())
    changed = content[:place] + np.array([0, 3], np.int64).tobytes() + content[place + 16 :]
    for damaged, message in ((changed, "its sequences are not those of the table"), (content[:-300], "damaged")):
        file.write_bytes(damaged)
        monkeypatch.setattr("index.annotation_rows._OPENED", {})
        with pytest.raises(StoreError, match=rf"t\.arrow: .*{message}.*; remove it, and hits are slower"):
            checked(store)


def test_a_version_that_was_opened_stays(store, tmp_path):
    (tmp_path / "t.tsv").write_text("id\tn\na\t1\n")
    add(store, t=tmp_path / "t.tsv")
    old = open_rows(store)
    assert old is not None
    assert open_rows(store) is old
    for value in (2, 3, 4):
        (tmp_path / "t.tsv").write_text(f"id\tn\na\t{value}\n")
        add(store, t=tmp_path / "t.tsv")
        new = open_rows(store)
        assert new is not None
        assert new.first(np.array([0]), {"n": ("t", "n")})["n"].to_pylist() == [value]
    asked = {"n": ("t", "n")}
    assert old.first(np.array([0]), asked)["n"].to_pylist() == [1], "opened, and removed since"


def test_threads_ask_while_versions_are_published(store, tmp_path):
    searcher = Searcher.open(store)
    file = tmp_path / "t.tsv"
    file.write_text("id\tn\nb\t0\nb2\t0\n")
    add(store, t=file)

    def ask(_: int) -> list[list[int]]:
        opened = Store.open(store.root)
        seen = [notes(opened, searcher, [1], all_annotations=True)[0] for _ in range(10)]
        first = [notes(opened, searcher, [1, 1]) for _ in range(50)]
        return [values for values in [*seen, *first] if len(set(values)) != 1 or len(values) != 2]

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, number) for number in range(4)]
        for value in range(1, 4):
            file.write_text(f"id\tn\nb\t{value}\nb2\t{value}\n")
            add(store, t=file)
        assert [each.result() for each in asked] == [[]] * 4, "rows of one version only"


def test_a_row_for_each_record(store):
    searcher = Searcher.open(store)
    found = np.array([[1, 4], [0, -1]])
    scores = np.array([[0.9, 0.5], [1, np.nan]], np.float32)
    columns = ["query", "rank", "id", "description", "score", "n_records"]
    hits = hit_table(store, searcher, ["p", "q"], found, scores, columns=columns, expand_records=True)
    assert [tuple(row.values())[:4] for row in hits.to_pylist()] == [
        ("p", 1, "b", "second"),
        ("p", 1, "b2", "other name"),
        ("p", 2, "ü", "umlaut"),
        ("q", 1, "a", "first"),
        ("q", 1, "a", "again"),
    ]
    np.testing.assert_array_equal(hits["score"].to_numpy(), np.array([0.9, 0.9, 0.5, 1, 1], np.float32))
    with store.lock():
        remove_records(store, ["b"])
    hits = hit_table(store, searcher, ["p", "q"], found[:1], scores[:1], columns=["id"], expand_records=True)
    assert hits["id"].to_pylist() == ["b2", "ü"]


def test_look_ups_in_sorted_arrays():
    assert find(np.array([2, 5, 9]), np.array([9, 1, 5, 10, 2])).tolist() == [2, -1, 1, -1, 0]
    assert find(np.empty(0, np.int64), np.array([3])).tolist() == [-1]
    assert runs(np.array([7, 3, 0]), np.array([2, 0, 3])).tolist() == [7, 8, 0, 1, 2]
    assert runs(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []
