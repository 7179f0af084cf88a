"""raypipe's side of the search benchmarks, by its public calls alone: `build_index` as `raypipe index` calls it, and
`Searcher`."""

from __future__ import annotations

import inspect
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from index.build import build_index
from index.faiss_runtime import load_faiss
from index.search import Searcher
from index.store import Store
from raypipe.nearest import TorchNearest
from tests.benchmarks.search_contenders import Point


def takes(call: Any, name: str) -> bool:
    """Whether a function has an argument of this name."""
    return name in inspect.signature(call).parameters


class Raypipe:
    """An atlas, its index built or opened in this process.

    Args:
        threads: for FAISS.
        atlas: folder of the atlas.
    """

    def __init__(self, threads: int, atlas: Path) -> None:
        load_faiss().omp_set_num_threads(threads)
        self._atlas = atlas
        self._searcher: Searcher | None = None

    def build(self, kind: str, transform: str, recall: float) -> dict[str, Any]:
        """From Parquet to searchable; what was built."""
        options: dict[str, Any] = {"recall": recall} if takes(build_index, "recall") else {}
        store = Store.open(self._atlas)
        with store.lock():
            info = build_index(store, kind=kind, transform=transform, nearest=TorchNearest("cpu"), **options)
        size = sum(file.stat().st_size for file in (self._atlas / "index").rglob("*") if file.is_file())
        return {
            "type": info.type,
            "rows": info.rows,
            "operating": info.operating,
            "bytes": size,
            "asked_recall": bool(options),
            "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }

    def open(self) -> float:
        """Open the live index; seconds."""
        begin = time.perf_counter()
        self._searcher = Searcher.open(Store.open(self._atlas))
        return time.perf_counter() - begin

    def search(self, queries: np.ndarray, k: int, point: Point, allowed: np.ndarray | None = None) -> np.ndarray:
        """seq_ids (Q, k) of queries (Q, D); `point` are further arguments of the call."""
        assert self._searcher is not None
        return self._searcher.search(queries, k, allowed=allowed, **point)[0]

    def knows(self) -> dict[str, bool]:
        """What the call can be asked for."""
        return {name: takes(Searcher.search, name) for name in ("exact", "nprobe")}
