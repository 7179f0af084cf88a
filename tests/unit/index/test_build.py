"""Building and publishing an index."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from index.build import build_index, choose_type
from index.errors import StoreError
from index.info import current_info, index_folder
from index.mapped import open_mapped
from index.search import Searcher
from index.store import Store
from tests.made import index_file, on_disk


def built(store: Store, kind: str = "flat", transform: str = "auto"):
    with store.lock():
        return build_index(store, kind=kind, transform=transform)


def test_what_is_published(builder, vectors):
    store = builder.embedded(vectors)
    seen = []
    with store.lock():
        info = build_index(store, progress=lambda done, total: seen.append((done, total)))
    assert (info.type, info.metric, info.rows, info.sequences, info.dimension) == (
        "Flat",
        "inner_product",
        500,
        500,
        16,
    )
    assert info.fingerprint == store.embedding().fingerprint
    assert seen[-1] == (500, 500)
    folder = store.root / "index" / info.version
    assert sorted(path.name for path in folder.iterdir()) == [
        "catalog.arrow",
        "ids.arrow",
        "index.json",
        "transform.npz",
    ]
    (segment,) = json.loads((folder / "index.json").read_text())["segments"]
    assert [part["name"] for part in segment["parts"]] == [f"part-{number:05d}.parquet" for number in range(3)]
    held = store.root / "index" / "segments" / segment["name"]
    assert sorted(path.name for path in held.iterdir()) == ["about.json", "rows.npy", "vectors.faiss"]
    assert np.load(held / "rows.npy").tolist() == [0], "seq_ids are a run from it"
    assert (store.root / "index" / "CURRENT").read_text() == info.version + "\n"
    assert not list((store.root / ".tmp").iterdir())
    catalog = open_mapped(folder / "catalog.arrow")
    assert catalog.num_rows == 500
    assert catalog["id"].to_pylist()[:2] == ["R00000", "R00001"]


def test_catalog_names_the_first_record_in_the_order_of_ingest(builder):
    store = builder.store([("z", "first", "ACGUACGU"), ("y", "other", "GGGG"), ("a", "second", "ACGUACGU")])
    builder.add_source(store, [("b", "new", "CCCC")], "later.fasta")
    made = builder.embedding()
    store.put_embedding(made)
    builder.write_part(store, made, 0, [0, 1, 2], np.eye(3, 16))
    info = built(store)
    catalog = open_mapped(on_disk(index_folder(store)) / info.version / "catalog.arrow").to_pydict()
    assert catalog["id"] == ["z", "y", "b"]
    assert catalog["description"] == ["first", "other", "new"]
    assert catalog["n_records"] == [2, 1, 1]
    assert catalog["length"] == [8, 4, 4]


def test_same_again_builds_nothing(builder, vectors):
    store = builder.embedded(vectors)
    first = built(store)
    stamp = index_file(store.root, "vectors.faiss").stat().st_mtime_ns
    again = built(store)
    assert again.unchanged
    assert not first.unchanged
    assert again.version == first.version
    assert index_file(store.root, "vectors.faiss").stat().st_mtime_ns == stamp
    assert built(store, "auto").unchanged, "auto is flat at this size"
    assert not built(store, "HNSW16").unchanged


def test_two_versions_are_kept(builder, vectors):
    store = builder.embedded(vectors)
    versions = [built(store, kind).version for kind in ("flat", "HNSW8", "flat", "HNSW8")]
    assert len(set(versions)) == 4
    names = sorted(path.name for path in index_folder(store).iterdir())
    assert names == [*versions[-2:], "CURRENT", "segments", "trained"]
    assert [len(list((index_folder(store) / kind).iterdir())) for kind in ("segments", "trained")] == [2, 2]


def test_a_damaged_index_is_replaced(builder, vectors):
    store = builder.embedded(vectors)
    info = built(store)
    file = index_file(on_disk(store.root), "vectors.faiss")
    file.write_bytes(file.read_bytes()[:1000])
    mended = built(store)
    assert mended.version != info.version
    assert Searcher.open(store).info == mended


def test_vectors_stored_as_float16(builder, vectors, cosines):
    store = builder.embedded(vectors, dtype="float16")
    built(store, transform="none")
    halves = vectors.astype(np.float16)
    _, scores = Searcher.open(store).search(vectors[:4], 3)
    np.testing.assert_allclose(scores, -np.sort(-cosines(halves[:4], halves), axis=1)[:, :3], atol=1e-6)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_vectors_without_direction_are_named(builder, vectors, bad):
    vectors[[7, 401]] = bad
    store = builder.embedded(vectors)
    with pytest.raises(StoreError, match=r"part-0000\d.parquet: seq_id (7|401): the vector is zero or not finite"):
        built(store)
    assert current_info(store) is None
    assert not list(store.root.glob(".tmp/*"))


def test_part_of_another_model(builder, vectors):
    store = builder.embedded(vectors)
    foreign = builder.write_part(store, builder.embedding(fingerprint="e" * 64), 9, [3], vectors[:1])
    with pytest.raises(StoreError, match=r"part-00009.parquet: made by another model.*eeee.*'nano' is ffff") as error:
        built(store)
    assert str(foreign) in str(error.value)


def test_part_of_another_dimension(builder, vectors):
    store = builder.embedded(vectors)
    builder.write_part(store, builder.embedding(dimension=4), 9, [3], vectors[:1, :4])
    with pytest.raises(StoreError, match=r"part-00009.parquet: holds fixed_size_list.*\[4\] instead of .*\[16\]"):
        built(store)


def test_truncated_part(builder, vectors):
    store = builder.embedded(vectors)
    file = store.set_parts(store.embedding("nano"))[1]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StoreError, match=r"part-00001.parquet: cannot be read"):
        built(store)


def test_sequence_embedded_twice(builder, vectors):
    store = builder.embedded(vectors)
    builder.write_part(store, store.embedding(), 9, [3], vectors[:1])
    with pytest.raises(StoreError, match=r"embedded twice \(seq_id 3\)"):
        built(store)


def test_sequence_that_the_store_does_not_have(builder, vectors):
    store = builder.embedded(vectors)
    builder.write_part(store, store.embedding(), 9, [500], vectors[:1])
    with pytest.raises(StoreError, match=r"does not have \(seq_id 500\)"):
        built(store)


def test_missing_records_are_damage(builder, vectors):
    store = builder.embedded(vectors)
    shutil.copy(store.parts("sequences")[0], store.root / "sequences" / "part-00000-00001.parquet")
    with pytest.raises(StoreError, match=r"damaged, sequence \d+ of 500 is missing, repeated"):
        built(store)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("IVF9999,Flat", "needs 9999 vectors to train, the store has 500"),
        ("Nonsense", "FAISS does not know it"),
        ("IDMap,HNSW8", "leave IDMap out"),
    ],
)
def test_types_that_cannot_be_built(builder, vectors, kind, message):
    store = builder.embedded(vectors)
    with pytest.raises(StoreError, match=message):
        built(store, kind)
    assert current_info(store) is None


def test_nothing_embedded(builder):
    store = builder.store(builder.random_records(3))
    with pytest.raises(StoreError, match=r"nothing is embedded yet; run: raypipe embed"), store.lock():
        build_index(store)


def test_approximate_types_state_their_recall(builder, vectors):
    store = builder.embedded(vectors)
    info = built(store, "IVF8,Flat")
    assert info.metric == "l2"
    assert info.operating["recall_at_10"] >= 0.99
    assert 1 <= info.operating["nprobe"] <= 8
    assert info.operating["sample"] == 500
    assert current_info(store) == info


def test_types_by_size():
    assert choose_type(0) == choose_type(299_999) == "Flat"
    assert choose_type(300_000) == "IVF1024,RaBitQ,Refine(SQfp16)"
    assert choose_type(1_000_000) == "IVF2048,RaBitQ,Refine(SQfp16)"
    assert choose_type(4_000_000) == "IVF8192_HNSW32,RaBitQ,Refine(SQfp16)"
    assert choose_type(42_000_000) == "IVF32768_HNSW32,RaBitQ,Refine(SQfp16)"


def test_disk_full(builder, vectors, monkeypatch):
    """A write that the system refuses part way, by a limit on the size of files."""
    resource = pytest.importorskip("resource")
    import signal

    store = builder.embedded(vectors)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(StoreError, match=r"cannot"):
            built(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert current_info(store) is None
