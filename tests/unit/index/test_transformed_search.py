"""Indexes in a space of their own: what is compared, what stays as stored, what counts as the same index."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from index.build import build_index
from index.errors import StoreError
from index.info import TRANSFORM, IndexInfo, current_info, index_folder
from index.search import Searcher
from index.store import Store
from index.transforms import ROWS_TO_WHITEN
from tests.made import index_file, on_disk

KINDS = ["center", "whiten", "whiten:6", "pca:6"]
RECALL = {
    "flat": 1,
    "IVF16,Flat": 0.98,
    "HNSW16": 0.98,
    "SQ8": 0.9,
    "RR16,IVF16,Flat": 0.98,
    "RaBitQfs,Refine(SQfp16)": 0.2,
}


def built(store: Store, kind: str = "flat", transform: str | Path = "auto") -> IndexInfo:
    with store.lock():
        return build_index(store, kind=kind, transform=transform)


def live(store: Store) -> Path:
    return on_disk(index_folder(store)) / info_of(store).version


def info_of(store: Store) -> IndexInfo:
    info = current_info(store)
    assert info is not None
    return info


def reference(store, vectors):
    """The space of the live index, by NumPy from its file alone."""
    vectors = vectors.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with np.load(live(store) / TRANSFORM) as file:
        vectors = vectors - file["mean"]
        vectors = vectors @ file["matrix"].astype(np.float64) if "matrix" in file else vectors
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def cone():
    """(500, 16) float32: a narrow cone of raw cosines near 1, as a masked language model gives it."""
    generator = np.random.default_rng(6)
    mixed = generator.standard_normal((500, 16)) @ np.diag(np.logspace(0, -1, 16)) @ generator.standard_normal((16, 16))
    return (30 + mixed).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_flat_equals_numpy(builder, cone, kind):
    store = builder.embedded(cone)
    info = built(store, transform=kind)
    queries = cone[:40] + 0.1
    seq_ids, scores = Searcher.open(store).search(queries, 7)
    cosines = reference(store, queries) @ reference(store, cone).T
    best = np.argsort(-cosines, axis=1)[:, :7]
    np.testing.assert_array_equal(seq_ids, best)
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, best, 1), atol=2e-6)
    assert info.dimension == (6 if kind.endswith(":6") else 16)
    assert info.transform["kind"] == info.transform["asked"] == kind
    assert info.transform["dimension"] == 16
    assert info.transform["rows"] == 500
    raw = (cone / np.linalg.norm(cone, axis=1, keepdims=True)) @ (cone[0] / np.linalg.norm(cone[0]))
    assert raw.min() > 0.9 > scores.min(), "the raw cosines tell little"


@pytest.mark.parametrize("kind", ["whiten", "whiten:6"])
@pytest.mark.parametrize("type_", RECALL)
def test_every_family_searches_the_same_space(builder, cone, type_, kind):
    store = builder.embedded(cone)
    info = built(store, type_, kind)
    opened = Searcher.open(store)
    # 1-bit codes of even axes keep little in so few dimensions; what they find scores right all the same.
    recall = RECALL[type_]
    cosines = reference(store, cone[:30] + 0.1) @ reference(store, cone).T
    few, many = np.arange(3, 500, 100), np.arange(0, 500, 2)
    for allowed in (np.arange(500), many, few):
        seq_ids, scores = opened.search(cone[:30] + 0.1, 5, allowed=None if len(allowed) == 500 else allowed)
        best = allowed[np.argsort(-cosines[:, allowed], axis=1)[:, :5]]
        right = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(seq_ids, best, strict=True)])
        assert right >= (recall if len(allowed) > 5 else 1)
        np.testing.assert_allclose(scores, np.take_along_axis(cosines, seq_ids, 1), atol=0.03)
    if type_ != "flat":
        assert info.operating["recall_at_10"] >= recall


@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_stored_vectors_stay_as_they_are(builder, cone, kind):
    store = builder.embedded(cone)
    built(store, transform=kind)
    opened = Searcher.open(store)
    stored = opened.vectors(np.array([7, 400]))
    np.testing.assert_array_equal(stored, cone[[7, 400]])
    seq_ids, scores = opened.search(stored, 1)
    assert seq_ids.ravel().tolist() == [7, 400]
    np.testing.assert_allclose(scores, 1, atol=1e-6)


def test_the_files_of_a_version(builder, cone):
    store = builder.embedded(cone)
    info = built(store)
    assert info.transform["asked"] == "auto"
    assert info.transform["kind"] == "whiten"
    assert info.space == f"transform whiten (at least {ROWS_TO_WHITEN} vectors)"
    assert TRANSFORM in info.checksums
    assert not built(store, transform="none").unchanged
    assert not (live(store) / TRANSFORM).exists()
    assert info_of(store).space == "not transformed (as asked)"


def test_queries_are_rounded_as_what_is_stored(builder, cone):
    """Whitening magnifies the digits that float16 has not."""
    tight = (cone * (1, *[1 / 30] * 15)).astype(np.float32)
    store = builder.embedded(tight, dtype="float16")
    built(store, transform="whiten")
    for scale in (1, 2**20, 2**-30):
        seq_ids, scores = Searcher.open(store).search(tight[:200] * np.float32(scale), 1)
        assert seq_ids.ravel().tolist() == list(range(200))
        np.testing.assert_allclose(scores, 1, atol=1e-6)


def test_the_command_that_builds_it_again_keeps_the_space(builder, cone):
    store = builder.embedded(cone)
    for type_, transform, options in (
        ("flat", "auto", ""),
        ("HNSW8", "whiten:6", " --type HNSW8 --transform whiten:6"),
        ("flat", "none", " --transform none"),
    ):
        built(store, type_, transform)
        index_file(on_disk(store.root), "vectors.faiss").write_bytes(b"gone")
        with pytest.raises(StoreError, match=re.escape(f"raypipe index {store.root}{options}") + "$"):
            Searcher.open(store)


def test_few_vectors_are_compared_as_they_are(builder, cone, cosines):
    few = cone[: ROWS_TO_WHITEN - 1]
    store = builder.embedded(few)
    info = built(store)
    assert (info.transform["kind"], info.transform["reason"][:11]) == ("none", "fewer than ")
    scores = Searcher.open(store).search(few[:3], 4)[1]
    np.testing.assert_allclose(scores, -np.sort(-cosines(few[:3], few), axis=1)[:, :4], atol=1e-6)
    builder.add_source(store, [("new", "", "ACGUACGUACGU")], "more.fasta")
    builder.write_part(store, store.embedding(), 7, [len(few)], cone[-1:])
    grown = built(store)
    assert (grown.unchanged, grown.transform["kind"]) == (False, "whiten")


def test_same_space_again_builds_nothing(builder, cone):
    store = builder.embedded(cone)
    assert not built(store).unchanged
    for alike in ("auto", "whiten", " AUTO", live(store) / TRANSFORM):
        assert built(store, transform=alike).unchanged, alike
    for other in ("center", "whiten:16", "whiten:6", "pca:6", "none", "auto"):
        assert not built(store, transform=other).unchanged, other
        assert built(store, transform=other).unchanged, other
    assert not built(store, "HNSW8").unchanged


def test_vectors_without_spread_stay_unchanged_too(builder, cone):
    store = builder.embedded(np.tile(cone[:1], (150, 1)))
    info = built(store)
    assert (info.transform["kind"], info.transform["reason"]) == ("none", "all vectors are alike")
    assert built(store).unchanged
    assert Searcher.open(store).search(cone[:1], 3)[0].tolist() == [[0, 1, 2]]


def test_scores_of_two_stores_can_be_compared(builder, cone):
    """The transform of one, given to another: the same two sequences score alike in both."""
    first, second = builder.embedded(cone, name="first"), builder.embedded(cone[100:300], name="second")
    built(first, transform="whiten:8")
    file = live(first) / TRANSFORM
    apart = built(second)
    given = built(second, transform=file)
    assert given.transform["sha256"] == info_of(first).transform["sha256"] != apart.transform["sha256"]
    assert (given.transform["kind"], given.transform["asked"]) == ("whiten:8", str(file))
    assert given.transform["reason"] == f"from {file}"
    ids, scores = Searcher.open(second).search(cone[:5], 200)
    for line in range(5):
        all_ids, all_scores = Searcher.open(first).search(cone[line : line + 1], 500, allowed=ids[line] + 100)
        np.testing.assert_array_equal(all_ids[0, :200], ids[line] + 100)
        np.testing.assert_array_equal(all_scores[0, :200], scores[line])
    assert built(second, transform=file).unchanged
    assert not built(second, transform="whiten:8").unchanged, "learned from other vectors"


def test_a_transform_of_another_model_is_refused(builder, cone):
    first = builder.embedded(cone, name="first")
    built(first)
    second = builder.embedded(cone, name="second", fingerprint="e" * 64)
    with pytest.raises(StoreError, match=r"transform\.npz: was learned from vectors of another model.*ffff.*here eeee"):
        built(second, transform=live(first) / TRANSFORM)
    assert current_info(second) is None
    with pytest.raises(StoreError, match=r"nowhere\.npz: cannot be read as a transform"):
        built(second, transform="nowhere.npz")


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ("zca", "transform 'zca': unknown; use auto, none, center"),
        ("whiten:17", "the vectors have 16 axes only"),
        ("pca:16", "'pca:16': needs at least 17 vectors to learn, there are 12"),
    ],
)
def test_transforms_that_cannot_be_learned(builder, cone, transform, message):
    store = builder.embedded(cone[:12])
    with pytest.raises(StoreError, match=message):
        built(store, transform=transform)
    assert current_info(store) is None


def test_a_stored_vector_without_direction_is_named(builder, cone):
    """As the transform of another store may leave it."""
    store = builder.embedded(cone)
    built(store, transform="center")
    common = cone[42] / np.linalg.norm(cone[42])
    file = store.root / "moved.npz"
    with np.load(live(store) / TRANSFORM) as made:
        np.savez(file, about=made["about"], mean=common)
    with pytest.raises(StoreError, match=r"part-00000\.parquet: seq_id 42: has no direction left"):
        built(store, transform=file)


@pytest.mark.parametrize("damage", ["altered", "missing", "another"])
def test_a_damaged_transform_is_refused_and_replaced(builder, cone, damage):
    store = builder.embedded(cone)
    built(store, transform="whiten:6")
    before = live(store)
    built(store, transform="center")
    file = live(store) / TRANSFORM
    if damage == "missing":
        file.unlink()
    elif damage == "altered":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    else:
        # Whole, and its checksum forged: it still is not the one that the vectors went through.
        file.write_bytes((before / TRANSFORM).read_bytes())
        about = json.loads((live(store) / "index.json").read_text())
        other = json.loads((before / "index.json").read_text())
        about["checksums"][TRANSFORM] = other["checksums"][TRANSFORM]
        (live(store) / "index.json").write_text(json.dumps(about))
    with pytest.raises(StoreError, match=r"transform\.npz: .*build (it|the index) again: raypipe index"):
        Searcher.open(store)
    built(store, transform="none")
    assert Searcher.open(store).search(cone[:1], 1)[0].tolist() == [[0]]
