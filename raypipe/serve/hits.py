"""Searches of many requests as one: by ids of records, or by vectors.

Shapes: Q queries, D values of a vector as the model gives it, k hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from index import hits
from index.catalog import take_living
from index.exact import NO_HIT
from raypipe.atlas import without
from raypipe.serve.answers import columns_of
from raypipe.serve.faults import Refusal
from raypipe.serve.live import Snapshot

# Of a table of hits in memory: annotations as lists of all their rows may be of any size.
LARGEST = 256 << 20
FEWER = "ask for fewer hits, fewer queries or fewer columns"


@dataclass(frozen=True)
class Asked:
    """What searches have to have in common to be done together."""

    k: int
    where: str | None
    columns: tuple[str, ...] | None
    min_score: float | None
    exact: bool
    recall: float | None
    partial: bool
    itself: bool = True
    all_annotations: bool = False
    expand_records: bool = False


class Hits:
    """The hits of a batch of queries: slices are those of some of its queries.

    Attributes:
        table: of all hits, by query and rank.
        how: how it was searched.
    """

    def __init__(self, table: pa.Table, counts: np.ndarray, how: dict[str, Any]):
        """
        Args:
            counts: (Q,) hits of each query.
        """
        self.table, self.how = table, how
        self._ends = np.concatenate([[0], np.cumsum(counts)]).tolist()

    def __getitem__(self, queries: slice) -> Part:
        return Part(self, self._ends[queries.start], self._ends[queries.stop])

    @cached_property
    def columns(self) -> list[list[Any]]:
        """The table as Python values."""
        return columns_of(self.table)


@dataclass(frozen=True)
class Part:
    """The hits of some queries of a batch that stand together."""

    of: Hits
    start: int
    stop: int

    def table(self) -> pa.Table:
        """As Arrow."""
        return self.of.table.slice(self.start, self.stop - self.start)

    def rows(self) -> list[dict[str, Any]]:
        """As dictionaries."""
        names = self.of.table.column_names
        columns = [column[self.start : self.stop] for column in self.of.columns]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def search_ids(snapshot: Snapshot, asked: Asked, queries: Sequence[tuple[str, str]]) -> Hits:
    """Search by (label, id of a record)."""
    atlas = snapshot.atlas
    _, seq_ids = hits.resolve_ids(atlas.store, [record for _, record in queries], atlas.searcher.catalog)
    labels, own = [label for label, _ in queries], None if asked.itself else seq_ids
    return _found(snapshot, asked, labels, atlas.searcher.vectors(seq_ids), own)


def search_vectors(snapshot: Snapshot, asked: Asked, queries: Sequence[tuple[str, np.ndarray]]) -> Hits:
    """Search by (label, vector (D,) float32)."""
    return _found(snapshot, asked, [label for label, _ in queries], np.stack([vector for _, vector in queries]))


def _found(
    snapshot: Snapshot, asked: Asked, labels: list[str], vectors: np.ndarray, own: np.ndarray | None = None
) -> Hits:
    atlas, columns = snapshot.atlas, None if asked.columns is None else list(asked.columns)
    searcher = atlas.searcher
    options: dict[str, Any] = {"min_score": asked.min_score, "exact": asked.exact, "recall": asked.recall}
    if atlas.sharded:
        options["partial"] = asked.partial
    allowed = None if asked.where is None else atlas.allowed(asked.where)
    found = searcher.find(vectors, asked.k + (own is not None), allowed=allowed, **options)
    seq_ids, scores = found.seq_ids, found.scores
    if own is not None:
        seq_ids, scores = without(own, seq_ids, scores)
    if asked.expand_records:
        listed = take_living(atlas.store, searcher.catalog, seq_ids[seq_ids != NO_HIT], ["n_records"])
        if (rows := int(listed["n_records"].to_numpy().sum())) > atlas.most_rows:
            raise Refusal("too_large", f"the hits have {rows:,} records; this server lists {atlas.most_rows:,}", FEWER)
    more = {"all_annotations": asked.all_annotations, "expand_records": asked.expand_records}
    table = hits.hit_table(atlas.store, searcher, labels, seq_ids, scores, columns=columns, **more)
    if table.nbytes > LARGEST:
        raise Refusal("too_large", f"hits of {table.nbytes:,} bytes; this server gives {LARGEST:,}", FEWER)
    counts = np.count_nonzero(seq_ids != NO_HIT, axis=1)
    if asked.expand_records:  # all are of one request, so it does not matter whose they are
        counts = np.array([table.num_rows] + [0] * (len(labels) - 1))
    return Hits(table, counts, found.how)
