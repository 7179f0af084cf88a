"""What all segments of an index share: the transform of its vectors, and the FAISS index as it is before vectors come.

That empty index holds what was learned, such as the centroids of inverted lists: equal vectors get equal codes in every
segment, and a search over many segments looks at the lists that a search over one would.

Shapes: n rows, D values of a vector as stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from index import wholes
from index.errors import StoreError
from index.faiss_runtime import load_faiss
from index.info import FLAT, TRAINED, TRANSFORM, VECTORS, index_folder
from index.store import Embedding, Store
from index.transform_files import load, save
from index.transforms import Kind, Transform, fit, sample_size
from index.vectors import Part, unit_batches

FORMAT = 1
TRAINING_PER_LIST = 64
SEED = 20_261_122


@dataclass(frozen=True)
class Trained:
    """What was learned.

    Attributes:
        about: "name" of its folder below `index/trained/`, and "checksums" of its files.
        transform: what vectors go through.
    """

    about: dict[str, Any]
    transform: Transform


def learn(store: Store, embedding: Embedding, type_: str, parts: Sequence[Part], wanted: Kind | Transform) -> Trained:
    """Learn transform and lists from a sample of the vectors in `parts`; or take what an earlier try has learned.

    Raises:
        StoreError: the type is unknown to FAISS or needs more rows, the transform needs more rows, or a vector is zero
            or not finite.
    """
    asked = wanted.digest if isinstance(wanted, Transform) else str(wanted)
    inputs = [part.to_json() for part in parts]
    name = wholes.content_name(FORMAT, type_, embedding.fingerprint, asked, SEED, inputs)
    folder = index_folder(store) / TRAINED / name
    about = wholes.standing(folder)
    if about is not None and isinstance(wanted, Kind):
        learned = TRANSFORM in about["checksums"]
        wanted = load(folder / TRANSFORM) if learned else Transform("none", embedding.dimension)
        wanted = replace(wanted, reason=about["reason"])
    if about is None:
        if isinstance(wanted, Kind):
            learned_on = sample(parts, embedding.dimension, sample_size(embedding.dimension))
            wanted = fit(learned_on, str(wanted), fingerprint=embedding.fingerprint)
        about = {"name": name, "reason": wanted.reason}
        with wholes.publishing(store.root, folder, about) as temporary:
            if wanted.mean is not None:
                save(wanted, temporary / TRANSFORM)
            load_faiss().write_index(_empty(type_, parts, wanted), str(temporary / VECTORS))
    assert isinstance(wanted, Transform)
    return Trained({"name": name, "checksums": about["checksums"]}, wanted)


def _empty(type_: str, parts: Sequence[Part], transform: Transform) -> Any:
    """The FAISS index without vectors, its lists learned."""
    faiss = load_faiss()
    dimension = transform.out_dimension
    if type_ == FLAT:
        return faiss.IndexFlatIP(dimension)
    if "IDMap" in type_:
        raise StoreError(f"index type {type_!r}: leave IDMap out, the store keeps the ids itself")
    try:
        index = faiss.index_factory(dimension, type_, faiss.METRIC_L2)
    except RuntimeError as error:
        raise StoreError(
            f"index type {type_!r}: FAISS does not know it for {dimension} dimensions ({reason(error)}); "
            "use flat, auto, or a factory string such as HNSW32 or IVF1024,SQ8"
        ) from error
    if index.is_trained:
        return index
    lists = faiss.try_extract_index_ivf(index)
    num_lists = lists.nlist if lists is not None else 256
    num_rows = sum(part.rows for part in parts)
    if num_rows < num_lists:
        raise StoreError(f"index type {type_!r} needs {num_lists} vectors to train, the store has {num_rows}; use flat")
    try:
        index.train(transform.apply(sample(parts, transform.dimension, max(TRAINING_PER_LIST * num_lists, 20_000))))
    except RuntimeError as error:
        raise StoreError(f"FAISS cannot build {type_!r}: {reason(error)}") from error
    return index


def sample(parts: Sequence[Part], dimension: int, size: int) -> np.ndarray:
    """A seeded choice of at most `size` unit vectors, (n, D) float32, each row as likely as any."""
    num_rows = sum(part.rows for part in parts)
    chosen = np.sort(shuffled(num_rows)[:size])
    result = np.empty((len(chosen), dimension), dtype=np.float32)
    start = done = 0
    for _, vectors in unit_batches(parts, dimension):
        end = np.searchsorted(chosen, start + len(vectors))
        result[done:end] = vectors[chosen[done:end] - start]
        start, done = start + len(vectors), end
    return result


def shuffled(num_rows: int) -> np.ndarray:
    """All row numbers in a seeded order: from its front is learned, and at its end is what recall is measured with."""
    return np.random.default_rng(SEED).permutation(num_rows)


def reason(error: RuntimeError) -> str:
    """The end of a FAISS message, which carries the C++ signature in front."""
    return str(error).splitlines()[0].split("Error:")[-1].strip()[:200]
