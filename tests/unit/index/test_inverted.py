"""Centroids by k-means, and vectors that are told their lists."""

from __future__ import annotations

import numpy as np
import pytest

from index.faiss_runtime import load_faiss
from index.inverted import Filler, train
from index.kmeans import FULL_ROUNDS, NearestByBlas, k_means


@pytest.fixture
def families():
    """(6000, 24) float32 in 40 families of uneven size."""
    generator = np.random.default_rng(5)
    centres = generator.standard_normal((40, 24))
    members = generator.choice(40, 6000, p=np.arange(1, 41) / 820)
    return (centres[members] + 0.4 * generator.standard_normal((6000, 24))).astype(np.float32)


def spread(vectors, centroids):
    """The mean squared distance to the nearest centroid, in float64."""
    apart = vectors.astype(np.float64)[:, None] - centroids.astype(np.float64)[None]
    return np.einsum("nmd,nmd->nm", apart, apart).min(axis=1).mean()


def test_nearest_is_that_of_all_distances(families, monkeypatch):
    monkeypatch.setattr("index.kmeans._BLOCK_BYTES", 4 * 32 * 700)  # in nine blocks, the last one short
    centroids = 3 * families[:32]  # of various length: the nearest is not the one with the largest product
    apart = ((families[:, None] - centroids[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(NearestByBlas()(families, centroids), apart.argmin(axis=1))


def test_centroids_are_as_good_as_those_of_faiss(families):
    ours = k_means(families, 64, NearestByBlas(), seed=1)
    faiss = load_faiss()
    theirs = faiss.Kmeans(24, 64, niter=10, seed=1)
    theirs.train(families)
    assert ours.shape == (64, 24)
    assert ours.dtype == np.float32
    assert spread(families, ours) <= 1.03 * spread(families, theirs.centroids)
    np.testing.assert_array_equal(ours, k_means(families, 64, NearestByBlas(), seed=1))


class Counting(NearestByBlas):
    """Knows how often it was asked."""

    asked = 0

    def __call__(self, vectors, centroids):
        self.asked += 1
        return super().__call__(vectors, centroids)


@pytest.mark.parametrize("common", [0, 100])
def test_centroids_near_the_last_one_are_enough(families, common):
    """Of 150, later rounds compare a vector with 32; what all vectors share changes nothing."""
    vectors, nearest = families + np.float32(common), Counting()
    found = k_means(vectors, 150, nearest, seed=1)
    assert nearest.asked == FULL_ROUNDS
    every = k_means(vectors, 150, EveryTime(), seed=1)
    assert spread(vectors, found) <= 1.01 * spread(vectors, every)


def test_equal_vectors_leave_centroids_without_any():
    """Three distinct vectors for eight centroids: those that nobody is nearest to must not become nan."""
    vectors = np.eye(3, dtype=np.float32)[np.arange(60) % 3]
    found = k_means(vectors, 8, NearestByBlas(), seed=1)
    assert np.isfinite(found).all()
    assert spread(vectors, found) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", ["IVF16,Flat", "IVF16,SQ8", "IVF16,RaBitQ", "IVF16,RaBitQ,Refine(SQfp16)"])
def test_lists_that_are_told_are_those_that_faiss_finds(families, kind):
    faiss = load_faiss()
    empty = faiss.index_factory(24, kind, faiss.METRIC_L2)
    train(empty, families, NearestByBlas(), seed=1)
    assert empty.is_trained
    assert empty.ntotal == 0
    told, found = faiss.clone_index(empty), faiss.clone_index(empty)
    filler = Filler(told, NearestByBlas())
    for start in range(0, len(families), 1700):
        filler.add(families[start : start + 1700])
    found.add(families)
    assert told.ntotal == len(families)
    np.testing.assert_array_equal(faiss.serialize_index(told), faiss.serialize_index(found))


def test_what_all_vectors_share_does_not_blur_the_nearest(families):
    """Raw mean vectors of a language model have cosines near 1."""
    common = 300 * np.random.default_rng(6).standard_normal(24).astype(np.float32)
    centroids = families[:32]
    truth = NearestByBlas()(families, centroids)
    assert (NearestByBlas()(families + common, centroids + common) == truth).mean() > 0.999


class EveryTime(NearestByBlas):
    """Compares with all centroids in every round, as on a GPU."""

    on_gpu = True


class OnGpu(NearestByBlas):
    """Says so, and is as exact."""

    on_gpu = True


def test_a_graph_over_the_centroids_is_passed_over_on_a_gpu(families):
    faiss = load_faiss()
    told = faiss.index_factory(24, "IVF16_HNSW8,Flat", faiss.METRIC_L2)
    train(told, families, OnGpu(), seed=1)
    nearest = NearestByBlas()(families, told.quantizer.reconstruct_n(0, 16))
    Filler(told, OnGpu()).add(families)
    sizes = [told.invlists.list_size(place) for place in range(16)]
    assert sizes == np.bincount(nearest, minlength=16).tolist()


@pytest.mark.parametrize(
    "kind",
    [
        "IVF16_HNSW8,Flat",
        "RR16,IVF16,Flat",
        "IVF16,RaBitQfs",
        "IVF16,PQ8x4",
        "HNSW8",
        "IMI2x4,Flat",
        "IVF16(SQ8),Flat",
        "IVF16(PCA12,SQ8),SQ8",
    ],
)
def test_types_that_find_their_lists_themselves(families, kind):
    faiss = load_faiss()
    told = faiss.index_factory(24, kind, faiss.METRIC_L2)
    train(told, families, NearestByBlas(), seed=1)
    found = faiss.clone_index(told)
    Filler(told, NearestByBlas()).add(families)
    found.add(families)
    same = [faiss.serialize_index(one) for one in (told, found)]
    assert told.ntotal == 6000
    if kind != "HNSW8":  # which is built by several threads, in no order
        np.testing.assert_array_equal(*same)
