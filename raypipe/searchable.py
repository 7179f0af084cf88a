"""How an atlas is asked for a search: the same words for one on this machine, behind a server, and for asyncio."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from raypipe.queries import Queries
from raypipe.searching import Question

Later = TypeVar("Later")
"""What a search is before its answer is there: a `Search`, or an `AsyncSearch`, which is awaited."""


class Searchable(ABC, Generic[Later]):
    """What takes questions."""

    @abstractmethod
    def search_for(self, question: Question) -> Later:
        """The search that answers `question`."""

    def search(
        self,
        sequences: Queries | None = None,
        *,
        ids: Sequence[str] | None = None,
        vectors: np.ndarray | None = None,
        names: Sequence[str] | None = None,
        k: int = 10,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        min_score: float | None = None,
        exact: bool = False,
        recall: float | None = None,
        partial: bool = False,
        itself: bool = True,
        all_annotations: bool = False,
        expand_records: bool = False,
        progress: bool = False,
    ) -> Later:
        """The k nearest distinct sequences of each query.

        Args:
            sequences: one sequence, a list, or a mapping from names to sequences; T or U, either case.
            ids: ids of records in the atlas, searched by their stored vectors; each finds itself first.
            vectors: (Q, D) vectors of the atlas's own model and pooling, as `embed` gives them.
            names: what to call the queries in the answer; by default their ids, or query_1, query_2, ...
            k: hits of each query; fewer only where fewer match.
            where: SQL condition over lengths, descriptions and annotation columns; applied before the search.
            columns: columns of the answer, in order; by default all.
            min_score: hits that score less are left out.
            exact: compare with every stored vector, whatever the type of the index: slow, and sure.
            recall: search as hard as was measured to reach this recall@10; by default the index's own target.
            partial: of an atlas with shards: where one died, answer with what the others find, instead of waiting for a
                new one. The answer's `how` tells what is "missing".
            itself: whether a query by id may be among its own hits.
            all_annotations: annotation columns are lists of all rows of a hit, where else the first row is shown.
            expand_records: a row for each record of a hit, where else the first record stands for all.
            progress: show a bar on standard error where there are many queries.

        Returns:
            A search that is done when its answer is first asked for. Rows by query and rank: query, rank, id, score
            (cosine in the index's own space: `info()` tells its transform), length, description, annotations. Its `how`
            says how it was searched.

        Raises:
            UsageError: not exactly one of sequences, ids and vectors, or k below 1; when the answer is asked for, a
                query that is no RNA.
            AtlasError: when the answer is asked for: no index yet, or older than the embeddings; unknown id, column or
                condition.
            RaypipeError: a shard died, and no new one answers.
        """
        more = all_annotations, expand_records, progress
        return self.search_for(
            Question(
                sequences, ids, vectors, names, k, where, columns, min_score, exact, recall, partial, itself, *more
            )
        )

    def neighbors(
        self, ids: Sequence[str], k: int = 10, where: str | None = None, columns: Sequence[str] | None = None
    ) -> Later:
        """The k nearest other sequences of those of records: `search` by ids without themselves."""
        return self.search(ids=ids, k=k, where=where, columns=columns, itself=False)
