"""What an index is said to take, against what FAISS takes."""

from __future__ import annotations

import numpy as np
import pytest

from index.errors import StoreError
from index.faiss_runtime import load_faiss
from index.planning import plan_index

TYPES = [
    "flat",
    "IVF16,RaBitQ,Refine(SQfp16)",
    "IVF16,Flat",
    "IVF16,SQ8",
    "HNSW16",
    "HNSW32,SQfp16",
    "RR32,IVF16,Flat",
    "SQ8",
]


@pytest.mark.parametrize("kind", TYPES)
def test_bytes_are_those_of_faiss(kind):
    faiss = load_faiss()
    vectors = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)
    index = faiss.index_factory(64, "Flat" if kind == "flat" else kind)
    index.train(vectors)
    index.add(vectors)
    planned = plan_index(len(vectors), 64, kind)
    seq_ids = 8 * len(vectors)
    assert planned.disk_bytes - seq_ids == pytest.approx(len(faiss.serialize_index(index)), rel=0.02)
    assert planned.hot_bytes <= planned.disk_bytes


def test_forty_million():
    planned = plan_index(42_000_000, 1280)
    assert planned.type.startswith("IVF32768_HNSW32,RaBitQ")
    assert planned.hot_bytes / planned.rows < 200
    assert 100e9 < planned.disk_bytes < 125e9
    assert planned.build_bytes < 12e9, "one segment at a time, whatever the number of vectors"
    assert planned.core_seconds is None


def test_time_grows_with_rows():
    once, more = (plan_index(rows, 64, "IVF64,SQ8", trial=True).core_seconds for rows in (50_000, 5_000_000))
    assert once is not None
    assert more is not None
    assert more > 10 * once > 0


def test_unknown_type():
    with pytest.raises(StoreError, match="'Nonsense': FAISS does not know it for 64 dimensions"):
        plan_index(10, 64, "Nonsense")
