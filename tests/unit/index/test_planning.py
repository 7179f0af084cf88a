"""What an index is said to take, against what FAISS takes."""

from __future__ import annotations

import numpy as np
import pytest

from index.build import build_index
from index.errors import StoreError
from index.faiss_runtime import load_faiss
from index.info import REFINEMENT, ROWS, VECTORS
from index.leading import MOST_SHARE
from index.planning import WORKING_BYTES, plan_index
from index.transform_files import of_index
from index.transforms import parse_kind

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
    assert planned.disk_bytes == pytest.approx(len(faiss.serialize_index(index)), rel=0.02)
    assert planned.hot_bytes <= planned.disk_bytes


def test_forty_million():
    planned = plan_index(42_000_000, 1280)
    assert planned.type.startswith("IVF32768_HNSW32,RaBitQ")
    assert planned.hot_bytes / planned.rows < 200
    assert 100e9 < planned.disk_bytes < 125e9
    # 40 vectors for each of 32,768 lists to learn from, as stored and whitened; a segment takes less.
    assert planned.build_bytes == pytest.approx(2 * 40 * 32_768 * 1280 * 4 + WORKING_BYTES)
    assert plan_index(84_000_000, 1280, planned.type).build_bytes == planned.build_bytes, "one segment at a time"
    assert planned.core_seconds is None


def test_time_grows_with_rows():
    once, more = (plan_index(rows, 64, "IVF64,SQ8", trial=True).core_seconds for rows in (50_000, 5_000_000))
    assert once is not None
    assert more is not None
    assert more > 10 * once > 0


@pytest.mark.parametrize(("asked", "indexed"), [("whiten:16", 16), ("pca:8", 8), ("center", 64), ("none", 64)])
def test_axes_that_are_kept(builder, asked, indexed):
    """Said as built: fewer axes take less memory and disk."""
    vectors = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float32)
    store = builder.embedded(vectors)
    for kind in ("flat", "IVF16,SQ8"):
        planned = plan_index(len(vectors), 64, kind, transform=parse_kind(asked), trial=True)
        with store.lock():
            info = build_index(store, kind=kind, transform=asked, recall=0.3)
        assert planned.dimension == info.dimension == indexed
        held = sum(known["bytes"] for path, known in info.files.items() if path.endswith((VECTORS, REFINEMENT, ROWS)))
        # Beside vectors that are compared as they are there may be bounds; these here have no leading axes.
        bounds = 4 * (64 * MOST_SHARE + 1) * len(vectors) if (kind, asked) == ("flat", "none") else 0
        assert planned.disk_bytes - bounds == pytest.approx(held, rel=0.03)
        assert planned.core_seconds is not None
        assert planned.core_seconds > 0
        made = plan_index(len(vectors), 64, kind, transform=of_index(store, info))
        assert (made.dimension, made.disk_bytes) == (indexed, planned.disk_bytes)


def test_transforms_that_cannot_be():
    with pytest.raises(StoreError, match=r"'pca:65': the vectors have 64 axes only"):
        plan_index(1000, 64, transform=parse_kind("pca:65"))
    with pytest.raises(StoreError, match=r"'whiten': needs at least 50 vectors"):
        plan_index(10, 64, transform=parse_kind("whiten"))
    assert plan_index(10, 64).dimension == 64, "auto takes none"


def test_unknown_type():
    with pytest.raises(StoreError, match="'Nonsense': FAISS does not know it for 64 dimensions"):
        plan_index(10, 64, "Nonsense")
