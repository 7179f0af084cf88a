"""What an index would take, before it is built: memory, disk, and time on this machine.

Sizes are arithmetic over what FAISS says of a type; times are those of a small trial here, scaled by the operations.
Shapes: D values of a vector.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from index.errors import StoreError
from index.faiss_runtime import load_faiss
from index.info import FLAT, choose_type
from index.segments import full_rows
from index.trained import TRAINING_PER_LIST, reason
from index.transforms import Transform, sample_size

TRIAL = 4096
ITERATIONS = 10  # of k-means, as FAISS has it for inverted lists


@dataclass(frozen=True)
class IndexPlan:
    """What an index takes.

    Attributes:
        type: "Flat" or a FAISS factory string.
        rows: vectors.
        dimension: values of a vector.
        hot_bytes: what searches read again and again: it should fit into memory.
        disk_bytes: of the files; what is not hot is read at some places for each query.
        build_bytes: memory that a build needs at the most, beside that of the system.
        core_seconds: of a build, on one core of this machine; None where it was not tried.
    """

    type: str
    rows: int
    dimension: int
    hot_bytes: int
    disk_bytes: int
    build_bytes: int
    core_seconds: float | None = None


def plan_index(
    rows: int, dimension: int, kind: str = "auto", *, transformed: bool = True, trial: bool = False
) -> IndexPlan:
    """What an index of `rows` vectors would take.

    Args:
        kind: "auto", "flat" or a FAISS factory string.
        transformed: whether vectors are whitened or turned first.
        trial: whether to try for a second or two how fast this machine is.

    Raises:
        StoreError: FAISS does not know the type for so many dimensions.
    """
    type_ = FLAT if kind.lower() == "flat" else choose_type(rows) if kind.lower() == "auto" else kind
    index = _made(type_, dimension)
    hot, cold, fixed = _bytes_of(index)
    # The seq_id of each row.
    hot_bytes = (hot + 8) * rows + fixed
    most = min(rows, full_rows(dimension))
    training = 4 * dimension * min(rows, max(sample_size(dimension), _training_rows(index)))
    return IndexPlan(
        type_,
        rows,
        dimension,
        hot_bytes,
        hot_bytes + cold * rows,
        max((hot + cold + 8) * most + fixed, training),
        _core_seconds(index, type_, rows, dimension, transformed) if trial and rows else None,
    )


def _made(type_: str, dimension: int) -> Any:
    faiss = load_faiss()
    try:
        return faiss.index_factory(dimension, type_, faiss.METRIC_L2)
    except RuntimeError as error:
        raise StoreError(
            f"index type {type_!r}: FAISS does not know it for {dimension} dimensions ({reason(error)})"
        ) from error


def _bytes_of(index: Any) -> tuple[int, int, int]:
    """Of a vector, hot and cold; and of the index itself."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        hot, cold, fixed = _bytes_of(index.base_index)
        return hot, cold + sum(_bytes_of(index.refine_index)[:2]), fixed
    if isinstance(index, faiss.IndexPreTransform):
        return _bytes_of(index.index)
    if isinstance(index, faiss.IndexIVF):
        of_list, _, _ = _bytes_of(index.quantizer)
        return index.code_size + 8, 0, of_list * index.nlist
    if isinstance(index, faiss.IndexHNSW):
        # Two times M neighbours on the lowest level, an offset, a level, and what few stand higher.
        return _bytes_of(index.storage)[0] + 4 * index.hnsw.nb_neighbors(0) + 16, 0, 0
    return index.sa_code_size(), 0, 0


def _lists(index: Any) -> int:
    lists = load_faiss().try_extract_index_ivf(index)
    return 0 if lists is None else lists.nlist


def _training_rows(index: Any) -> int:
    return TRAINING_PER_LIST * _lists(index)


def _core_seconds(index: Any, type_: str, rows: int, dimension: int, transformed: bool) -> float:
    """One core's time: learning, transforming, finding the lists of each vector, encoding it."""
    faiss = load_faiss()
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((TRIAL, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        lists = _lists(index)
        few = 16 if lists else 0
        trial = _made(type_.replace(f"IVF{lists}_HNSW32", f"IVF{few}").replace(f"IVF{lists}", f"IVF{few}"), dimension)
        if not trial.is_trained:
            trial.train(vectors)
        each = _timed(lambda: trial.add(vectors)) / TRIAL
        if isinstance(faiss.downcast_index(trial), faiss.IndexHNSW):
            each *= max(1.0, math.log(rows) / math.log(TRIAL))  # the way to a place in the graph
        if transformed:
            matrix = generator.standard_normal((dimension, dimension)).astype(np.float32)
            moved = Transform("whiten", dimension, np.zeros(dimension, np.float32), matrix)
            each += _process_timed(lambda: moved.apply(vectors)) / TRIAL
        flat = faiss.IndexFlatL2(dimension)
        flat.add(vectors)
        compared = _timed(lambda: flat.search(vectors, 1)) / TRIAL**2  # one vector with one other
    finally:
        faiss.omp_set_num_threads(threads)
    graph = lists if "_HNSW" not in type_ else 32 * math.log2(max(2, lists))
    learned = ITERATIONS * min(rows, TRAINING_PER_LIST * lists) * lists * compared
    return rows * (each + graph * compared) + learned


def _timed(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _process_timed(work: Any) -> float:
    """Of all threads together: NumPy takes as many as it likes."""
    begun = time.process_time()
    work()
    return time.process_time() - begun
