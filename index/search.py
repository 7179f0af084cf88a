"""Search the live index of a store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from index.build import describe_inputs
from index.catalog import Catalog
from index.engines import Engine, open_engine
from index.errors import StaleIndexError, StoreError
from index.exact import NO_HIT, exact_search
from index.faiss_runtime import load_faiss
from index.info import (
    CATALOG,
    INFO,
    ROWS,
    VECTORS,
    IndexInfo,
    current_info,
    held_file,
    index_folder,
    rebuild,
    verify_files,
)
from index.places import RemotePath
from index.receipts import list_files
from index.removals import removed_sequences
from index.store import Store
from index.transform_files import of_index
from index.transforms import Transform, transformed
from index.vectors import Part, as_stored, finished_parts, take


class Searcher:
    """One opened index version; it stays usable when a newer one is published. Safe to search from several threads.

    Attributes:
        info: what the index is.
        catalog: ids, descriptions and lengths by seq_id, as they were when the index was built.
        transform: what stored vectors and queries go through before they are compared.
    """

    def __init__(
        self,
        store: Store,
        info: IndexInfo,
        index: Any,
        seq_ids: np.ndarray,
        parts: Sequence[Part],
        transform: Transform,
        dtype: str,
        removed: np.ndarray,
    ):
        self.info = info
        self._dtype = dtype
        self.transform = transform
        self.catalog = Catalog(held_file(store, info, CATALOG))
        self._seq_ids = seq_ids
        self._parts = parts
        self._living = None if not len(removed) else ~np.isin(seq_ids, removed)
        # FAISS frees the index with the object that read it; the engine holds only a view of it.
        self._owner = index
        self._engine: Engine = open_engine(index, self._scan)

    @classmethod
    def open(cls, store: Store, *, allow_stale: bool = False, thorough: bool = False) -> Searcher:
        """Open the live index; its vectors stay on disk, memory-mapped.

        Args:
            allow_stale: search an index that is older than the store's embeddings or sources.
            thorough: compare the checksums of large files too, which reads them whole.

        Raises:
            StaleIndexError: embeddings or sources changed since the index was built.
            StoreError: no index is built yet, or it is damaged.
        """
        info = current_info(store)
        if info is None:
            raise StoreError(f"{store.root}: no index yet; build one with: {rebuild(store)}")
        if thorough or not isinstance(store.root, RemotePath):  # else its copies are compared, see `held_file`
            verify_files(store, info, thorough=thorough)
        if not allow_stale:
            _refuse_stale(store, info)
        folder = index_folder(store) / info.version
        faiss = load_faiss()
        try:
            index = faiss.read_index(str(held_file(store, info, VECTORS)), faiss.IO_FLAG_MMAP_IFC)
            seq_ids = np.load(held_file(store, info, ROWS), mmap_mode="r" if info.rows else None)
        except (RuntimeError, OSError, ValueError) as error:
            raise StoreError(
                f"{folder}: damaged index ({str(error)[-200:]}); build it again: {rebuild(store, info)}"
            ) from error
        if (index.ntotal, index.d, len(seq_ids)) != (info.rows, info.dimension, info.rows):
            raise StoreError(
                f"{folder}: damaged index, {index.ntotal} vectors of {index.d} values and {len(seq_ids)} ids where "
                f"index.json says {info.rows} of {info.dimension}; build it again: {rebuild(store, info)}"
            )
        known = store.embeddings.get(info.embeddings)
        dtype = "float32" if known is None else known.dtype
        transform, removed = of_index(store, info), removed_sequences(store)
        return cls(store, info, index, seq_ids, _parts_of(store, info), transform, dtype, removed)

    def search(
        self, vectors: np.ndarray, k: int, *, allowed: np.ndarray | None = None, nprobe: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest sequences of each query by cosine in the index's own space, ties in the order of seq_id.

        Queries are rounded as the stored vectors are, and go through the transform that these went through first (see
        `info.transform`), so that a sequence finds itself with a cosine of 1. The flat type's scores are exact; the
        others' are estimates from their codes.

        Args:
            vectors: (Q, D) queries as the model gives them, of any length, float32.
            k: neighbours per query, at least 1.
            allowed: seq_ids that may be found, in any order; all if None. The filter acts inside the search: every
                query gets min(k, allowed sequences in the index) hits. Removed sequences are never found.
            nprobe: inverted lists to visit (for HNSW, the candidates to keep); as measured at build time if None.

        Returns:
            seq_ids (Q, k) int64 and scores (Q, k) float32; -1 and nan where fewer than k sequences exist.

        Raises:
            StoreError: another dimension than the index's, or a query that is zero or not finite.
        """
        queries = np.asarray(vectors, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.transform.dimension:
            raise StoreError(
                f"queries of shape {queries.shape}: this index holds vectors of {self.transform.dimension} values "
                f"({self.info.embeddings}); embed the queries with the same model"
            )
        if k < 1 or (nprobe is not None and nprobe < 1):
            raise StoreError(f"k = {k}, nprobe = {nprobe}: both must be at least 1")
        if self.info.rows == 0 or len(queries) == 0:
            shape = (len(queries), k)
            return np.full(shape, NO_HIT, dtype=np.int64), np.full(shape, np.nan, dtype=np.float32)
        queries = self.transform.apply(as_stored(queries, self._dtype), np.arange(1, len(queries) + 1), "query")
        mask = self._living
        if allowed is not None:
            wanted = np.isin(self._seq_ids, np.asarray(allowed, dtype=np.int64))
            mask = wanted if mask is None else wanted & mask
        effort = nprobe or self.info.operating.get(self._engine.effort_name)
        rows, scores = self._engine.search(queries, k, mask, effort)
        found = np.where(rows == NO_HIT, NO_HIT, self._seq_ids[np.maximum(rows, 0)])
        return self._ordered(found, scores)

    def vectors(self, seq_ids: np.ndarray) -> np.ndarray:
        """Stored vectors, as the model gave them: float32 (n, D) in the order of `seq_ids` (n,).

        Raises:
            StoreError: a sequence has no vector in this index.
        """
        seq_ids = np.asarray(seq_ids, dtype=np.int64)
        order, ids = self._by_seq_id
        places = np.searchsorted(ids, seq_ids)
        missing = ~np.isin(seq_ids, ids)
        if missing.any():
            names = ", ".join(str(seq_id) for seq_id in seq_ids[missing][:5])
            raise StoreError(f"no embedding of seq_id {names} in the index; `rejects` tells what was refused and why")
        return take(self._parts, order[places], self.transform.dimension)

    @cached_property
    def _by_seq_id(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self._seq_ids, kind="stable")
        return order, self._seq_ids[order]

    def _scan(self, queries: np.ndarray, k: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Exact search over the stored vectors of the rows in `mask`, streamed from Parquet."""
        order, ids = self._by_seq_id

        def allowed_blocks():
            start = 0
            for block_ids, vectors in transformed(self._parts, self.transform):
                chosen = mask[start : start + len(block_ids)]
                start += len(block_ids)
                yield block_ids[chosen], vectors[chosen]

        found, scores = exact_search(allowed_blocks(), queries, k)
        return order[np.searchsorted(ids, found)], scores

    def _ordered(self, seq_ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ties by seq_id: rows follow the parts, whose order need not be that of seq_ids."""
        order = np.lexsort((seq_ids, np.where(seq_ids == NO_HIT, np.inf, -scores)))
        return np.take_along_axis(seq_ids, order, 1), np.take_along_axis(scores, order, 1)


def _refuse_stale(store: Store, info: IndexInfo) -> None:
    known = store.embeddings
    if info.embeddings not in known:
        raise StaleIndexError(
            f"{store.root}: the index is of embeddings {info.embeddings!r}, which are gone; run: {rebuild(store, info)}"
        )
    embedding = known[info.embeddings]
    if embedding.fingerprint != info.fingerprint:
        raise StaleIndexError(
            f"{store.root}: {info.embeddings!r} was embedded anew with another model or setting since the index was "
            f"built; run: {rebuild(store, info)}"
        )
    now = describe_inputs(store, finished_parts(store, embedding, _untouched(store, info)))
    changes = []
    before, after = ({part["name"]: part for part in parts} for parts in (info.built_from["parts"], now["parts"]))
    for what, names in {
        "new": after.keys() - before.keys(),
        "missing": before.keys() - after.keys(),
        "changed": {name for name in before.keys() & after.keys() if before[name] != after[name]},
    }.items():
        if names:
            changes.append(f"{len(names)} {what} embedding file{'s' * (len(names) > 1)}, such as {min(names)}")
    new_sources = [source for source in store.sources if source.sha256 not in info.built_from["sources"]]
    if new_sources:
        changes.append(f"new sources, such as {new_sources[0].path}")
    if changes:
        raise StaleIndexError(
            f"{store.root}: the index is older than its store ({'; '.join(changes)}); run: {rebuild(store, info)}"
        )


def _untouched(store: Store, info: IndexInfo) -> list[Part]:
    """Files in an object store that are as long as the index says, and older than the index: to open each costs a
    second for ten. On a disk times are not to be trusted so far, and opening is cheap."""
    if not isinstance(store.root, RemotePath):
        return []
    listed = list_files(store.root / "embeddings" / info.embeddings)
    built = (index_folder(store) / info.version / INFO).stat().st_mtime_ns
    parts = _parts_of(store, info)
    return [
        part for part in parts if (found := listed.get(part.path.name)) and found[0] == part.bytes and found[1] < built
    ]


def _parts_of(store: Store, info: IndexInfo) -> list[Part]:
    """The files the index was built from; whether they changed since is `_refuse_stale`'s question."""
    folder = store.root / "embeddings" / info.embeddings
    return [
        Part(folder / part["name"], part["rows"], part["bytes"], part["digest"]) for part in info.built_from["parts"]
    ]
