"""The graph of nearest neighbours: equal to brute force, gone on with, refused where it is not whole or stale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.annotations import annotate
from index.build import build_index
from index.errors import StoreError
from index.families import family_table, find_families
from index.graph import folder, open_graph, read_info
from index.graph_build import make_graph, plan_graph, without_self
from index.removals import remove_records
from index.schema import NEIGHBORS
from index.search import Searcher
from index.sql import connect, query
from index.store import Store
from tests.made import on_disk


def indexed(builder, vectors, kind="flat", **options):
    store = builder.embedded(vectors, **options)
    with store.lock():
        build_index(store, kind=kind, transform="none")
    return store


def make(store, k: Any = 5, blocks=None, **options):
    """Make the graph; no more than so many blocks of it."""
    options = {"batch": 64, **options}
    with store.lock():
        opened = Searcher.open(store)
        plan = plan_graph(store, opened, k=k, **options)
        made = []
        for number, block in enumerate(make_graph(store, opened, plan), 1):
            made.append(block)
            if number == blocks:
                break
    return plan, made


def parts(store):
    return sorted(on_disk(folder(store)).glob("part-*.parquet"))


def edges(store):
    blocks = [pa.table(list(columns), schema=NEIGHBORS) for columns in open_graph(store).edges()]
    return pa.concat_tables([NEIGHBORS.empty_table(), *blocks])


def brute_force(cosines, vectors, k, seq_ids=None):
    """Edges of the sequences `seq_ids` (all if None) among each other, from exact cosines."""
    seq_ids = np.arange(len(vectors)) if seq_ids is None else seq_ids
    scores = cosines(vectors[seq_ids], vectors[seq_ids]).astype(np.float32)
    np.fill_diagonal(scores, -np.inf)
    k = min(k, len(seq_ids) - 1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return (
        np.repeat(seq_ids, k),
        seq_ids[order].ravel(),
        np.take_along_axis(scores, order, 1).ravel(),
        np.tile(np.arange(1, k + 1), len(seq_ids)),
    )


def assert_equal(table, expected):
    seq_ids, neighbors, scores, ranks = expected
    np.testing.assert_array_equal(table["seq_id"], seq_ids)
    np.testing.assert_array_equal(table["neighbor"], neighbors)
    np.testing.assert_allclose(table["score"], scores, atol=1e-6, rtol=0)
    np.testing.assert_array_equal(table["rank"], ranks)


def test_equals_brute_force(builder, vectors, cosines):
    store = indexed(builder, vectors)
    plan, made = make(store)
    assert [(block.block.number, block.sequences, block.edges) for block in made] == [
        *((number, 64, 320) for number in range(7)),
        (7, 52, 260),
    ]
    assert_equal(edges(store), brute_force(cosines, vectors, 5))
    file = pq.ParquetFile(parts(store)[3])
    assert file.schema_arrow.remove_metadata() == NEIGHBORS
    assert read_info(store) == plan.info
    assert make(store)[1] == []


def test_equal_vectors_never_find_themselves(builder, vectors):
    """Then a sequence need not be its own first hit, nor among the first k + 1 at all."""
    store = indexed(builder, vectors[np.arange(90) % 3])
    make(store, k=4)
    table = edges(store)
    assert table.num_rows == 90 * 4
    assert (table["seq_id"].to_numpy() != table["neighbor"].to_numpy()).all()
    np.testing.assert_array_equal(table["seq_id"].to_numpy() % 3, table["neighbor"].to_numpy() % 3)
    assert table["neighbor"].to_pylist()[89 * 4 :] == [2, 5, 8, 11]


def test_a_hit_too_many_goes():
    found, scores = without_self(
        np.array([7, 8, 9]),
        np.array([[7, 1, 2], [3, 8, 4], [5, 6, 1]]),
        np.array([[1, 0.9, 0.8], [1, 1, 0.5], [0.7, 0.6, 0.5]]),
    )
    assert found.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert scores.tolist() == [[0.9, 0.8], [1, 0.5], [0.7, 0.6]]


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_few_sequences(builder, vectors, cosines, count):
    store = builder.embedded(vectors[:count], parts=1)
    with store.lock():
        build_index(store, transform="none")
    make(store, k=10)
    table = edges(store)
    assert table.num_rows == count * max(0, count - 1)
    if count > 1:
        assert_equal(table, brute_force(cosines, vectors[:count], 10))
    assert query(store, "SELECT count(*) AS n FROM neighbors").to_pylist() == [{"n": table.num_rows}]
    found = find_families(store, 1.0)
    assert (found.count, found.singletons, found.largest, found.full) == (0, count, min(count, 1), 0)
    assert family_table(store, found)["seq_id"].to_pylist() == list(range(count))


@pytest.mark.parametrize(("kind", "recall"), [("IVF16,RaBitQ,Refine(SQfp16)", 0.9), ("HNSW16", 0.95), ("SQ8", 0.8)])
def test_approximate_indexes(builder, vectors, cosines, kind, recall):
    store = indexed(builder, vectors, kind)
    make(store)
    table = edges(store)
    found, neighbors = table["seq_id"].to_numpy(), table["neighbor"].to_numpy()
    np.testing.assert_array_equal(found, np.repeat(np.arange(500), 5))
    assert (found != neighbors).all()
    truth = brute_force(cosines, vectors, 5)[1].reshape(500, 5)
    pairs = zip(neighbors.reshape(500, 5), truth, strict=True)
    assert np.mean([len(set(one) & set(other)) / 5 for one, other in pairs]) > recall


def test_a_least_score(builder, vectors, cosines):
    store = indexed(builder, vectors)
    make(store, min_score=0.6)
    expected = brute_force(cosines, vectors, 5)
    kept = expected[2] >= 0.6
    assert 0 < kept.sum() < len(kept)
    assert_equal(edges(store), [column[kept] for column in expected])
    with pytest.raises(StoreError, match=r"no edges below 0\.6; ask .* -k 5 --min-score 0\.5 --replace"):
        find_families(store, 0.5)
    found = find_families(store, 0.6)
    assert len(found.seq_ids) == 500  # those without any edge are there too
    assert found.singletons > 0


def test_gaps_and_removed_sequences(builder, vectors, cosines):
    store = builder.store(builder.random_records(200))
    store.put_embedding(builder.embedding())
    held = np.setdiff1d(np.arange(200), [0, 17, 64, 65, 199])
    builder.write_part(store, store.embedding(), 0, held[::-1], vectors[held[::-1]])
    with store.lock():
        build_index(store, transform="none")
        remove_records(store, ["R00010", "R00100"])
    make(store)
    living = np.setdiff1d(held, [10, 100])
    assert_equal(edges(store), brute_force(cosines, vectors, 5, living))
    np.testing.assert_array_equal(find_families(store, 1.0).seq_ids, living)


def test_removed_later(builder, vectors, cosines):
    """Only blocks that speak of them are made again."""
    generator = np.random.default_rng(5)
    blocks = np.arange(500) // 64
    far = (10 * np.eye(16)[blocks] + generator.standard_normal((500, 16))).astype(np.float32)  # each its own families
    store = indexed(builder, far)
    make(store)
    before = {path: path.stat().st_mtime_ns for path in parts(store)}
    with store.lock():
        remove_records(store, ["R00070"])
    with pytest.raises(StoreError, match=r"part-00001\.parquet: some of its sequences were removed .* -k 5$"):
        find_families(store, 0.5)
    view = query(store, "SELECT count(*) FILTER (seq_id = 70 OR neighbor = 70) AS gone, count(*) AS n FROM neighbors")
    assert view["gone"].to_pylist() == [0]
    assert 2400 < view["n"][0].as_py() < 2495
    plan, made = make(store)
    assert ([block.block.number for block in made], plan.outdated) == ([1], 1)
    assert [path.name for path in parts(store) if path.stat().st_mtime_ns != before[path]] == ["part-00001.parquet"]
    assert_equal(edges(store), brute_force(cosines, far, 5, np.delete(np.arange(500), 70)))
    assert 70 not in find_families(store, 0.5).seq_ids
    assert make(store)[1] == []


@pytest.mark.parametrize("damage", ["gone", "truncated", "empty", "another"])
def test_goes_on(builder, vectors, damage):
    """A part of the blocks, then the rest: the same bytes as at once."""
    store = indexed(builder, vectors)
    make(store)
    whole = {path.name: path.read_bytes() for path in parts(store)}
    for path in parts(store):
        path.unlink()
    _, made = make(store, blocks=3)
    assert len(made) == 3
    with pytest.raises(StoreError, match=r"unfinished, 5 of 8 blocks .* part-00003.parquet; go on with: .* -k 5$"):
        open_graph(store)
    with pytest.raises(StoreError, match="unfinished, 5 of 8 blocks"):
        query(store, "SELECT count(*) FROM neighbors")
    assert query(store, "SELECT count(*) AS n FROM sequences").to_pylist() == [{"n": 500}]
    second = parts(store)[1]
    if damage == "gone":
        second.unlink()
    else:
        content = {"truncated": second.read_bytes()[:-9], "empty": b"", "another": parts(store)[0].read_bytes()}[damage]
        second.write_bytes(content)
    _, made = make(store)
    assert [block.block.number for block in made] == [1, 3, 4, 5, 6, 7]
    assert {path.name: path.read_bytes() for path in parts(store)} == whole


def test_a_flipped_bit_is_seen(builder, vectors):
    store = indexed(builder, vectors)
    make(store)
    path = parts(store)[2]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"part-00002\.parquet: damaged .* remove it and run: raypipe neighbors"):
        find_families(store, 0.5)
    content[100:400] = bytes(300)
    path.write_bytes(content)
    with pytest.raises(
        StoreError, match=r"part-00002\.parquet: is damaged .* remove it and run the same raypipe neighb"
    ):
        query(store, "SELECT sum(score), sum(neighbor), sum(seq_id) FROM neighbors")
    path.unlink()
    make(store)
    find_families(store, 0.5)


def test_other_options_need_a_word(builder, vectors, cosines):
    store = indexed(builder, vectors)
    make(store, blocks=2)
    for options in ({"k": 3}, {"min_score": 0.1}, {"batch": 100}):
        with pytest.raises(
            StoreError, match=r"holds another graph .* 5 nearest .* batches of 64; .* -k 5; .* --replace"
        ):
            make(store, **options)
    assert len(parts(store)) == 2
    make(store, k=3, batch=100, replace=True, blocks=1)
    assert [path.name for path in parts(store)] == ["part-00000.parquet"]
    _, made = make(store, k=3, batch=None, replace=True)  # the same command goes on
    assert [block.sequences for block in made] == [100] * 4
    assert_equal(edges(store), brute_force(cosines, vectors, 3))
    for options in ({"k": 0}, {"batch": 0}, {"min_score": 1.5}, {"min_score": float("nan")}):
        with pytest.raises(StoreError, match=r"at least 1|a score is a cosine"):
            make(store, **options)


def test_a_stale_graph_is_refused_and_made_anew(builder, vectors, cosines):
    store = indexed(builder, vectors[:300])
    with pytest.raises(StoreError, match=r"no graph of neighbours yet; make one with: raypipe neighbors '.*store"):
        open_graph(store)
    make(store)
    builder.add_source(store, [("new", "", "ACGUACGUACGU")], "more.fasta")
    with pytest.raises(StoreError, match=r"stale: sources came since, such as more\.fasta; embed .* raypipe neighbors"):
        find_families(store, 0.5)
    builder.write_part(store, store.embedding(), 7, [300], vectors[300:301])
    with store.lock():
        build_index(store, transform="none")
    with pytest.raises(StoreError, match=r"stale: it is of index 000001, and 000002 is the live one; run: .* -k 5$"):
        find_families(store, 0.5)
    with pytest.raises(StoreError, match="stale: it is of index 000001"):
        query(store, "FROM neighbors")
    plan, made = make(store, k=6)
    assert "it is of index 000001" in plan.stale
    assert len(made) == 5
    assert_equal(edges(store), brute_force(cosines, vectors[:301], 6))
    store.put_embedding(builder.embedding(fingerprint="9" * 64))
    with pytest.raises(
        StoreError, match=r"the vectors 'nano' were made anew; run: raypipe index .*, then: raypipe nei"
    ):
        open_graph(store)


def test_damaged_description(builder, vectors):
    store = indexed(builder, vectors[:100])
    make(store)
    (on_disk(folder(store)) / "graph.json").write_text('{"k": 5')
    with pytest.raises(StoreError, match=r"graph\.json: damaged .* make the graph again, with its options"):
        open_graph(store)
    before = {path: path.stat().st_mtime_ns for path in parts(store)}
    assert make(store)[1] == []  # its blocks are whole, but it has to be described again
    assert open_graph(store).info.k == 5
    assert {path: path.stat().st_mtime_ns for path in parts(store)} == before


def test_in_sql(builder, vectors, tmp_path):
    store = indexed(builder, vectors)
    assert "neighbors" not in query(store, "SHOW TABLES")["name"].to_pylist()
    make(store)
    asked = (
        "SELECT r.id FROM neighbors n JOIN records r ON r.seq_id = n.neighbor WHERE n.seq_id = 70 ORDER BY rank LIMIT 1"
    )
    nearest = edges(store)["neighbor"].to_pylist()[70 * 5]
    assert query(store, asked).to_pylist() == [{"id": f"R{nearest:05d}"}]
    with connect(Store.open(store.root)) as connection:
        assert connection.execute("SELECT count(*) FROM neighbors").fetchone() == (2500,)
    parts(store)[0].unlink()
    with connect(store) as connection:
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (500,)
        with pytest.raises(Exception, match="unfinished, 1 of 8 blocks"):
            connection.execute("SELECT count(*) FROM neighbors").fetchone()


def test_an_annotation_table_of_that_name_is_what_it_was(builder, vectors, tmp_path, monkeypatch):
    """It may be older than the graph; a new one is refused."""
    store = indexed(builder, vectors[:20])
    (tmp_path / "t.tsv").write_text("id\ttaxid\nR00001\t9606\n")
    with store.lock():
        with pytest.raises(StoreError, match="'neighbors' is taken by the store itself"):
            annotate(store, {"neighbors": tmp_path / "t.tsv"})
        monkeypatch.setattr("index.annotations.VIEWS", ())
        annotate(store, {"neighbors": tmp_path / "t.tsv"})
    make(store)
    assert query(store, "SELECT taxid FROM neighbors").to_pylist() == [{"taxid": 9606}]
