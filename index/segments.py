"""Segments of an index: how one is made, and how many are searched as one.

Rows of an index are counted through all its segments, in their order.
Shapes: Q queries, n rows, E values of a vector as it is indexed, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from index import wholes
from index.engines import Effort, Engine, Leading, open_engine
from index.errors import StaleIndexError, StoreError
from index.exact import NO_HIT, TopK, best, exact_search
from index.faiss_runtime import load_faiss, reason
from index.flat import FlatFiller
from index.gpu import move
from index.info import (
    AXES,
    FLAT,
    LEADING,
    REFINEMENT,
    ROWS,
    SEGMENTS,
    TRAINED,
    TRANSFORM,
    VECTORS,
    IndexInfo,
    Segment,
    held_file,
    index_folder,
    local_file,
    rebuild,
)
from index.inverted import Filler, read_segment
from index.kmeans import Nearest
from index.seq_ids import SeqIds, packed
from index.store import Store
from index.transform_files import load
from index.transforms import Transform, transformed
from index.truth import KEPT, QUERIES, TRUTH, Queries, Truth, load_queries, load_truth, merged, save_truth
from index.vectors import Part

FORMAT = 3
# What the vectors of one segment may take as float32, whatever the type; see `index.planning` for what a build needs.
SEGMENT_BYTES = 4 << 30


@dataclass(frozen=True)
class SegmentJob:
    """One segment to make; it can be pickled, and run on another machine that sees the store.

    Attributes:
        store: that it belongs to.
        type: of the index.
        dimension: of the vectors as stored.
        trained: as `index.trained.learn` gives it: name and checksums.
        parts: the files whose vectors go in.
        nearest: finds the list of each vector. Not a part of the name: it says how, not what.
    """

    store: Store
    type: str
    dimension: int
    trained: dict[str, Any]
    parts: tuple[Part, ...]
    nearest: Nearest

    @property
    def name(self) -> str:
        """Of the segment's folder."""
        return wholes.content_name(FORMAT, self.trained, [part.to_json() for part in self.parts])

    @property
    def rows(self) -> int:
        """Vectors that go in."""
        return sum(part.rows for part in self.parts)


def groups(parts: Sequence[Part], dimension: int) -> list[tuple[Part, ...]]:
    """The parts of each segment, in order: whole files, as many as SEGMENT_BYTES allow."""
    most = full_rows(dimension)
    grouped: list[list[Part]] = []
    rows = 0
    for part in parts:
        if not grouped or rows + part.rows > most:
            grouped.append([])
            rows = 0
        grouped[-1].append(part)
        rows += part.rows
    return [tuple(group) for group in grouped]


def full_rows(dimension: int) -> int:
    """Vectors of `dimension` values that one segment holds at the most."""
    return max(1, SEGMENT_BYTES // (4 * dimension))


def make_segment(job: SegmentJob, progress: Callable[[int], None] | None = None) -> Segment:
    """Put the vectors of some files into a FAISS index and publish it as a segment; or find that this was done.

    Args:
        progress: called with the number of rows that came in.

    Raises:
        StoreError: a file is damaged, or a vector is zero or not finite.
    """
    folder = index_folder(job.store) / SEGMENTS / job.name
    about = wholes.standing(folder)
    if about is None:
        about = {}
        trained = index_folder(job.store) / TRAINED / job.trained["name"]
        learned = TRANSFORM in job.trained["checksums"]
        transform = load(trained / TRANSFORM) if learned else Transform("none", job.dimension)
        empty = _trained_file(job, VECTORS)
        queries = None if job.type == FLAT else load_queries(_trained_file(job, QUERIES))
        axes = np.load(_trained_file(job, AXES)) if AXES in job.trained["checksums"] else None
        with wholes.publishing(job.store.root, folder, about) as temporary:
            try:
                index = load_faiss().read_index(str(empty))
                flat = job.type == FLAT
                filler = FlatFiller(index, job.rows, axes) if flat else Filler(index, job.nearest)
                seq_ids, truth = _fill(filler, job, transform, queries, progress)
                filler.write(temporary)
            except RuntimeError as error:
                raise StoreError(f"{job.store.root}: FAISS cannot build {job.type!r}: {reason(error)}") from error
            np.save(temporary / ROWS, packed(seq_ids))
            if truth is not None:
                save_truth(truth, temporary / TRUTH)
    elif progress is not None:
        progress(job.rows)
    return Segment(job.name, job.rows, [part.to_json() for part in job.parts], about["checksums"])


def _trained_file(job: SegmentJob, name: str) -> Path:
    path, known = f"{TRAINED}/{job.trained['name']}/{name}", job.trained["checksums"][name]
    return local_file(job.store, path, known, "build the index again")


def _fill(
    filler: Filler | FlatFiller,
    job: SegmentJob,
    transform: Transform,
    queries: Queries | None,
    progress: Callable[[int], None] | None,
) -> tuple[np.ndarray, Truth | None]:
    """Put the vectors in; returns the seq_id of each row, and what stands nearest to the queries."""
    seq_ids = np.empty(job.rows, dtype=np.int64)
    found = None if queries is None else TopK(queries.vectors, KEPT)
    done = 0
    for ids, vectors in transformed(job.parts, transform, precise=job.type == FLAT):
        done += len(ids)
        if done > job.rows:
            break
        filler.add(vectors)
        if found is not None:
            found.see(ids, vectors)
        seq_ids[done - len(ids) : done] = ids
        if progress is not None:
            progress(len(ids))
    if done != job.rows:
        raise StoreError(f"{job.store.root}: embeddings changed while they were indexed; build the index again")
    return seq_ids, None if found is None else Truth(found.ids, found.scores)


class Segments:
    """The opened segments of an index, searched as one. Safe to search from several threads.

    Attributes:
        seq_ids: of the rows of each segment.
        starts: the first row of each segment, and at the end the number of all rows.
        engines: how each is searched; all are of one kind.
    """

    def __init__(
        self,
        indexes: Sequence[Any],
        shared: Any,
        seq_ids: Sequence[SeqIds],
        parts: Sequence[Sequence[Part]],
        transform: Transform,
        leading: Sequence[Leading | None],
    ):
        """Take FAISS indexes as `open_segments` opens them, `shared` being the one that has what they share."""
        # FAISS frees an index with the object that read it; an engine holds only a view of it.
        self._owners = [*indexes, shared]
        self.seq_ids = list(seq_ids)
        self.starts = np.cumsum([0, *(len(ids) for ids in seq_ids)])
        self._parts, self._transform = parts, transform
        self.engines = [
            open_engine(index, partial(self._scan, place), bounds)
            for place, (index, bounds) in enumerate(zip(indexes, leading, strict=True))
        ]

    def keep(self, owners: Sequence[Any]) -> None:
        """Keep what the engines need alive for as long as these segments."""
        self._owners += owners

    @property
    def parts(self) -> list[Part]:
        """All files of vectors, in the order of rows."""
        return [part for parts in self._parts for part in parts]

    @property
    def all_seq_ids(self) -> np.ndarray:
        """The sequence of each row, int64 (n,)."""
        return np.concatenate([np.empty(0, np.int64), *(known.all() for known in self.seq_ids)])

    def rows_of(self, seq_ids: np.ndarray) -> np.ndarray:
        """The rows of `seq_ids` (m,), int64; -1 where they are in none."""
        rows = np.full(len(seq_ids), NO_HIT)
        for start, known in zip(self.starts[:-1], self.seq_ids, strict=True):
            found = known.rows_of(seq_ids)
            rows = np.where(found == NO_HIT, rows, start + found)
        return rows

    @property
    def engine(self) -> Engine:
        """That of the first segment, for what they have in common."""
        return self.engines[0]

    @property
    def rows(self) -> int:
        """Vectors in all segments."""
        return int(self.starts[-1])

    def search(
        self, queries: np.ndarray, k: int, masks: Sequence[np.ndarray | None] | None, effort: Effort
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """The k nearest rows of each query over all segments.

        Args:
            queries: (Q, E) unit vectors, float32.
            masks: for each segment the rows that may be found, (n,) bool; all of it where that is None.

        Returns:
            seq_ids (Q, k) int64, NO_HIT where fewer rows are allowed; cosines (Q, k) float32, nan there; ties in the
            order of seq_id (which of those that tie for the k-th place are in is up to the rows of the flat type, and
            to FAISS for others); and how each segment was searched.
        """
        all_ids, all_scores, how = [], [], []
        for place, (engine, known) in enumerate(zip(self.engines, self.seq_ids, strict=True)):
            if not len(known):
                continue
            rows, values, way = engine.search(queries, k, None if masks is None else masks[place], effort)
            all_ids.append(known.at(rows))
            all_scores.append(np.where(rows == NO_HIT, np.float32(-np.inf), values))
            how.append(way)
        if not how:
            shape = (len(queries), k)
            return np.full(shape, NO_HIT, np.int64), np.full(shape, np.nan, np.float32), how
        ids, scores = best(np.hstack(all_ids), np.hstack(all_scores), k)
        scores[ids == NO_HIT] = np.nan
        return ids, scores, how

    def exact(
        self, queries: np.ndarray, k: int, masks: Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, by comparing each query with all stored vectors, which are read from their files.

        Returns:
            seq_ids (Q, k') and cosines (Q, k') with k' = min(k, rows allowed).
        """
        places = range(len(self.seq_ids))
        blocks = (block for place in places for block in self._blocks(place, None if masks is None else masks[place]))
        return exact_search(blocks, queries, k)

    def _blocks(self, place: int, mask: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        start = 0
        for ids, vectors in transformed(self._parts[place], self._transform):
            if not np.array_equal(ids, self.seq_ids[place].between(start, start + len(ids))):
                raise StaleIndexError("the vectors that were indexed are not there any more; build the index again")
            chosen = slice(None) if mask is None else mask[start : start + len(ids)]
            start += len(ids)
            yield ids[chosen], vectors[chosen]

    def _scan(self, place: int, queries: np.ndarray, k: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Exact search over the stored vectors of one segment: its rows, and cosines."""
        found, scores = exact_search(self._blocks(place, mask), queries, k)
        return self.seq_ids[place].rows_of(found), scores


def open_segments(store: Store, info: IndexInfo, transform: Transform, gpu: int | None = None) -> Segments:
    """Open the segments of a published index; vectors stay on disk, memory-mapped.

    Args:
        gpu: number of the GPU to search by copies on, see `index.gpu`.

    Raises:
        StoreError: a file is missing or damaged, or is not what index.json says; or FAISS cannot use the GPU for it.
    """
    faiss = load_faiss()
    mend = f"build it again: {rebuild(store, info)}"
    try:
        path = f"{TRAINED}/{info.trained['name']}/{VECTORS}"
        shared = faiss.read_index(str(held_file(store, info, path)), faiss.IO_FLAG_MMAP_IFC)
        axes = None
        if AXES in info.trained["checksums"]:
            path = f"{TRAINED}/{info.trained['name']}/{AXES}"
            axes = np.load(held_file(store, info, path))
        indexes, seq_ids, leading = [], [], []
        for segment in info.segments:
            path = f"{SEGMENTS}/{segment.name}"
            refined = held_file(store, info, f"{path}/{REFINEMENT}") if REFINEMENT in segment.checksums else None
            index = read_segment(held_file(store, info, f"{path}/{VECTORS}"), refined, shared)
            if (index.ntotal, index.d) != (segment.rows, info.dimension):
                raise StoreError(
                    f"{index_folder(store) / path}: damaged index, {index.ntotal} vectors of {index.d} values where "
                    f"index.json says {segment.rows} of {info.dimension}; {mend}"
                )
            indexes.append(index)
            held = np.load(held_file(store, info, f"{path}/{ROWS}"), mmap_mode="r" if segment.rows else None)
            seq_ids.append(SeqIds(held, segment.rows))
            bounds = None
            if axes is not None and LEADING in segment.checksums:
                file = held_file(store, info, f"{SEGMENTS}/{segment.name}/{LEADING}")
                bounds = Leading(axes, np.load(file, mmap_mode="r" if segment.rows else None))
            leading.append(bounds)
    except (RuntimeError, OSError, ValueError) as error:
        raise StoreError(f"{index_folder(store) / path}: damaged index ({str(error)[-200:]}); {mend}") from error
    parts = [parts_of(store, info, segment) for segment in info.segments]
    opened = Segments(indexes, shared, seq_ids, parts, transform, leading)
    if gpu is not None:
        opened.keep(move(indexes, opened.engines, info.type, gpu))
    return opened


def parts_of(store: Store, info: IndexInfo, segment: Segment) -> list[Part]:
    """The files of vectors that a segment was built from; whether they changed since is another question."""
    folder = store.root / "embeddings" / info.embeddings
    return [Part(folder / part["name"], part["rows"], part["bytes"], part["digest"]) for part in segment.parts]


def measured_with(store: Store, info: IndexInfo) -> tuple[Queries, Truth]:
    """The queries that were put aside for an approximate index, and their true neighbours in all its segments."""
    queries = load_queries(held_file(store, info, f"{TRAINED}/{info.trained['name']}/{QUERIES}"))
    paths = [f"{SEGMENTS}/{segment.name}/{TRUTH}" for segment in info.segments]
    return queries, merged([load_truth(held_file(store, info, path)) for path in paths])
