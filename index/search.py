"""Search the live index of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from index import copies
from index.catalog import Catalog
from index.errors import NoIndexError, QuestionError, StaleIndexError, StoreError
from index.exact import NO_HIT
from index.info import (
    FLAT,
    INDEX,
    INFO,
    IndexInfo,
    current_info,
    index_folder,
    read_info,
    rebuild,
    verify_files,
)
from index.operating import effort_for
from index.places import RemotePath
from index.receipts import list_files
from index.removals import removed_sequences
from index.segments import Segments, open_segments, parts_of
from index.store import Store
from index.transform_files import of_index
from index.transforms import Transform
from index.vectors import Part, as_stored, finished_parts, take


@dataclass(frozen=True, eq=False)
class Allowed:
    """The sequences that may be found, as bitmaps over the rows of one index; `Searcher.allow` makes it.

    Attributes:
        version: of the index.
        masks: of each segment, (n,) bool.
        rows: that are set, in all.
    """

    version: str
    masks: list[np.ndarray]
    rows: int


class Found(NamedTuple):
    """What a search found.

    Attributes:
        seq_ids: (Q, k) int64; -1 where fewer than k sequences exist.
        scores: (Q, k) float32; nan there.
        how: what was done: the index's "version" and "type", the "rows" in it, how many of them may be found
            ("allowed"), and "searched", how each segment was, in words.
    """

    seq_ids: np.ndarray
    scores: np.ndarray
    how: dict[str, Any]


class Searcher:
    """One opened index version; it stays usable when a newer one is published. Safe to search from several threads.

    Attributes:
        info: what the index is.
        catalog: ids, descriptions and lengths by seq_id, as they were when the index was built.
        transform: what stored vectors and queries go through before they are compared.
        segments: what is searched, by rows.
    """

    def __init__(self, store: Store, info: IndexInfo, segments: Segments, transform: Transform, removed: np.ndarray):
        known = store.embeddings.get(info.embeddings)
        self.info = info
        self._dtype = "float32" if known is None else known.dtype
        self.transform = transform
        self.catalog = Catalog.open(store, info)
        self.segments = segments
        self._removed = removed
        self._living = self.allow(None) if len(removed) else None

    @classmethod
    def open(
        cls,
        store: Store,
        *,
        allow_stale: bool = False,
        thorough: bool = False,
        version: str | None = None,
        only: Sequence[str] | None = None,
        gpu: int | None = None,
    ) -> Searcher:
        """Open the live index; its vectors stay on disk, memory-mapped.

        Args:
            allow_stale: search an index that is older than the store's embeddings or sources.
            thorough: compare the checksums of large files too, which reads them whole.
            version: to open, instead of the live one.
            only: names of segments, to search these alone.
            gpu: number of the GPU to search by copies on; answers are those of the CPU, see `index.gpu`.

        Raises:
            StaleIndexError: embeddings or sources changed since the index was built.
            StoreError: no index is built yet, or it is damaged.
        """
        info = current_info(store) if version is None else read_info(store, version)
        if info is None:
            raise NoIndexError(f"{store.root}: no index yet; build one with: {rebuild(store)}")
        if not allow_stale:
            _refuse_stale(store, info)
        if only is not None:
            info = replace(info, segments=[segment for segment in info.segments if segment.name in only])
        if thorough or not isinstance(store.root, RemotePath):  # else its copies are compared, see `held_file`
            verify_files(store, info, thorough=thorough)
        transform = of_index(store, info)
        opened = cls(store, info, open_segments(store, info, transform, gpu), transform, removed_sequences(store))
        if only is not None:  # others on this machine may have copies of other segments
            return opened
        folders = {path.rpartition("/")[0] for path in info.files} - {info.version}
        copies.keep(store.root, [f"{INDEX}/{folder}" for folder in folders])
        return opened

    @property
    def seq_ids(self) -> np.ndarray:
        """The sequence of each row, int64 (n,), those that were removed since among them."""
        return self.segments.all_seq_ids

    def search(
        self,
        vectors: np.ndarray,
        k: int,
        *,
        allowed: np.ndarray | None = None,
        nprobe: int | None = None,
        k_factor: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `find` finds: seq_ids (Q, k) int64 and scores (Q, k) float32; -1 and nan where fewer exist."""
        return self.find(vectors, k, allowed=allowed, nprobe=nprobe, k_factor=k_factor)[:2]

    def find(
        self,
        vectors: np.ndarray,
        k: int,
        *,
        allowed: np.ndarray | Allowed | None = None,
        min_score: float | None = None,
        exact: bool = False,
        recall: float | None = None,
        nprobe: int | None = None,
        k_factor: float | None = None,
    ) -> Found:
        """The k nearest sequences of each query by cosine in the index's own space, ties in the order of seq_id.

        Which of those that tie for the k-th place are in is told by seq_id where the search is exact, or the type is
        flat and rows ascend by seq_id.

        Queries are rounded as the stored vectors are, and go through the transform that these went through first (see
        `info.transform`), so that a sequence finds itself with a cosine of 1. The flat type's scores are exact; the
        others' are estimates from their codes.

        Args:
            vectors: (Q, D) queries as the model gives them, of any length, float32.
            k: neighbours per query, at least 1.
            allowed: seq_ids that may be found, in any order, or what `allow` made of them; all if None. The filter acts
                inside the search: every query gets min(k, allowed sequences in the index) hits. Removed sequences are
                never found.
            min_score: hits below it are left out.
            exact: compare with every stored vector, which reads them all, whatever the type of the index.
            recall: search as hard as was measured to reach this recall@10; the index's own target if None.
            nprobe: inverted lists to visit (for HNSW, the candidates to keep), instead.
            k_factor: candidates of coarse codes per neighbour, compared again by finer ones, instead.

        Raises:
            StoreError: another dimension than the index's, a query that is zero or not finite, or a recall beyond what
                was measured.
        """
        queries = np.asarray(vectors, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.transform.dimension:
            raise QuestionError(
                f"queries of shape {queries.shape}: this index holds vectors of {self.transform.dimension} values "
                f"({self.info.embeddings}); embed the queries with the same model"
            )
        if k < 1 or (nprobe is not None and nprobe < 1) or (k_factor is not None and k_factor < 1):
            raise QuestionError(f"k = {k}, nprobe = {nprobe}, k_factor = {k_factor}: all must be at least 1")
        bitmaps = self._bitmaps(allowed)
        how: dict[str, Any] = {
            "version": self.info.version,
            "type": self.info.type,
            "rows": self.segments.rows,
            "allowed": self.segments.rows if bitmaps is None else bitmaps.rows,
        }
        if self.segments.rows == 0 or len(queries) == 0:
            shape = (len(queries), k)
            nothing = np.full(shape, NO_HIT, dtype=np.int64), np.full(shape, np.nan, dtype=np.float32)
            return Found(*nothing, {**how, "searched": []})
        labels, precise = np.arange(1, len(queries) + 1), exact or self.info.type == FLAT
        queries = self.transform.apply(as_stored(queries, self._dtype), labels, "query", precise=precise)
        masks = None if bitmaps is None else bitmaps.masks
        if exact and self.info.type != FLAT:
            seq_ids, scores = _widened(*self.segments.exact(queries, k, masks), k)
            words = ["exact: all stored vectors compared"]
        else:
            effort = effort_for(self.info.operating, self.segments.engine.effort_name, recall)
            effort = effort._replace(visits=nprobe or effort.visits, k_factor=k_factor or effort.k_factor)
            seq_ids, scores, words = self.segments.search(queries, k, masks, effort)
        if min_score is not None:
            low = ~(scores >= min_score)
            seq_ids[low], scores[low] = NO_HIT, np.nan
        return Found(seq_ids, scores, {**how, "searched": words})

    def allow(self, seq_ids: np.ndarray | None) -> Allowed:
        """Bitmaps of the sequences that may be found, for `find`: worth to keep where a filter comes again.

        Args:
            seq_ids: in any order, (n,); all that are not removed if None.
        """
        known = np.ones(self.info.sequences, dtype=bool)
        if seq_ids is not None:
            seq_ids = np.asarray(seq_ids, dtype=np.int64)
            known[:] = False
            known[seq_ids[(seq_ids >= 0) & (seq_ids < len(known))]] = True
        known[self._removed[self._removed < len(known)]] = False
        masks = [ids.pick(known) for ids in self.segments.seq_ids]
        return Allowed(self.info.version, masks, sum(int(np.count_nonzero(mask)) for mask in masks))

    def _bitmaps(self, allowed: np.ndarray | Allowed | None) -> Allowed | None:
        if isinstance(allowed, Allowed):
            if allowed.version != self.info.version:
                raise StoreError(f"the filter was made for index {allowed.version}, this is {self.info.version}")
            return allowed
        return self._living if allowed is None else self.allow(allowed)

    def vectors(self, seq_ids: np.ndarray) -> np.ndarray:
        """Stored vectors, as the model gave them: float32 (n, D) in the order of `seq_ids` (n,).

        Raises:
            StoreError: a sequence has no vector in this index.
        """
        seq_ids = np.asarray(seq_ids, dtype=np.int64)
        rows = self.segments.rows_of(seq_ids)
        if (rows < 0).any():
            names = ", ".join(str(seq_id) for seq_id in seq_ids[rows < 0][:5])
            raise QuestionError(
                f"no embedding of seq_id {names} in the index; `rejects` tells what was refused and why"
            )
        return self.stored(rows)

    def stored(self, rows: np.ndarray) -> np.ndarray:
        """As `vectors`, by row of the index."""
        return take(self.segments.parts, rows, self.transform.dimension)


def _widened(seq_ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    short = ((0, 0), (0, k - seq_ids.shape[1]))
    return np.pad(seq_ids, short, constant_values=NO_HIT), np.pad(scores, short, constant_values=np.nan)


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
    now = [part.to_json() for part in finished_parts(store, embedding, _untouched(store, info))]
    changes = []
    before, after = ({part["name"]: part for part in parts} for parts in (info.parts, now))
    for what, names in {
        "new": after.keys() - before.keys(),
        "missing": before.keys() - after.keys(),
        "changed": {name for name in before.keys() & after.keys() if before[name] != after[name]},
    }.items():
        if names:
            changes.append(f"{len(names)} {what} embedding file{'s' * (len(names) > 1)}, such as {min(names)}")
    new_sources = [source for source in store.sources if source.sha256 not in info.sources]
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
    parts = [part for segment in info.segments for part in parts_of(store, info, segment)]
    return [
        part for part in parts if (found := listed.get(part.path.name)) and found[0] == part.bytes and found[1] < built
    ]
