"""Build and publish an index over one set of stored vectors."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from index import files, versions
from index.catalog import write_catalog
from index.errors import StoreError, UnreachableError
from index.info import (
    FLAT,
    INFO,
    SEGMENTS,
    TARGET,
    TRAINED,
    TRANSFORM,
    IndexInfo,
    Segment,
    checksum,
    choose_type,
    current_info,
    index_folder,
    read_info,
    rebuild,
    verify_files,
)
from index.judge import Judge
from index.kmeans import Nearest, NearestByBlas
from index.operating import measure
from index.segments import SegmentJob, Segments, full_rows, groups, make_segment, measured_with, open_segments
from index.store import Embedding, Store
from index.trained import Trained, learn
from index.transform_files import describe, find, is_file, of_index, save
from index.transforms import Kind, Transform, choose_kind
from index.truth import QUERIES, SAMPLE
from index.vectors import Part, finished_parts

# An index is built anew when so many vectors came, beside those that its transform and lists were learned from.
MOST_ADDED = 0.25
# Segments of less than a quarter of the full size; more are built together into larger ones.
MOST_SMALL = 8
Progress = Callable[[int, int], None]


class Runner(Protocol):
    """Makes segments, one after another or many at once, and gives them back in the order of their jobs."""

    def __call__(self, jobs: Sequence[SegmentJob], done: Callable[[int], None]) -> Iterable[Segment]:
        """`done` is to be called with the number of vectors that came in."""
        ...


def one_by_one(jobs: Sequence[SegmentJob], done: Callable[[int], None]) -> Iterable[Segment]:
    """Make segments here."""
    return [make_segment(job, done) for job in jobs]


def build_index(
    store: Store,
    name: str | None = None,
    *,
    kind: str = "flat",
    transform: str | Path = "auto",
    recall: float = TARGET,
    anew: bool = False,
    compact: bool = False,
    nearest: Nearest | None = None,
    run: Runner = one_by_one,
    progress: Progress | None = None,
) -> IndexInfo:
    """Build the index of a set of vectors and make it the live one. The caller holds `store.lock()`.

    An index is made of segments that never change. Where the live one is of the same type and space, segments whose
    vectors are still there stay, and the other vectors become new ones, up to MOST_ADDED of those that transform and
    lists were learned from: scores stay comparable, and nothing is learned anew. A build that was killed goes on behind
    the last segment that stood.

    Vectors go through a transform that is learned here (see `index.transforms`) and end with length 1. The flat type
    holds them as float32 and searches by inner product: scores are exact cosines. Every other type works on Euclidean
    distances, which rank unit vectors alike.

    Args:
        name: which embeddings; if None those of the live index, else the only ones.
        kind: "flat"; "auto" (see `choose_type`); or a FAISS factory string, such as "HNSW32" or "IVF1024,SQ8".
        transform: "auto" (by the number of vectors), "none", "center", "whiten", "whiten:DIM", "pca:DIM", or the file
            transform.npz of an index over vectors of the same model, layer and pooling.
        recall: recall@10 that an approximate type has to reach, above 0 and at most 1.
        anew: learn and build everything again; of no use with `compact`.
        compact: build the small segments of the live index again as few and large ones. Nothing is learned anew: type,
            transform and recall are those that it has.
        nearest: finds the nearest of many centroids, to learn lists and to fill them; NumPy does if None.
        run: makes the segments.
        progress: called with rows added and rows in all.

    Returns:
        The published index; with `unchanged` set if it stood already and nothing was done.

    Raises:
        StoreError: nothing is embedded, a part is damaged or of another model, a vector is zero or not finite, the
            type is unknown to FAISS or needs more rows, the transform is unknown, of other embeddings or needs more
            rows, the type does not reach the recall, or the disk is full.
    """
    if not 0 < recall <= 1:
        raise StoreError(f"recall {recall:g}: must be above 0 and at most 1")
    nearest = nearest or NearestByBlas()
    embedding = choose_embedding(store, name)
    parts = finished_parts(store, embedding)
    num_rows = sum(part.rows for part in parts)
    if num_rows == 0 and store.num_sequences:
        raise StoreError(f"{store.root}: no sequence of {embedding.name!r} has a vector; rejects/ tells why")
    type_ = FLAT if kind.lower() == "flat" else choose_type(num_rows) if kind.lower() == "auto" else kind
    if compact:
        live = current_info(store)
        if live is None:
            raise StoreError(f"{store.root}: no index yet; build one with: {rebuild(store)}")
        type_, wanted, recall = live.type, of_index(store, live), live.operating.get("target", recall)
    else:
        wanted = find(transform, embedding.fingerprint, embedding.dimension)
    standing = None if anew else _standing(store, embedding, type_, wanted, num_rows)
    if compact and standing is None:
        raise StoreError(
            f"{store.root}: the live index cannot be kept (it is damaged, of other embeddings, or too much came since "
            f"it was learned); build it: {rebuild(store, live)}"
        )
    try:
        if standing is None:
            # The same until something is published, so that a build that was cut off goes on.
            salt = f"after {versions.current(index_folder(store))}" if anew else ""
            trained = learn(store, embedding, type_, parts, wanted, nearest=nearest, salt=salt)
            learned_rows = num_rows
            space = describe(trained.transform, transform)
        else:
            learned_rows, trained = standing.learned_rows, Trained(standing.trained, of_index(store, standing))
            space = standing.transform
        job = SegmentJob(store, type_, embedding.dimension, trained.about, (), nearest)
        kept, fresh = _divided(standing, parts, full_rows(embedding.dimension), compact)
        jobs = [replace(job, parts=group) for group in groups(fresh, embedding.dimension)]
        info = IndexInfo(
            version=versions.following(index_folder(store)),
            type=type_,
            metric="inner_product" if type_ == FLAT else "l2",
            dimension=trained.transform.out_dimension,
            embeddings=embedding.name,
            fingerprint=embedding.fingerprint,
            rows=num_rows,
            sequences=store.num_sequences,
            sources=[source.sha256 for source in store.sources],
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            trained=trained.about,
            transform=space,
            learned_rows=learned_rows,
        )
        if standing is not None and _is_same(standing, info, kept, jobs, recall):
            return replace(standing, unchanged=True)
        counted = _Count(sum(segment.rows for segment in kept), num_rows, progress)
        info = replace(info, segments=[*kept, *run(jobs, counted)])
        _publish(store, _measured(store, info, trained.transform, recall), trained.transform)
    except OSError as error:
        raise StoreError(f"{store.root}: the index cannot be written ({error.strerror or error})") from error
    return current_info(store) or info


def choose_embedding(store: Store, name: str | None) -> Embedding:
    """The embeddings to index: those called `name`, else those of the live index, else the only ones.

    Raises:
        StoreError: there are none, or several of which the user has to choose.
    """
    known = store.embeddings
    try:
        live = current_info(store) if name is None else None
    except UnreachableError:
        raise
    except StoreError:  # damaged, and about to be replaced
        live = None
    if live is not None and live.embeddings in known:
        name = live.embeddings
    elif name is None and len(known) > 1:
        raise StoreError(f"{store.root}: holds several embeddings; say which with --name: {', '.join(known)}")
    return store.embedding(name)


def _standing(
    store: Store, embedding: Embedding, type_: str, wanted: Kind | Transform, num_rows: int
) -> IndexInfo | None:
    """The live index, if it is whole, of this type and space, over vectors of this set, and these are few more."""
    try:
        info = current_info(store)
        if info is None:
            return None
        verify_files(store, info)
    except UnreachableError:
        raise
    except StoreError:
        # A damaged index is replaced: that is what the caller asks for. Segments that are whole are found again.
        return None
    # An approximate one of an earlier format has nothing to be measured with.
    measurable = info.type == FLAT or QUERIES in info.trained["checksums"]
    same = measurable and (info.type, info.embeddings, info.fingerprint) == (
        type_,
        embedding.name,
        embedding.fingerprint,
    )
    automatic = isinstance(wanted, Kind) and wanted.name == "auto"
    # What was chosen for few vectors need not be what is chosen for more.
    chosen_anew = automatic and choose_kind(num_rows)[0] != choose_kind(info.rows)[0]
    grown = info.rows > 0 and num_rows <= (1 + MOST_ADDED) * info.learned_rows
    return info if same and grown and not chosen_anew and _same_space(info, wanted) else None


def _divided(
    standing: IndexInfo | None, parts: Sequence[Part], full: int, compact: bool
) -> tuple[list[Segment], list[Part]]:
    """Segments that stay as they are, and the files whose vectors go into new ones.

    Args:
        full: vectors of a segment at the most.
    """
    now = {part.path.name: part for part in parts}
    segments = standing.segments if standing else []
    kept = [each for each in segments if all(_is_there(part, now) for part in each.parts)]
    small = [segment for segment in kept if segment.rows < full / 4]
    if compact or len(small) > MOST_SMALL:
        kept = [segment for segment in kept if segment not in small] if len(small) > 1 else kept
    held = {part["name"] for segment in kept for part in segment.parts}
    return kept, [part for part in parts if part.path.name not in held]


def _is_there(part: dict[str, object], now: dict[str, Part]) -> bool:
    found = now.get(str(part["name"]))
    return found is not None and found.to_json() == part


def _is_same(
    standing: IndexInfo, info: IndexInfo, kept: Sequence[Segment], jobs: Sequence[SegmentJob], recall: float
) -> bool:
    """Whether the live index is what would be built."""
    whole = len(kept) == len(standing.segments) and not jobs and info.sources == standing.sources
    return whole and standing.operating.get("target", recall) == recall


def _same_space(standing: IndexInfo, wanted: Kind | Transform) -> bool:
    """Whether `standing` went through the transform that `wanted` would give over the same vectors."""
    had = standing.transform
    if isinstance(wanted, Transform):
        return had.get("sha256") == wanted.digest
    if is_file(had["asked"]):
        return False
    # What auto asked for may have turned out otherwise (vectors without any spread), and would so again.
    chosen = choose_kind(standing.rows)[0] if wanted.name == "auto" else wanted
    return str(wanted) == had["asked"] or str(chosen) == had["kind"]


class _Count:
    """Adds up vectors that came in, for the caller's progress."""

    def __init__(self, done: int, total: int, progress: Progress | None):
        self._done, self._total, self._progress = done, total, progress

    def __call__(self, rows: int) -> None:
        self._done += rows
        if self._progress is not None:
            self._progress(self._done, self._total)


def _measured(store: Store, info: IndexInfo, transform: Transform, recall: float) -> IndexInfo:
    """With what its recall is measured to be.

    Raises:
        StoreError: sequences stand in it twice, or it does not reach the recall.
    """
    segments = open_segments(store, info, transform)
    _check_rows(store, segments.all_seq_ids)
    if info.type == FLAT or info.rows < 2:
        return info
    try:
        judge = _judge(store, info, segments, transform)
        return replace(info, operating=measure(segments, judge, recall))
    except StoreError as error:
        raise StoreError(f"index type {info.type!r}: {error}") from error


def _judge(store: Store, info: IndexInfo, segments: Segments, transform: Transform) -> Judge:
    """The queries that were put aside for the index, and what was found for them while it was filled.

    Those stand for the vectors that the lists were learned with. If others came, which may be of another kind, queries
    are drawn from all, and everything is read to find their neighbours.
    """
    if info.rows == info.learned_rows:
        return Judge(segments, transform, *measured_with(store, info))
    rows = np.random.default_rng(info.rows).permutation(info.rows)[:SAMPLE]
    return Judge.by_search(segments, transform, np.sort(rows))


def _check_rows(store: Store, seq_ids: np.ndarray) -> None:
    values, counts = np.unique(seq_ids, return_counts=True)
    if (counts > 1).any():
        twice = ", ".join(str(value) for value in values[counts > 1][:5])
        raise StoreError(
            f"{store.root}: sequences embedded twice (seq_id {twice}); run raypipe embed again to mend the parts"
        )
    if len(values) and not 0 <= values[0] <= values[-1] < store.num_sequences:
        raise StoreError(f"{store.root}: embeddings of sequences that the store does not have (seq_id {values[-1]})")


def _publish(store: Store, info: IndexInfo, transform: Transform) -> None:
    """Write the version, make it the live one, and remove what no version needs any more."""
    folder = files.scratch(store.root) / f"index-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
        write_catalog(store, folder)
        if transform.mean is not None:
            save(transform, folder / TRANSFORM)
        checksums = {file.name: checksum(file) for file in sorted(folder.iterdir())}
        files.write_json(folder / INFO, replace(info, checksums=checksums).to_json(), store.root)
        for file in folder.iterdir():
            files.sync(file)
        files.commit(folder, index_folder(store) / info.version)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    versions.publish(index_folder(store), info.version, store.root)
    _remove_unused(store, info)


def _remove_unused(store: Store, live: IndexInfo) -> None:
    """Segments, and what was learned, of versions that are gone and of builds that were given up."""
    needed = [live]
    for version in versions.standing(index_folder(store)):
        try:
            needed += [read_info(store, version)] if version != live.version else []
        except UnreachableError:
            return  # what cannot be read now may be needed; the next build looks again
        except StoreError:
            continue  # the one before the live one, and damaged: nobody can open it
    used = {
        TRAINED: {info.trained["name"] for info in needed},
        SEGMENTS: {segment.name for info in needed for segment in info.segments},
    }
    for kind, names in used.items():
        for folder in (index_folder(store) / kind).glob("*"):
            if folder.name not in names:
                files.remove(folder)
