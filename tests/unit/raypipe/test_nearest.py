"""The nearest of many centroids by torch, as NumPy finds it but for what lies between two."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from index.kmeans import NearestByBlas
from raypipe import nearest
from raypipe.nearest import TorchNearest

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("exact", [True, False])
def test_as_numpy_finds_it(device, exact, monkeypatch):
    generator = np.random.default_rng(3)
    common = 100 * generator.standard_normal(96)  # as raw mean vectors of a language model have
    vectors = (common + generator.standard_normal((5000, 96))).astype(np.float32)
    centroids = (common + 2 * generator.standard_normal((50, 96))).astype(np.float32)
    monkeypatch.setitem(nearest.BLOCK_BYTES, device, 4 * 50 * 900)  # in six blocks, the last one short
    if exact:
        monkeypatch.setattr(nearest, "_has_bfloat16", lambda *_: False)
    found, truth = TorchNearest(device)(vectors, centroids), NearestByBlas()(vectors, centroids)
    assert found.dtype == np.int64
    far = [np.linalg.norm(vectors - centroids[labels], axis=1) for labels in (found, truth)]
    assert (found == truth).mean() > (0.999 if exact else 0.95)
    assert (far[0] / far[1]).max() < (1.0001 if exact else 1.02)


def test_auto_is_a_gpu_if_there_is_one():
    carried = pickle.loads(pickle.dumps(TorchNearest()))
    assert carried.on_gpu == torch.cuda.is_available()
    assert not TorchNearest("cpu").on_gpu
    assert carried(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[::-1].copy()).tolist() == [2, 1, 0]
