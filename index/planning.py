"""What an index would take, before it is built: memory, disk, and time on this machine.

Sizes are arithmetic over what FAISS says of a type; times are those of a small trial here, scaled by the operations.
Shapes: D values of a vector as stored, E of one as it is indexed.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from index.errors import StoreError
from index.faiss_runtime import load_faiss, reason
from index.info import FLAT, choose_type
from index.kmeans import FULL_ROUNDS, NEIGHBOURS, ROUNDS
from index.leading import MOST_SHARE
from index.segments import full_rows
from index.trained import AXES_LEARN_FROM, num_lists, training_rows, untrained
from index.transforms import Kind, Transform, check_kind, choose_kind, sample_size
from index.truth import SAMPLE

TRIAL = 4096
AUTO = Kind("auto")
# Batches, blocks of scores, and torch, whatever the size.
WORKING_BYTES = 400 << 20


@dataclass(frozen=True)
class IndexPlan:
    """What an index takes.

    Attributes:
        type: "Flat" or a FAISS factory string.
        rows: vectors.
        dimension: values of a vector as it is indexed.
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
    rows: int, dimension: int, kind: str = "auto", *, transform: Kind | Transform = AUTO, trial: bool = False
) -> IndexPlan:
    """What an index of `rows` vectors would take.

    Args:
        dimension: D.
        kind: "auto", "flat" or a FAISS factory string.
        transform: what the vectors go through first, as `index.transform_files.find` gives it.
        trial: whether to try for a second or two how fast this machine is.

    Raises:
        StoreError: FAISS does not know the type for so many dimensions, or the transform needs more of them or more
            rows.
    """
    type_ = FLAT if kind.lower() == "flat" else choose_type(rows) if kind.lower() == "auto" else kind
    if isinstance(transform, Kind):
        transform = choose_kind(rows)[0] if transform.name == "auto" else transform
        if transform.name != "none":
            check_kind(transform, rows, dimension)
        indexed, learned_on = transform.axes or dimension, min(rows, sample_size(dimension))
        bounded = type_ == FLAT and transform.name == "none"
    else:
        indexed, learned_on = transform.out_dimension, 0
        bounded = type_ == FLAT and transform.mean is None
    index = untrained(type_, indexed)
    try:
        hot, cold, fixed = _bytes_of(index)
    except RuntimeError as error:
        raise StoreError(
            f"index type {type_!r}: FAISS does not tell the size of its codes ({reason(error)})"
        ) from error
    if bounded:  # by as many axes as there may be at the most, see `index.leading`
        hot += int(4 * (MOST_SHARE * indexed + 1))
    hot_bytes = hot * rows + fixed  # seq_ids are a run mostly, of which the first is kept
    most = min(rows, full_rows(dimension))
    trained_on = min(rows, training_rows(num_lists(index)) if type_ != FLAT else AXES_LEARN_FROM if bounded else 0)
    # The sample as it is stored; with it copies for the transform (as picked, of length 1, and the latter in float64),
    # then what lists are learned from as it is indexed.
    sample = dimension * max(learned_on, trained_on)
    training = 4 * (sample + max(4 * dimension * learned_on, indexed * trained_on))
    # Codes grow by doubling, but for those of the flat type; there are seq_ids too.
    growing = (hot + cold + 8) * most * (1 if type_ == FLAT else 2) + fixed
    return IndexPlan(
        type_,
        rows,
        indexed,
        hot_bytes,
        hot_bytes + cold * rows,
        max(growing, training) + WORKING_BYTES,
        _core_seconds(index, type_, rows, dimension, transform) if trial and rows else None,
    )


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


def _core_seconds(index: Any, type_: str, rows: int, dimension: int, transform: Kind | Transform) -> float:
    """One core's time: learning, transforming, finding the lists of each vector, encoding it, and comparing it with the
    queries of the measurement; not that of the disk."""
    faiss = load_faiss()
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((TRIAL, index.d)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        lists = num_lists(index)
        few = 16 if lists else 0
        trial = untrained(type_.replace(f"IVF{lists}_HNSW32", f"IVF{few}").replace(f"IVF{lists}", f"IVF{few}"), index.d)
        if not trial.is_trained:
            trial.train(vectors)
        each = _timed(lambda: trial.add(vectors)) / TRIAL
        if isinstance(faiss.downcast_index(trial), faiss.IndexHNSW):
            each *= max(1.0, math.log(rows) / math.log(TRIAL))  # the way to a place in the graph
        if isinstance(transform, Kind):  # what it will hold does not matter
            mean = None if transform.name == "none" else np.zeros(dimension, np.float32)
            matrix = None if transform.name in ("none", "center") else np.ones((dimension, index.d), np.float32)
            transform = Transform(str(transform), dimension, mean, matrix)
        stored = generator.standard_normal((TRIAL, dimension)).astype(np.float32)
        each += _process_timed(lambda: transform.apply(stored, precise=type_ == FLAT)) / TRIAL
        flat = faiss.IndexFlatL2(index.d)
        flat.add(vectors)
        compared = _timed(lambda: flat.search(vectors, 1)) / TRIAL**2  # one vector with one other
    finally:
        faiss.omp_set_num_threads(threads)
    graph = lists if "_HNSW" not in type_ else 32 * math.log2(max(2, lists))
    near = min(lists, NEIGHBOURS)
    rounds = FULL_ROUNDS * lists + (ROUNDS - FULL_ROUNDS) * near  # centroids that a vector is compared with
    learned = rounds * min(rows, training_rows(lists)) * compared if lists else 0
    asked = 0 if type_ == FLAT else SAMPLE
    return rows * (each + (graph + asked) * compared) + learned


def _timed(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _process_timed(work: Any) -> float:
    """Of all threads together: NumPy takes as many as it likes."""
    begun = time.process_time()
    work()
    return time.process_time() - begun
