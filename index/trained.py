"""What all segments of an index share: the transform of its vectors, and the FAISS index as it is before vectors come.

That empty index holds what was learned, such as the centroids of inverted lists: equal vectors get the same codes in
every segment, but for rounding, and a search over many segments looks at the lists that a search over one would.

Shapes: n rows, D values of a vector as stored, E values as it is indexed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from index import inverted, wholes
from index.errors import StoreError
from index.faiss_runtime import load_faiss, reason
from index.info import AXES, FLAT, TRAINED, TRANSFORM, VECTORS, index_folder
from index.kmeans import Nearest
from index.leading import leading_axes
from index.store import Embedding, Store
from index.transform_files import load, save
from index.transforms import Kind, Transform, fit, sample_size
from index.truth import QUERIES, SAMPLE, Queries, save_queries
from index.vectors import BATCH_BYTES, Part, batches, unit_rows

FORMAT = 3
SEED = 20_261_122
LEAST = 256  # where lists are none: that many centroids have the usual codes
AXES_LEARN_FROM = 20_000


@dataclass(frozen=True)
class Trained:
    """What was learned.

    Attributes:
        about: "name" of its folder below `index/trained/`, and "checksums" of its files.
        transform: what vectors go through.
    """

    about: dict[str, Any]
    transform: Transform


def learn(
    store: Store,
    embedding: Embedding,
    type_: str,
    parts: Sequence[Part],
    wanted: Kind | Transform,
    *,
    nearest: Nearest,
    salt: str = "",
) -> Trained:
    """Learn transform and lists from a sample of the vectors in `parts`; or take what an earlier try has learned.

    For an approximate type others are put aside, to measure its recall with.

    Args:
        nearest: finds the nearest of many centroids.
        salt: what was learned with another one is not taken.

    Raises:
        StoreError: the type is unknown to FAISS or needs more rows, the transform needs more rows, or a vector is zero
            or not finite.
    """
    asked = wanted.digest if isinstance(wanted, Transform) else str(wanted)
    inputs = [part.to_json() for part in parts]
    name = wholes.content_name(FORMAT, type_, embedding.fingerprint, asked, SEED, inputs, salt)
    folder = index_folder(store) / TRAINED / name
    about = wholes.standing(folder)
    if about is None:
        about = {"name": name}
        with wholes.publishing(store.root, folder, about) as temporary:
            wanted = _learn(embedding, type_, parts, wanted, nearest, temporary)
            about["reason"] = wanted.reason
    elif isinstance(wanted, Kind):
        learned = TRANSFORM in about["checksums"]
        wanted = load(folder / TRANSFORM) if learned else Transform("none", embedding.dimension)
        wanted = replace(wanted, reason=about["reason"])
    assert isinstance(wanted, Transform)
    return Trained({"name": name, "checksums": about["checksums"]}, wanted)


def _learn(
    embedding: Embedding,
    type_: str,
    parts: Sequence[Part],
    wanted: Kind | Transform,
    nearest: Nearest,
    folder: Path,
) -> Transform:
    """Write what was learned into `folder`."""
    num_rows = sum(part.rows for part in parts)
    order = np.random.default_rng(SEED).permutation(num_rows)
    axes = wanted.out_dimension if isinstance(wanted, Transform) else wanted.axes or embedding.dimension
    lists = num_lists(untrained(type_, axes))
    to_fit = order[: sample_size(embedding.dimension)] if isinstance(wanted, Kind) else order[:0]
    # Whitened vectors have no leading axes.
    bounded = type_ == FLAT and (wanted.name == "none" if isinstance(wanted, Kind) else wanted.mean is None)
    to_train = order[: training_rows(lists) if type_ != FLAT else AXES_LEARN_FROM if bounded else 0]
    # From the other end: none that anything was learned from, where there are enough.
    to_ask = order[:0] if type_ == FLAT else np.sort(order[-SAMPLE:])
    rows = np.unique(np.concatenate([to_fit, to_train, to_ask]))
    seq_ids, vectors = _picked(parts, rows, embedding.dimension)
    if isinstance(wanted, Kind):
        learned_on = vectors[np.searchsorted(rows, np.sort(to_fit))]
        wanted = fit(learned_on, str(wanted), fingerprint=embedding.fingerprint)
    if wanted.mean is not None:
        save(wanted, folder / TRANSFORM)
    index = untrained(type_, wanted.out_dimension)
    if type_ != FLAT:
        places = np.searchsorted(rows, to_ask)
        queries = wanted.apply(vectors[places], seq_ids[places], "seq_id")
        save_queries(Queries(seq_ids[places], queries), folder / QUERIES)
    if bounded:
        axes = leading_axes(_moved(vectors, np.searchsorted(rows, to_train), seq_ids, wanted))
        if axes is not None:
            np.save(folder / AXES, axes)
    try:
        if not index.is_trained:
            needed = lists or LEAST
            if num_rows < needed:
                raise StoreError(
                    f"index type {type_!r} needs {needed} vectors to train, the store has {num_rows}; use flat"
                )
            places = np.searchsorted(rows, to_train)
            inverted.train(index, _moved(vectors, places, seq_ids, wanted), nearest, SEED)
        load_faiss().write_index(index, str(folder / VECTORS))
    except RuntimeError as error:
        raise StoreError(f"FAISS cannot build {type_!r}: {reason(error)}") from error
    return wanted


def untrained(type_: str, dimension: int) -> Any:
    """The FAISS index of a type for vectors of `dimension` values.

    Raises:
        StoreError: FAISS does not know it.
    """
    faiss = load_faiss()
    if type_ == FLAT:
        return faiss.IndexFlatIP(dimension)
    if "IDMap" in type_:
        raise StoreError(f"index type {type_!r}: leave IDMap out, the store keeps the ids itself")
    try:
        return faiss.index_factory(dimension, type_, faiss.METRIC_L2)
    except RuntimeError as error:
        raise StoreError(
            f"index type {type_!r}: FAISS does not know it for {dimension} dimensions ({reason(error)}); "
            "use flat, auto, or a factory string such as HNSW32 or IVF1024,SQ8"
        ) from error


def num_lists(index: Any) -> int:
    """Inverted lists of a FAISS index; 0 where it has none."""
    lists = load_faiss().try_extract_index_ivf(index)
    return 0 if lists is None else lists.nlist


def training_rows(lists: int) -> int:
    """Vectors that so many lists are learned from; of many lists fewer each, so that they fit the memory."""
    return max(20_000, lists * (64 if lists <= 4096 else 40))


def _picked(parts: Sequence[Part], rows: np.ndarray, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors as stored, by sorted rows (n,) over all `parts`: seq_ids (n,), vectors (n, D) float32.

    Every file is read from end to end: chosen rows stand nearly everywhere.
    """
    seq_ids = np.empty(len(rows), dtype=np.int64)
    vectors = np.empty((len(rows), dimension), dtype=np.float32)
    start = done = 0
    for path, ids, batch in batches(parts, dimension):
        end = int(np.searchsorted(rows, start + len(ids)))
        local = rows[done:end] - start
        seq_ids[done:end] = ids[local]
        vectors[done:end] = unit_rows(batch[local], ids[local], f"{path}: seq_id")
        start, done = start + len(ids), end
    return seq_ids, vectors


def _moved(vectors: np.ndarray, places: np.ndarray, seq_ids: np.ndarray, transform: Transform) -> np.ndarray:
    """Some of `vectors` as they are indexed, (n, E) float32, in the order of `places` (n,)."""
    result = np.empty((len(places), transform.out_dimension), dtype=np.float32)
    step = max(1, BATCH_BYTES // (4 * transform.dimension))
    for start in range(0, len(places), step):
        chosen = places[start : start + step]
        result[start : start + step] = transform.apply(vectors[chosen], seq_ids[chosen], "seq_id", precise=False)
    return result
