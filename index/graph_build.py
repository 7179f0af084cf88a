"""Make the graph of nearest neighbours, block by block: a kill costs the block at work, the next run goes on.

Shapes: B sequences of a block, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from index import files
from index.errors import StoreError
from index.exact import NO_HIT
from index.graph import (
    INFO,
    Block,
    GraphInfo,
    command,
    describe,
    finished_blocks,
    folder,
    read_edges,
    read_info,
    staleness,
)
from index.receipts import list_files
from index.removals import removed_sequences
from index.schema import NEIGHBORS, with_footer
from index.store import Store

if TYPE_CHECKING:
    from index.search import Searcher

BATCH = 16_384
# Of one search, so that memory stays small and Ctrl-C is heard.
_QUERIES = 4096
_ANSWERS = 4_000_000


@dataclass(frozen=True)
class GraphPlan:
    """What there is to do.

    Attributes:
        todo: blocks to be made, in order.
        stale: why the graph that stood there counts no more, or "".
        outdated: how many of `todo` are finished but for sequences that were removed since.
    """

    info: GraphInfo
    todo: list[Block]
    stale: str = ""
    outdated: int = 0


@dataclass(frozen=True)
class BlockMade:
    """A block whose file stands.

    Attributes:
        sequences: that were asked for their neighbours.
        edges: that were written.
    """

    block: Block
    sequences: int
    edges: int


def plan_graph(
    store: Store,
    searcher: Searcher,
    *,
    k: int,
    min_score: float | None = None,
    batch: int | None = None,
    replace: bool = False,
) -> GraphPlan:
    """Look at what stands of the graph of the live index. The caller holds `store.lock()`.

    A graph of an earlier index, or of fewer sources, is to be made anew.

    Args:
        searcher: of the live index.
        batch: sequences of a block; if None those of the graph that was begun, else BATCH.
        replace: where a graph of the same index with other options stands, make this one in its place.

    Raises:
        StoreError: a graph with other options stands there, and `replace` is not set; or options that cannot be.
    """
    if k < 1 or (batch is not None and batch < 1):
        raise StoreError(f"k = {k}, batch = {batch}: both must be at least 1")
    if min_score is not None and not -1 <= min_score <= 1:
        raise StoreError(f"a score is a cosine, from -1 to 1, not {min_score}")
    try:
        standing = read_info(store)
    except StoreError:
        standing = None  # damaged, and to be written again
    stale = staleness(store, standing) if standing else ""
    info = describe(store, searcher.info, k, min_score, batch or BATCH)
    if standing and not stale:
        if batch is None:
            info = describe(store, searcher.info, k, min_score, standing.batch)
        if standing != info and not replace:
            began = f"{standing.words} of each sequence, in batches of {standing.batch:,}"
            raise StoreError(
                f"{folder(store)}: holds another graph of this index, {began}; it is made, or gone on with, by: "
                f"{command(store, standing)}; with --replace the new one takes its place"
            )
    footers = finished_blocks(store, info)
    dead = removed_sequences(store)
    outdated = set()
    for block in info.blocks:
        footer = footers.get(block.number)
        if footer is not None and footer.removals != len(store.removals):
            table = read_edges(store, info, block, footer)
            if any(np.isin(table[name].to_numpy(), dead).any() for name in ("seq_id", "neighbor")):
                outdated.add(block.number)
    todo = [block for block in info.blocks if block.number not in footers or block.number in outdated]
    return GraphPlan(info, todo, stale, len(outdated))


def make_graph(store: Store, searcher: Searcher, plan: GraphPlan) -> Iterator[BlockMade]:
    """Make what is to do, block by block, as the caller asks for the next one. The caller holds `store.lock()`.

    Files of another graph, and what is to be made again, are removed first.

    Raises:
        StoreError: a vector cannot be read, or a file cannot be written.
    """
    try:
        _make_room(store, plan)
        living = np.setdiff1d(searcher.seq_ids, removed_sequences(store))
        for block in plan.todo:
            lo, hi = np.searchsorted(living, [block.seq_lo, block.seq_hi])
            edges = _edges(searcher, living[lo:hi], min(plan.info.k, len(living) - 1), plan.info.min_score)
            _write(store, plan.info, block, living[lo:hi], edges)
            yield BlockMade(block, int(hi - lo), edges.num_rows)
    except OSError as error:
        raise StoreError(
            f"{folder(store)}: cannot be written ({error.strerror or error}); mend that and go on with: "
            f"{command(store, plan.info)}"
        ) from error


def _make_room(store: Store, plan: GraphPlan) -> None:
    """Say in graph.json what is being made, and remove the files that are not of it."""
    try:
        known = read_info(store) == plan.info
    except StoreError:
        known = False
    if not known:
        files.write_json(folder(store) / INFO, asdict(plan.info), store.root)
    kept = {block.name for block in plan.info.blocks} - {block.name for block in plan.todo}
    for name in list_files(folder(store)):
        if name.startswith("part-") and name not in kept:
            (folder(store) / name).unlink()


def _edges(searcher: Searcher, seq_ids: np.ndarray, k: int, min_score: float | None) -> pa.Table:
    """The k nearest others of each sequence (B,), as schema.NEIGHBORS has them."""
    tables = [NEIGHBORS.empty_table()]
    step = max(1, min(_QUERIES, _ANSWERS // (k + 1)))
    for start in range(0, len(seq_ids) if k else 0, step):
        asked = seq_ids[start : start + step]
        neighbors, scores = without_self(asked, *searcher.search(searcher.vectors(asked), k + 1))
        kept = neighbors != NO_HIT
        if min_score is not None:
            kept &= scores >= np.float32(min_score)
        lines, ranks = np.nonzero(kept)
        columns = [asked[lines], neighbors[kept], scores[kept], (ranks + 1).astype(np.int32)]
        tables.append(pa.table([pa.array(column) for column in columns], schema=NEIGHBORS))
    return pa.concat_tables(tables).combine_chunks()


def without_self(seq_ids: np.ndarray, found: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours of each sequence from hits that have it itself among them, or not.

    It need not be the first of its hits (another sequence may have the same vector), and an approximate index may miss
    it: then the last hit goes.

    Args:
        seq_ids: (B,). found, scores: (B, k + 1) hits of each.

    Returns:
        neighbours and scores, (B, k).
    """
    dropped = found == seq_ids[:, None]
    dropped[~dropped.any(axis=1), -1] = True
    shape = (len(seq_ids), found.shape[1] - 1)
    return found[~dropped].reshape(shape), scores[~dropped].reshape(shape)


def _write(store: Store, info: GraphInfo, block: Block, seq_ids: np.ndarray, edges: pa.Table) -> None:
    absent = np.setdiff1d(np.arange(block.seq_lo, block.seq_hi), seq_ids, assume_unique=True)
    footer = {
        "fingerprint": info.fingerprint,
        "block": block.number,
        "seq_lo": block.seq_lo,
        "seq_hi": block.seq_hi,
        "rows": edges.num_rows,
        "removals": len(store.removals),
        "absent": absent.tolist(),
    }
    schema = with_footer(NEIGHBORS, footer)
    path = folder(store) / block.name
    files.write_parquet(path, edges, store.root, schema=schema, compression="zstd", write_page_checksum=True)
