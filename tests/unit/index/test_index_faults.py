"""An index that is stale, damaged or missing is refused, with the way out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from index.build import build_index
from index.errors import StaleIndexError, StoreError
from index.info import current_info, index_folder
from index.search import Searcher
from index.store import Store
from tests.made import index_file, on_disk


@pytest.fixture
def store(builder, vectors):
    store = builder.embedded(vectors)
    with store.lock():
        build_index(store)
    return store


def live(store):
    return on_disk(index_folder(store)) / (index_folder(store) / "CURRENT").read_text().strip()


def test_no_index_yet(builder, vectors):
    with pytest.raises(StoreError, match="no index yet; build one with: raypipe index"):
        Searcher.open(builder.embedded(vectors))


def test_new_embeddings(builder, store, vectors):
    builder.add_source(store, [("new", "", "ACGUACGUACGU")], "more.fasta")
    builder.write_part(store, store.embedding(), 7, [500], vectors[:1])
    with pytest.raises(
        StaleIndexError,
        match=r"1 new embedding file, such as part-00007.*new sources, such as more.fasta.*raypipe index",
    ):
        Searcher.open(store)
    assert Searcher.open(store, allow_stale=True).search(vectors[:1], 1)[0].tolist() == [[0]]
    with store.lock():
        build_index(store)
    assert Searcher.open(store).info.rows == 501


def test_new_source_not_embedded_yet(builder, store):
    builder.add_source(store, [("new", "", "ACGUACGUACGU")], "more.fasta")
    with pytest.raises(StaleIndexError, match=r"new sources, such as more\.fasta"):
        Searcher.open(store)


def test_part_replaced_or_gone(builder, store, vectors):
    builder.write_part(store, store.embedding(), 0, range(100), vectors[:100])
    with pytest.raises(StaleIndexError, match="1 changed embedding file, such as part-00000"):
        Searcher.open(store)
    store.set_parts(store.embedding("nano"))[0].unlink()
    with pytest.raises(StaleIndexError, match="1 missing embedding file"):
        Searcher.open(store)


def test_embedded_anew_with_another_model(builder, store):
    store.put_embedding(builder.embedding(fingerprint="9" * 64))
    with pytest.raises(StaleIndexError, match="'nano' was embedded anew with another model"):
        Searcher.open(store)


def test_a_copy_of_the_store_is_not_stale(builder, store, vectors, tmp_path):
    shutil.copytree(store.root, tmp_path / "copy")
    assert Searcher.open(Store.open(tmp_path / "copy")).search(vectors[:1], 1)[0].tolist() == [[0]]


@pytest.mark.parametrize("name", ["vectors.faiss", "rows.npy", "catalog.arrow", "ids.arrow"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "gone", "empty"])
def test_damaged_files(store, name, damage):
    file = index_file(on_disk(store.root), name)
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "altered":
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        file.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    wanted = {"gone": "missing", "altered": "checksum differs"}.get(damage, "bytes instead of")
    with pytest.raises(StoreError, match=rf"{name}: .*{wanted}.*build the index again: raypipe index"):
        Searcher.open(store)


def test_a_file_too_large_to_hash_at_opening_is_still_checked(store, monkeypatch):
    monkeypatch.setattr("index.info.HASHED_AT_OPEN", 100)
    file = index_file(on_disk(store.root), "vectors.faiss")
    content = file.read_bytes()
    file.write_bytes(content[:-4] + b"\0\0\0\0")
    Searcher.open(store)
    with pytest.raises(StoreError, match="checksum differs"):
        Searcher.open(store, thorough=True)


def test_contents_are_compared_up_to_a_sum(store, monkeypatch):
    """However many files there are: the smaller ones first."""
    info = current_info(store)
    assert info is not None
    sizes = {path: known["bytes"] for path, known in info.files.items()}
    smallest, *_, largest = sorted(sizes, key=lambda path: sizes[path])
    assert info.reread == set(sizes)
    monkeypatch.setattr("index.info.HASHED_AT_OPEN", sum(sizes.values()) - 1)
    assert replace(info).reread == set(sizes) - {largest}
    monkeypatch.setattr("index.info.HASHED_AT_OPEN", 2 * sizes[smallest] - 1)
    assert replace(info).reread == {smallest}
    file = on_disk(index_folder(store)) / smallest
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match="checksum differs"):
        Searcher.open(store)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "000001"}'])
def test_damaged_description(store, text):
    (live(store) / "index.json").write_text(text)
    with pytest.raises(StoreError, match=r"index.json: damaged index"):
        Searcher.open(store)


@pytest.mark.parametrize("text", ["", "../../etc", "latest"])
def test_damaged_current(store, text):
    (on_disk(index_folder(store)) / "CURRENT").write_text(text)
    with pytest.raises(StoreError, match="CURRENT: damaged"):
        Searcher.open(store)


def test_current_names_nothing(store):
    (on_disk(index_folder(store)) / "CURRENT").write_text("000077")
    with pytest.raises(StoreError, match=r"000077.*damaged index"):
        Searcher.open(store)


def test_a_description_of_another_size(store):
    file = live(store) / "index.json"
    about = json.loads(file.read_text())
    about["segments"][0]["rows"] = 499
    file.write_text(json.dumps(about))
    with pytest.raises(StoreError, match=r"500 vectors of 16 values where index\.json says 499 of 16"):
        Searcher.open(store)


def test_readers_keep_the_version_they_opened(builder, store, vectors):
    reader = Searcher.open(store)
    before = reader.search(vectors[:20], 5)
    for kind in ("HNSW8", "flat", "IVF4,Flat"):
        with store.lock():
            build_index(store, kind=kind)
    assert not (index_folder(store) / reader.info.version).exists()
    np.testing.assert_array_equal(reader.search(vectors[:20], 5)[0], before[0])
    assert reader.catalog.take(np.array([3]))["id"].to_pylist() == ["R00003"]


def test_an_index_of_an_older_raypipe(store):
    """Of the time before there were segments: it is said, and built anew."""
    file = live(store) / "index.json"
    about = json.loads(file.read_text())
    about["built_from"] = {"parts": about.pop("segments")[0]["parts"], "sources": about.pop("sources")}
    file.write_text(json.dumps(about))
    with pytest.raises(StoreError, match=r"index.json: of an older raypipe; build the index again: raypipe index"):
        Searcher.open(store)
    with store.lock():
        assert build_index(store).version == "000002"
    Searcher.open(store)
