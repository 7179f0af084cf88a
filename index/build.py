"""Build and publish an index over one set of stored vectors."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from index import files, versions
from index.catalog import write_catalog
from index.errors import StoreError
from index.faiss_runtime import load_faiss
from index.info import (
    CATALOG,
    FLAT,
    INFO,
    ROWS,
    TRANSFORM,
    VECTORS,
    IndexInfo,
    checksum,
    choose_type,
    current_info,
    held_file,
    index_folder,
    verify_files,
)
from index.recall import measure
from index.store import Embedding, Store
from index.transform_files import describe, find, is_file, of_index, save
from index.transforms import Kind, Transform, choose_kind, fit, sample_size, transformed
from index.vectors import Part, finished_parts, unit_batches

TRAINING_PER_LIST = 64
# An index is built anew when so many vectors came, beside those that its transform and lists were learned from.
MOST_ADDED = 0.25
SEED = 20_261_122
Progress = Callable[[int, int], None]


def build_index(
    store: Store,
    name: str | None = None,
    *,
    kind: str = "flat",
    transform: str | Path = "auto",
    anew: bool = False,
    progress: Progress | None = None,
) -> IndexInfo:
    """Build the index of a set of vectors and make it the live one. The caller holds `store.lock()`.

    Where the live one is of the same type and space over a part of the same vectors, the new ones are added to it, up
    to MOST_ADDED of those that it learned from: scores stay comparable, and nothing is learned anew.

    Vectors go through a transform that is learned here (see `index.transforms`) and end with length 1. The flat type
    holds them as float32 and searches by inner product: scores are exact cosines. Every other type works on Euclidean
    distances, which rank unit vectors alike.

    Args:
        name: which embeddings; if None those of the live index, else the only ones.
        kind: "flat"; "auto" (see `choose_type`); or a FAISS factory string, such as "HNSW32" or "IVF1024,SQ8".
        transform: "auto" (by the number of vectors), "none", "center", "whiten", "whiten:DIM", "pca:DIM", or the file
            transform.npz of an index over vectors of the same model, layer and pooling.
        anew: learn and build everything again.
        progress: called with rows added and rows in all.

    Returns:
        The published index; with `unchanged` set if it stood already and nothing was done.

    Raises:
        StoreError: nothing is embedded, a part is damaged or of another model, a vector is zero or not finite, the
            type is unknown to FAISS or needs more rows, the transform is unknown, of other embeddings or needs more
            rows, or the disk is full.
    """
    embedding = choose_embedding(store, name)
    parts = finished_parts(store, embedding)
    num_rows = sum(part.rows for part in parts)
    if num_rows == 0 and store.num_sequences:
        raise StoreError(f"{store.root}: no sequence of {embedding.name!r} has a vector; rejects/ tells why")
    type_ = FLAT if kind.lower() == "flat" else choose_type(num_rows) if kind.lower() == "auto" else kind
    built_from = describe_inputs(store, parts)
    wanted = find(transform, embedding.fingerprint, embedding.dimension)
    standing = None if anew else _standing(store, embedding, type_, wanted)
    if standing is not None and standing.built_from == built_from:
        return replace(standing, unchanged=True)
    if standing is not None and not _may_grow(standing, built_from, num_rows, wanted):
        standing = None
    info = IndexInfo(
        version=versions.following(index_folder(store)),
        type=type_,
        metric="inner_product" if type_ == FLAT else "l2",
        dimension=embedding.dimension,
        embeddings=embedding.name,
        fingerprint=embedding.fingerprint,
        rows=num_rows,
        sequences=store.num_sequences,
        built_from=built_from,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        learned_rows=num_rows if standing is None else standing.learned_rows or standing.rows,
    )
    folder = files.scratch(store.root) / f"index-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
        if standing is not None:
            space = of_index(store, standing)
            info = replace(info, dimension=standing.dimension, transform=standing.transform)
        else:
            if isinstance(wanted, Kind):
                learned_on = sample(parts, embedding.dimension, sample_size(embedding.dimension))
                wanted = fit(learned_on, str(wanted), fingerprint=embedding.fingerprint)
            space = wanted
            info = replace(info, dimension=space.out_dimension, transform=describe(space, transform))
        _publish(store, folder, _write(store, folder, info, parts, space, standing, progress))
    except OSError as error:
        raise StoreError(f"{store.root}: the index cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return current_info(store) or info


def choose_embedding(store: Store, name: str | None) -> Embedding:
    """The embeddings to index: those called `name`, else those of the live index, else the only ones.

    Raises:
        StoreError: there are none, or several of which the user has to choose.
    """
    known = store.embeddings
    live = current_info(store) if name is None else None
    if live is not None and live.embeddings in known:
        name = live.embeddings
    elif name is None and len(known) > 1:
        raise StoreError(f"{store.root}: holds several embeddings; say which with --name: {', '.join(known)}")
    return store.embedding(name)


def describe_inputs(store: Store, parts: Sequence[Part]) -> dict[str, Any]:
    """What an index depends on: compared at opening to tell whether it is still that of the store."""
    return {
        "parts": [part.to_json() for part in parts],
        "sources": [source.sha256 for source in store.sources],
    }


def _standing(store: Store, embedding: Embedding, type_: str, wanted: Kind | Transform) -> IndexInfo | None:
    """The live index if it is whole, of this type and space, and over vectors of this set."""
    try:
        info = current_info(store)
        if info is None:
            return None
        verify_files(store, info)
    except StoreError:
        # A damaged index is replaced: that is what the caller asks for.
        return None
    same = (info.type, info.embeddings, info.fingerprint) == (type_, embedding.name, embedding.fingerprint)
    return info if same and _same_space(info, wanted) else None


def _may_grow(standing: IndexInfo, built_from: dict[str, Any], num_rows: int, wanted: Kind | Transform) -> bool:
    """Whether all that stands in an index is there still, and what came since is little beside what it learned from."""
    # Rows follow the files.
    kept = built_from["parts"][: len(standing.built_from["parts"])] == standing.built_from["parts"]
    learned = standing.learned_rows or standing.rows
    automatic = isinstance(wanted, Kind) and wanted.name == "auto"
    # What was chosen for few vectors need not be what is chosen for more.
    chosen_anew = automatic and choose_kind(num_rows)[0] != choose_kind(standing.rows)[0]
    return kept and not chosen_anew and 0 < standing.rows <= num_rows <= (1 + MOST_ADDED) * learned


def _same_space(standing: IndexInfo, wanted: Kind | Transform) -> bool:
    """Whether `standing` went through the transform that `wanted` would give over the same vectors."""
    had = standing.transform or {"asked": "none", "kind": "none"}
    if isinstance(wanted, Transform):
        return had.get("sha256") == wanted.digest
    if is_file(had["asked"]):
        return False
    # What auto asked for may have turned out otherwise (vectors without any spread), and would so again.
    chosen = choose_kind(standing.rows)[0] if wanted.name == "auto" else wanted
    return str(wanted) == had["asked"] or str(chosen) == had["kind"]


def _write(
    store: Store,
    folder: Path,
    info: IndexInfo,
    parts: Sequence[Part],
    transform: Transform,
    standing: IndexInfo | None,
    progress: Progress | None,
) -> IndexInfo:
    """Write the files of an index: all vectors, or those that `standing` lacks behind its own."""
    write_catalog(store, folder / CATALOG)
    if transform.mean is not None:
        save(transform, folder / TRANSFORM)
    faiss = load_faiss()
    try:
        if standing is None:
            index, seq_ids = _empty(info, parts, transform), np.empty(0, np.int64)
        else:
            index = faiss.read_index(str(held_file(store, standing, VECTORS)))
            seq_ids = np.load(held_file(store, standing, ROWS))
        fresh = parts[len(standing.built_from["parts"]) :] if standing else parts
        seq_ids = np.concatenate([seq_ids, _fill(index, info, fresh, transform, progress)])
        faiss.write_index(index, str(folder / VECTORS))
    except RuntimeError as error:
        raise StoreError(f"{store.root}: FAISS cannot build {info.type!r}: {_reason(error)}") from error
    _check_rows(store, seq_ids)
    np.save(folder / ROWS, seq_ids)
    operating = {} if info.type == FLAT else measure(index, parts, transform, seq_ids, SEED)
    checksums = {file.name: checksum(file) for file in sorted(folder.iterdir())}
    return replace(info, operating=operating, checksums=checksums)


def _empty(info: IndexInfo, parts: Sequence[Part], transform: Transform) -> Any:
    faiss = load_faiss()
    if info.type == FLAT:
        return faiss.IndexFlatIP(info.dimension)
    if "IDMap" in info.type:
        raise StoreError(f"index type {info.type!r}: leave IDMap out, the store keeps the ids itself")
    try:
        index = faiss.index_factory(info.dimension, info.type, faiss.METRIC_L2)
    except RuntimeError as error:
        raise StoreError(
            f"index type {info.type!r}: FAISS does not know it for {info.dimension} dimensions ({_reason(error)}); "
            "use flat, auto, or a factory string such as HNSW32 or IVF1024,SQ8"
        ) from error
    if not index.is_trained:
        lists = faiss.try_extract_index_ivf(index)
        num_lists = lists.nlist if lists is not None else 256
        if info.rows < num_lists:
            raise StoreError(
                f"index type {info.type!r} needs {num_lists} vectors to train, the store has {info.rows}; use flat"
            )
        training = sample(parts, transform.dimension, max(TRAINING_PER_LIST * num_lists, 20_000))
        index.train(transform.apply(training))
    return index


def sample(parts: Sequence[Part], dimension: int, size: int) -> np.ndarray:
    """A seeded choice of at most `size` unit vectors, (n, D) float32, each row as likely as any."""
    num_rows = sum(part.rows for part in parts)
    chosen = np.sort(np.random.default_rng(SEED).permutation(num_rows)[:size])
    result = np.empty((len(chosen), dimension), dtype=np.float32)
    start = done = 0
    for _, vectors in unit_batches(parts, dimension):
        end = np.searchsorted(chosen, start + len(vectors))
        result[done:end] = vectors[chosen[done:end] - start]
        start, done = start + len(vectors), end
    return result


def _fill(
    index: Any, info: IndexInfo, parts: Sequence[Part], transform: Transform, progress: Progress | None
) -> np.ndarray:
    """Put the vectors of `parts` in, behind those that are there; returns the seq_id of each new row."""
    seq_ids = np.empty(sum(part.rows for part in parts), dtype=np.int64)
    held = _reserve(index, info)[-len(seq_ids) :] if info.type == FLAT and len(seq_ids) else None
    done = 0
    for ids, vectors in transformed(parts, transform):
        if held is not None:
            held[done : done + len(ids)] = vectors
        else:
            index.add(vectors)
        seq_ids[done : done + len(ids)] = ids
        done += len(ids)
        if progress is not None:
            progress(done, info.rows)
    return seq_ids


def _reserve(index: Any, info: IndexInfo) -> np.ndarray:
    """The flat index's own memory as (n, D): `add` would grow it by doubling and hold the vectors twice at times."""
    index.codes.resize(4 * info.rows * info.dimension)
    index.ntotal = info.rows
    values = load_faiss().rev_swig_ptr(index.get_xb(), info.rows * info.dimension)
    return values.reshape(info.rows, info.dimension)


def _check_rows(store: Store, seq_ids: np.ndarray) -> None:
    values, counts = np.unique(seq_ids, return_counts=True)
    if (counts > 1).any():
        twice = ", ".join(str(value) for value in values[counts > 1][:5])
        raise StoreError(
            f"{store.root}: sequences embedded twice (seq_id {twice}); run raypipe embed again to mend the parts"
        )
    if len(values) and not 0 <= values[0] <= values[-1] < store.num_sequences:
        raise StoreError(f"{store.root}: embeddings of sequences that the store does not have (seq_id {values[-1]})")


def _publish(store: Store, folder: Path, info: IndexInfo) -> None:
    files.write_json(folder / INFO, info.to_json(), store.root)
    for file in folder.iterdir():
        files.sync(file)
    files.commit(folder, index_folder(store) / info.version)
    versions.publish(index_folder(store), info.version, store.root)


def _reason(error: RuntimeError) -> str:
    """The end of a FAISS message, which carries the C++ signature in front."""
    return str(error).splitlines()[0].split("Error:")[-1].strip()[:200]
