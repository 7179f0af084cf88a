"""Search by FAISS on a GPU: copies of opened segments, beside which the segments themselves stay.

FAISS's GPU code takes flat indexes, and inverted lists of whole vectors, of scalar codes and of product codes. It takes
no filters and a bounded number of neighbours and lists; such a search goes to the segment on the CPU, and answers are
the same. RaBitQ, Refine and HNSW have no GPU code: they are refused by name.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from index.engines import Engine
from index.errors import StoreError
from index.faiss_runtime import installed_wheels, load_faiss, reason

MOST = 2048  # neighbours, and lists to visit, that a GPU search takes
SUPPORTED = "Flat, IVF...,Flat, IVF...,SQfp16 or another SQ, IVF...,PQ..."


class Routed:
    """An index and its copy on a GPU as one: a search goes to the copy where that can do it. Safe to search from
    several threads.

    Attributes:
        d, ntotal: as of a FAISS index.
    """

    def __init__(self, index: Any, copy: Any, alone: threading.Lock):
        """
        Args:
            alone: held while the copy is searched: what copies on one GPU share takes one thread at a time.
        """
        self._index, self._copy, self._alone = index, copy, alone
        self.d, self.ntotal = index.d, index.ntotal

    def search(self, queries: np.ndarray, k: int, params: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Distances and rows as FAISS gives them, (Q, k) each."""
        lists = getattr(params, "nprobe", 0)
        bound = getattr(params, "sel", None) is not None
        if bound or max(k, lists) > MOST:
            return self._index.search(queries, k, params=params)
        with self._alone:
            return self._copy.search(queries, k, params=params)


def refuse_unsupported(index: Any, factory: str) -> None:
    """Refuse an index that has no GPU code.

    Args:
        index: a FAISS index.
        factory: its type as a factory string, for the message.

    Raises:
        StoreError: it is one.
    """
    faiss = load_faiss()
    kind = faiss.downcast_index(index)  # a view: FAISS frees an index with the object that made it
    lists = (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ)
    if isinstance(kind, faiss.IndexFlat) or (isinstance(kind, lists) and not isinstance(kind, faiss.IndexIVFPQR)):
        return
    known = {"IndexRefine": "Refine", "RaBitQ": "RaBitQ", "HNSW": "HNSW", "FastScan": "fast-scan codes"}
    inner = faiss.downcast_index(kind.base_index) if isinstance(kind, faiss.IndexRefine) else kind
    words = f"{type(kind).__name__} {type(inner).__name__}"
    names = [name for part, name in known.items() if part in words] or [type(kind).__name__]
    raise StoreError(
        f"the index is of type {factory!r}, and FAISS has no GPU code for {' and '.join(names)}; search it on the CPU, "
        f"or build one of {SUPPORTED}"
    )


def refuse_without_gpu() -> None:
    """Refuse where FAISS cannot use a GPU.

    Raises:
        StoreError: the wheel is the one for CPUs, or there is no GPU.
    """
    faiss = load_faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        raise StoreError(
            f"{installed_wheels()[0]} has no GPU code; run: pip uninstall -y {installed_wheels()[0]}, then: "
            "pip install 'raypipe[gpu]'"
        )
    if not faiss.get_num_gpus():
        raise StoreError("FAISS sees no GPU on this machine; search on the CPU")


def move(indexes: Sequence[Any], engines: Sequence[Engine], factory: str, device: int = 0) -> list[Any]:
    """Let engines search by copies on a GPU.

    Args:
        indexes: the opened FAISS index of each engine.
        engines: of index.engines.
        factory: type of the indexes as a factory string.
        device: number of the GPU.

    Returns:
        What has to be kept alive for as long as the engines.

    Raises:
        StoreError: FAISS has no GPU code for the type, no GPU, or the GPU not enough memory.
    """
    for index in indexes:
        refuse_unsupported(index, factory)
    refuse_without_gpu()
    faiss = load_faiss()
    resources = faiss.StandardGpuResources()
    copies: list[Any] = []
    alone = threading.Lock()
    try:
        for index, engine in zip(indexes, engines, strict=True):
            if index.ntotal:
                copies.append(faiss.index_cpu_to_gpu(resources, device, index))
                engine.by(Routed(index, copies[-1], alone))
    except RuntimeError as error:
        raise StoreError(f"the index cannot be copied to GPU {device}: {reason(error)}; search on the CPU") from error
    return [resources, *copies]
