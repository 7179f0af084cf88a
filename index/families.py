"""Families: what hangs together in the graph of neighbours by edges of a score.

Two sequences are of one family if a chain of edges, each of that score or more, leads from one to the other (connected
components, or single linkage). Shapes: E edges of a block, n nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa

from index import damage, duck
from index.errors import StoreError
from index.graph import command, open_graph
from index.removals import placed_records
from index.schema import RECORDS
from index.store import Store

SCHEMA = pa.schema(
    [
        RECORDS.field("id"),
        RECORDS.field("seq_id"),
        pa.field("cluster", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Families:
    """The families of all sequences that have a vector, and were not removed.

    Attributes:
        seq_ids: (m,) int64, sorted.
        clusters: (m,) int64, the lowest seq_id of each one's family.
        sizes: (m,) int64, members of each one's family.
        full: sequences whose k neighbours are all of the score, so that the graph may leave out further ones.
    """

    seq_ids: np.ndarray
    clusters: np.ndarray
    sizes: np.ndarray
    full: int

    @property
    def singletons(self) -> int:
        """Sequences that are alone."""
        return int(np.count_nonzero(self.sizes == 1))

    @property
    def count(self) -> int:
        """Families of two sequences or more."""
        return int(np.count_nonzero(self.clusters == self.seq_ids)) - self.singletons

    @property
    def largest(self) -> int:
        """Members of the largest one."""
        return int(self.sizes.max(initial=0))


def find_families(store: Store, min_score: float) -> Families:
    """The families at a score, from the graph of neighbours; memory is that of some numbers for each sequence.

    Raises:
        StoreError: the graph is missing, unfinished, damaged or stale, or holds no edges of so low a score.
    """
    if not -1 <= min_score <= 1:
        raise StoreError(f"a score is a cosine, from -1 to 1, not {min_score}")
    graph = open_graph(store)
    least = graph.info.min_score
    if least is not None and min_score < least:
        lower = command(store, replace(graph.info, min_score=min_score))
        raise StoreError(
            f"{store.root}: the graph of neighbours has no edges below {least}; ask for that or more, or make it anew: "
            f"{lower} --replace"
        )
    full = 0

    def close_edges() -> Iterable[tuple[np.ndarray, np.ndarray]]:
        nonlocal full
        for seq_ids, neighbors, scores, ranks in graph.edges():
            kept = scores >= np.float32(min_score)
            full += int(np.count_nonzero(ranks[kept] == graph.info.k))
            yield seq_ids[kept], neighbors[kept]

    labels = components(close_edges(), graph.info.sequences)
    seq_ids = np.flatnonzero(graph.living)
    clusters = labels[seq_ids]
    sizes = np.bincount(clusters, minlength=len(labels))[clusters]
    return Families(seq_ids, clusters, sizes, full if graph.info.k < len(seq_ids) - 1 else 0)


def components(edges: Iterable[tuple[np.ndarray, np.ndarray]], num_nodes: int) -> np.ndarray:
    """Connected components, of edges that come block by block.

    A union-find whose steps are taken for a whole block at once: every edge hooks the higher of its two roots to the
    lowest that it meets, until no edge joins two roots.

    Args:
        edges: both ends, (E,) each, in any order.
        num_nodes: n; ends are 0 to n - 1.

    Returns:
        (n,) int64, the lowest node of each one's component.
    """
    parent = np.arange(num_nodes)
    since = 0
    for ends in edges:
        one, other = ends
        while len(one):
            one, other = _roots(parent, one), _roots(parent, other)
            apart = one != other
            one, other = one[apart], other[apart]
            np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        # Trees of earlier blocks grow deep where nobody asks for their leaves.
        since += len(ends[0])
        if since >= num_nodes:
            since = 0
            _flatten(parent)
    _flatten(parent)
    return parent


def _roots(parent: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """The root of each of `nodes`, which are then hung up at it directly."""
    while True:
        found = parent[nodes]
        above = parent[found]
        if np.array_equal(above, found):
            return found
        # At once, so that a chain of nodes that are all asked for halves each time.
        parent[nodes] = above


def _flatten(parent: np.ndarray) -> None:
    """Hang every node up at its root."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return
        parent[:] = above


def family_table(store: Store, families: Families) -> pa.Table:
    """A row for each sequence, with its first record that was not removed; the largest families first.

    Raises:
        StoreError: a file of records is damaged.
    """
    if not len(families.seq_ids):
        return SCHEMA.empty_table()
    members = pa.table({"seq_id": families.seq_ids, "cluster": families.clusters, "size": families.sizes})
    with duck.new_connection(reads=store.root) as connection:
        connection.register("members", members)
        try:
            rows = connection.sql(
                f"SELECT id, seq_id, cluster, size FROM members JOIN (SELECT seq_id, arg_min(id, place) AS id FROM "
                f"({placed_records(store)}) GROUP BY seq_id) USING (seq_id) ORDER BY size DESC, cluster, seq_id"
            )
            return duck.run(connection, rows.to_arrow_table)
        except duckdb.Error as error:
            raise StoreError(damage.complaint(store, ["records"], error)) from error
