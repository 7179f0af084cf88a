"""A store that is kept open for SQL."""

from __future__ import annotations

import threading

import duckdb
import pytest

from index.annotations import annotate
from index.errors import StoreError
from index.snapshots import Snapshots
from index.sql import Snapshot
from index.store import Store


@pytest.fixture
def store(builder):
    return builder.store(builder.random_records(20))


@pytest.fixture
def opened():
    return []


@pytest.fixture
def snapshots(store, opened):
    def open_snapshot(store):
        opened.append(Snapshot(store))
        return opened[-1]

    kept = Snapshots(store, open_snapshot)
    yield kept
    kept.close()


def publish(store, tmp_path, value):
    (tmp_path / "t.tsv").write_text(f"id\tvalue\nR00001\t{value}\n")
    with store.lock():
        annotate(store, {"rna": tmp_path / "t.tsv"})


def test_a_snapshot_serves_until_the_store_changes(store, snapshots, opened, tmp_path):
    publish(store, tmp_path, 1)
    for _ in range(3):
        assert snapshots.query("SELECT value FROM rna").to_pylist() == [{"value": 1}]
    assert len(opened) == 1
    publish(store, tmp_path, 2)
    assert snapshots.query("SELECT value FROM rna").to_pylist() == [{"value": 2}]
    assert len(opened) == 2
    with pytest.raises(duckdb.ConnectionException, match="closed"):
        opened[0].query("SELECT 1")


def test_readers_of_an_old_snapshot_finish(store, snapshots, opened, tmp_path):
    publish(store, tmp_path, 1)
    with snapshots.reading() as old:
        publish(store, tmp_path, 2)
        with snapshots.reading() as new:
            assert new.query("SELECT value FROM rna").to_pylist() == [{"value": 2}]
            assert old.query("SELECT value FROM rna").to_pylist() == [{"value": 1}]
    assert opened == [old, new]
    with pytest.raises(duckdb.ConnectionException, match="closed"):
        old.query("SELECT 1")


def test_what_comes_to_sets_and_the_graph_is_seen(builder, snapshots, store, opened):
    assert snapshots.query("FROM rejects").num_rows == 0
    (store.root / "embeddings").mkdir()
    assert snapshots.query("FROM rejects").num_rows == 0
    assert len(opened) == 1
    builder.add_source(store, [("new", "", "ACGUACGUACGUACG")], path="more.fasta")
    assert snapshots.query("SELECT count(*) AS n FROM records").to_pylist() == [{"n": 21}]
    assert len(opened) == 2


def test_many_threads_ask_one_snapshot(snapshots, opened):
    found = []

    def ask(number):
        for _ in range(10):
            found.append(snapshots.query("SELECT ? AS n, count(*) AS all FROM records", [number]).to_pylist()[0])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row["n"] for row in found) == sorted(10 * list(range(4)))
    assert {row["all"] for row in found} == {20}
    assert len(opened) == 1


def test_views_are_opened_when_they_are_named(module_builder, vectors):
    store = module_builder.embedded(vectors[:20], name="embedded")
    part = store.set_parts(store.embedding("nano"))[1]
    whole = part.read_bytes()
    part.write_bytes(whole[:-20])
    with Snapshot(store) as snapshot:
        assert snapshot.query("SELECT count(*) AS n FROM records").to_pylist() == [{"n": 20}]
        with pytest.raises(StoreError, match=r"part-00001\.parquet: is damaged"):
            snapshot.query("SELECT sum(embedding[1]) FROM embeddings")
        part.write_bytes(whole)
    with Snapshot(Store.open(store.root)) as snapshot:
        assert snapshot.query("SELECT count(embedding) AS n FROM embeddings").to_pylist() == [{"n": 20}]
        assert snapshot.query("SELECT count(embedding) AS n FROM Embeddings").to_pylist() == [{"n": 20}]
