"""Search by copies on a GPU: what is refused, which searches go where, and with a GPU the same answers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import pytest

from index.build import build_index
from index.errors import StoreError
from index.gpu import MOST, Routed, refuse_unsupported
from index.search import Searcher

GPU = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def _built(builder, kind: str):
    vectors = np.random.default_rng(5).standard_normal((600, 16)).astype(np.float32)
    store = builder.embedded(vectors, parts=3)
    with store.lock():
        build_index(store, kind=kind, recall=0.9)
    return store, vectors


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("HNSW16", "HNSW"),
        ("IVF8,RaBitQ", "RaBitQ"),
        ("IVF8,RaBitQ,Refine(SQfp16)", "Refine and RaBitQ"),
        ("IVF8,SQ8,Refine(Flat)", "Refine"),
        ("IVF8,PQ8x4fs", "fast-scan codes"),
        ("RR8,IVF8,Flat", "IndexPreTransform"),
    ],
)
def test_what_has_no_gpu_code_is_refused_by_name(kind: str, names: str) -> None:
    with pytest.raises(StoreError, match=rf"of type '{kind[:4]}.*no GPU code for {names}; search it on the CPU"):
        refuse_unsupported(faiss.index_factory(16, kind), kind)


@pytest.mark.parametrize("kind", ["Flat", "IVF8,Flat", "IVF8,SQfp16", "IVF8,PQ8"])
def test_what_has_is_not(kind: str) -> None:
    refuse_unsupported(faiss.index_factory(16, kind), kind)


@pytest.mark.skipif(GPU, reason="FAISS sees a GPU")
def test_without_a_gpu_it_says_what_is_missing(builder) -> None:
    store, _ = _built(builder, "flat")
    with pytest.raises(StoreError, match=r"pip install 'raypipe\[gpu\]'|FAISS sees no GPU on this machine"):
        Searcher.open(store, gpu=0)
    store, _ = _built(builder, "HNSW16")
    with pytest.raises(StoreError, match="no GPU code for HNSW"):
        Searcher.open(store, gpu=0)


class Counted:
    """A FAISS index in the place of a copy on a GPU, which takes no filters and tells how often it was asked."""

    def __init__(self, index: Any) -> None:
        self.index, self.asked = index, 0

    def search(self, queries: np.ndarray, k: int, params: Any = None) -> tuple[np.ndarray, np.ndarray]:
        assert k <= MOST
        assert params is None or params.sel is None
        self.asked += 1
        return self.index.search(queries, k, params=params)


@pytest.mark.parametrize("kind", ["flat", "IVF8,Flat", "IVF8,SQfp16"])
def test_searches_go_to_the_copy_but_for_filters(builder, kind: str) -> None:
    store, vectors = _built(builder, kind)
    plain, routed = Searcher.open(store), Searcher.open(store)
    copies = []
    for index, engine in zip(routed.segments._owners, routed.segments.engines, strict=False):
        copies.append(Counted(faiss.clone_index(index)))
        engine.by(Routed(index, copies[-1], threading.Lock()))
    queries = vectors[:40] + 0.1
    options: dict[str, Any] = {} if kind == "flat" else {"nprobe": 4}
    for allowed, asked in ((None, True), (np.arange(0, 600, 2), False)):
        for copy in copies:
            copy.asked = 0
        expected = plain.find(queries, 10, allowed=allowed, **options)
        found = routed.find(queries, 10, allowed=allowed, **options)
        np.testing.assert_array_equal(found.seq_ids, expected.seq_ids)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
        assert all((copy.asked > 0) is asked for copy in copies)


def test_more_neighbours_than_a_gpu_gives_are_found_on_the_cpu() -> None:
    index = faiss.IndexFlatIP(4)
    index.add(np.eye(4, dtype=np.float32).repeat(1000, 0))
    routed = Routed(index, None, threading.Lock())
    assert routed.search(np.ones((1, 4), np.float32), MOST + 1)[1].shape == (1, MOST + 1)
    lists = faiss.SearchParametersIVF()
    lists.nprobe = MOST + 1
    assert routed.search(np.ones((1, 4), np.float32), 3, lists)[1].shape == (1, 3)


def test_copies_are_searched_by_one_thread_at_a_time() -> None:
    """FAISS's GPU code is not safe for more."""

    class Busy:
        inside, most = 0, 0

        def search(self, queries: np.ndarray, k: int, params: Any = None) -> tuple[np.ndarray, np.ndarray]:
            Busy.inside += 1
            Busy.most = max(Busy.most, Busy.inside)
            time.sleep(0.01)
            Busy.inside -= 1
            return index.search(queries, k)

    index = faiss.IndexFlatIP(4)
    index.add(np.eye(4, dtype=np.float32))
    alone = threading.Lock()
    segments = [Routed(index, Busy(), alone), Routed(index, Busy(), alone)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: segments[place % 2].search(np.eye(4, dtype=np.float32), 1), range(8)))
    assert [rows[:, 0].tolist() for _, rows in found] == [[0, 1, 2, 3]] * 8
    assert Busy.most == 1


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="FAISS sees no GPU")
@pytest.mark.parametrize("kind", ["flat", "IVF8,Flat", "IVF8,SQfp16"])
def test_answers_are_those_of_the_cpu(builder, kind: str) -> None:
    store, vectors = _built(builder, kind)
    queries = vectors[:40] + 0.1
    options: dict[str, Any] = {} if kind == "flat" else {"nprobe": 4}
    for allowed in (None, np.arange(0, 600, 2)):
        expected = Searcher.open(store).find(queries, 10, allowed=allowed, **options)
        found = Searcher.open(store, gpu=0).find(queries, 10, allowed=allowed, **options)
        if kind == "flat":
            np.testing.assert_array_equal(found.seq_ids, expected.seq_ids)
        assert np.mean(found.seq_ids == expected.seq_ids) >= 0.99
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
