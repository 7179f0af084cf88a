"""A map of an atlas: its sequences as points in a plane, near each other where their vectors are, for a browser.

The projection and the neighbours are ours, by the index's own space; what shows them is the embedding-atlas package.

Shapes: n points of the map, K neighbours of each, D values of a vector as stored, E of one as the index compares it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from index import graph
from index.errors import StoreError
from index.exact import NO_HIT
from index.filters import matching_sequences
from index.hits import available_columns, check_columns, hit_table
from index.removals import removed_sequences
from index.search import Searcher
from index.store import Store
from raypipe.errors import RaypipeError, UsageError
from raypipe.mapping_export import check_destination, export
from raypipe.mapping_projection import JUDGED, faithfulness, principal_values, project

MOST = 300_000  # points: they are held in memory, here and in the browser
NEIGHBORS = 15
BLOCK = 8192
SEED = 20_261_122
X, Y, TEXT, NEAR = "__x", "__y", "__text", "__neighbors"
"""Columns of the map that are no data; the page shows none that begins like that."""


@dataclass(frozen=True)
class MapReport:
    """What was drawn.

    Attributes:
        points: on the map, of `candidates` sequences that could have been.
        method: "UMAP" or "PCA".
        neighbors: where they come from, in words.
        kept: share of the nearest neighbours that are among the nearest in the plane too; None for a single point.
        bytes: of the folder.
    """

    points: int
    candidates: int
    method: str
    neighbors: str
    kept: float | None
    bytes: int


def make_map(
    store: Store,
    folder: Path,
    *,
    color: str | None = None,
    where: str | None = None,
    sample: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> MapReport:
    """Write the map of `store` into `folder`, whole or not at all.

    Args:
        color: column of hits by which points are coloured, and a sample is stratified.
        where: SQL condition that sequences must meet.
        sample: so many points at most.
        tell: is told what goes on.

    Raises:
        UsageError: more points than a map can show.
        RaypipeError: the folder holds something else, or cannot be written; or no sequence is left to draw.
        StoreError: no index, or an older one; an unknown column or condition.
    """
    check_destination(folder)
    if sample is not None and not 1 <= sample <= MOST:
        raise UsageError(f"--sample {sample:,}: give 1 to {MOST:,}")
    columns = _columns(store, color)
    searcher = Searcher.open(store)
    candidates = np.setdiff1d(searcher.seq_ids, removed_sequences(store))
    if where is not None:
        candidates = np.intersect1d(candidates, matching_sequences(store, where))
    if not len(candidates):
        raise RaypipeError(f"{store.root}: no sequence to draw" + (f" meets {where!r}; ask for less" if where else ""))
    if sample is None and len(candidates) > MOST:
        raise UsageError(
            f"{len(candidates):,} sequences are more than a map can show ({MOST:,}): give --sample 100000, which is "
            f"drawn evenly from all kinds of --color, or choose some by --where"
        )
    seq_ids = candidates
    if sample is not None and sample < len(candidates):
        seq_ids = candidates[draw(_kinds(store, searcher, candidates, color), sample, np.random.default_rng(SEED))]
        tell(f"{sample:,} of {len(candidates):,} sequences are drawn")
    near, distances, source = neighbors(store, searcher, seq_ids)
    tell(f"{source}; the plane for {len(seq_ids):,} points comes next")
    values = principal_values(lambda: _spaces(searcher, seq_ids), len(seq_ids))
    places, method = project(values, near, distances, SEED)
    kept = faithfulness(places, near)
    table = _table(store, searcher, seq_ids, columns, places, near, distances)
    about = {
        "atlas": Path(str(store.root)).name,
        "index": searcher.info.version,
        "embeddings": searcher.info.embeddings,
        "space": searcher.info.space,
        "points": len(seq_ids),
        "candidates": len(candidates),
        "where": where,
        "color": color,
        "projection": method,
        "neighbors": source,
        "kept": kept,  # of the nearest neighbours
    }
    size = export(folder, table, _settings(columns, check_columns(store, [color])[0] if color else None), about)
    return MapReport(len(seq_ids), len(candidates), method, source, kept, size)


def draw(kinds: np.ndarray, sample: int, generator: np.random.Generator) -> np.ndarray:
    """A stratified sample: half of it is shared out evenly among the kinds, and each has one where that is possible, so
    that rare ones are seen; the rest goes by their sizes.

    Args:
        kinds: (n,) int, from 0.
        sample: below n.

    Returns:
        Places in `kinds`, ascending: (sample,) int64.
    """
    sizes = np.bincount(kinds)
    sizes = sizes[sizes > 0]
    _, numbers = np.unique(kinds, return_inverse=True)
    least = max(1, sample // (2 * len(sizes))) if sample >= len(sizes) else 0
    taken = np.minimum(sizes, least)
    left = sizes - taken
    share = (sample - taken.sum()) * left / left.sum()
    more = np.floor(share).astype(np.int64)
    largest = np.argsort(-(share - more), kind="stable")[: sample - int(taken.sum() + more.sum())]
    more[largest] += 1
    taken = taken + more
    order = generator.permutation(len(kinds))
    order = order[np.argsort(numbers[order], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    within = np.arange(len(kinds)) - np.repeat(starts, sizes)
    return np.sort(order[within < np.repeat(taken, sizes)])


def neighbors(store: Store, searcher: Searcher, seq_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """The nearest of each point among the points, itself left out.

    Args:
        seq_ids: (n,) sorted.

    Returns:
        Places in `seq_ids` (n, K) int64, -1 where there are fewer; 1 - cosine (n, K) float32; and where they are from.
    """
    if (read := _from_graph(store, seq_ids)) is not None:
        return read
    count = min(NEIGHBORS, len(seq_ids) - 1)
    near = np.full((len(seq_ids), count), NO_HIT, dtype=np.int64)
    distances = np.full((len(seq_ids), count), np.nan, dtype=np.float32)
    allowed = searcher.allow(seq_ids)
    for start in range(0, len(seq_ids) if count else 0, BLOCK):
        asked = seq_ids[start : start + BLOCK]
        found = searcher.find(searcher.vectors(asked), count + 1, allowed=allowed)
        # Itself goes last, or what an approximate search found too much.
        last = found.seq_ids == asked[:, None]
        order = np.argsort(last, axis=1, kind="stable")[:, :count]
        ids, scores = (np.take_along_axis(values, order, axis=1) for values in (found.seq_ids, found.scores))
        lines = slice(start, start + len(asked))
        missing = (ids == NO_HIT) | (ids == asked[:, None])
        near[lines] = np.where(missing, NO_HIT, np.searchsorted(seq_ids, ids))
        distances[lines] = np.where(missing, np.nan, 1 - scores)
    return near, distances, f"neighbours: the {count} nearest among the points, by index {searcher.info.version}"


def _from_graph(store: Store, seq_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, str] | None:
    """As `neighbors`, if there is a graph of just these points that has all neighbours that are needed."""
    try:
        known = graph.open_graph(store)
        enough = known.info.k >= JUDGED and known.info.min_score is None
        if not enough or not np.array_equal(np.flatnonzero(known.living), seq_ids):
            return None
        count = min(known.info.k, len(seq_ids) - 1)
        near = np.full((len(seq_ids), count), NO_HIT, dtype=np.int64)
        distances = np.full((len(seq_ids), count), np.nan, dtype=np.float32)
        for ids, others, scores, ranks in known.edges():
            lines = np.searchsorted(seq_ids, ids)
            near[lines, ranks - 1] = np.searchsorted(seq_ids, others)
            distances[lines, ranks - 1] = 1 - scores
    except StoreError:  # none, not of the live index or damaged: they can be searched as well
        return None
    return near, distances, f"neighbours: {known.info.words} of the graph by raypipe neighbors"


def _spaces(searcher: Searcher, seq_ids: np.ndarray) -> Any:
    """Vectors (m, E) as the index compares them, block by block."""
    for start in range(0, len(seq_ids), BLOCK):
        asked = seq_ids[start : start + BLOCK]
        yield searcher.transform.apply(searcher.vectors(asked), asked, "seq_id")


def _columns(store: Store, color: str | None) -> list[str]:
    """What the map tells of a point: what hits show, and the colour."""
    default = [name for name in check_columns(store, None) if name not in ("query", "rank", "score")]
    if color is None:
        return default
    (spelled,) = check_columns(store, [color])
    if spelled in ("query", "rank", "score"):
        known = [name for name in available_columns(store) if name not in ("query", "rank", "score")]
        raise UsageError(f"--color {color}: points are no hits and have none; there are: {', '.join(known)}")
    return default if spelled in default else [*default, spelled]


def _look_up(store: Store, searcher: Searcher, seq_ids: np.ndarray, columns: Sequence[str]) -> pa.Table:
    blocks = [seq_ids[start : start + 16 * BLOCK] for start in range(0, len(seq_ids), 16 * BLOCK)]
    nothing = [np.zeros((1, len(block)), dtype=np.float32) for block in blocks]
    tables = [
        hit_table(store, searcher, [""], block[None], scores, columns=columns)
        for block, scores in zip(blocks, nothing, strict=True)
    ]
    return pa.concat_tables(tables)


def _kinds(store: Store, searcher: Searcher, seq_ids: np.ndarray, color: str | None) -> np.ndarray:
    """(n,) int64: which value of the colour a sequence has, by number; 0 for all where there is no colour."""
    if color is None:
        return np.zeros(len(seq_ids), dtype=np.int64)
    column = _look_up(store, searcher, seq_ids, [color]).column(0)
    coded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return np.asarray(coded.indices, dtype=np.int64)


def _table(
    store: Store,
    searcher: Searcher,
    seq_ids: np.ndarray,
    columns: Sequence[str],
    places: np.ndarray,
    near: np.ndarray,
    distances: np.ndarray,
) -> pa.Table:
    table = _look_up(store, searcher, seq_ids, columns)
    told = zip(table["id"].to_pylist(), table["description"].to_pylist(), strict=True)
    known = near != NO_HIT
    ends = pa.array(np.append(0, known.sum(axis=1).cumsum()), pa.int32())
    lists = [pa.ListArray.from_arrays(ends, pa.array(values[known])) for values in (near, distances)]
    struct = pa.StructArray.from_arrays(lists, names=["ids", "distances"])
    table = table.append_column(TEXT, pa.array([" ".join(filter(None, pair)) for pair in told], pa.string()))
    for name, values in ((X, places[:, 0]), (Y, places[:, 1])):
        table = table.append_column(name, pa.array(values.astype(np.float32)))
    return table.append_column(NEAR, struct)


def _settings(columns: Sequence[str], color: str | None) -> dict[str, Any]:
    """What the page is told: which column is what, and by which it colours at first."""
    roles = {"x": X, "y": Y, "text": TEXT, "neighbors": NEAR}
    view = {"title": "Sequences", "data": {**roles, "category": color}}
    return {"roles": roles, "color": color, "charts": {"embedding": view, "exclude": ["id", "description", "seq_id"]}}
