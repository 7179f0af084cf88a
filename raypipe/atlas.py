"""Ask an atlas on a disk or in an object store from Python: search, SQL, records, vectors, the model.

atlas = raypipe.connect("atlas")
atlas.search("GGUC...", k=10, where="rna_type = 'tRNA'").to_pandas()
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from index import filters, hits, sql
from index.annotation_tables import live_database
from index.errors import UnknownRecordError
from index.info import current_info
from index.search import Searcher
from index.snapshots import Snapshots
from index.sql import Snapshot
from index.store import Embedding, Store
from raypipe.asker import AtlasAsker
from raypipe.bars import bar
from raypipe.describing import describe_atlas
from raypipe.encoders import embed_queries, load_encoder
from raypipe.errors import UsageError
from raypipe.failures import answering
from raypipe.queries import Queries, clean_queries, listed_ids
from raypipe.results import Result
from raypipe.searchable import Searchable
from raypipe.searching import Question, Search

if TYPE_CHECKING:
    from model import Model
    from raypipe.asking_model import Heads
    from raypipe.sharded import ShardedSearcher


FILTERS_KEPT = 16
EMBEDDED_AT_ONCE = 256


class Atlas(Searchable[Search]):
    """An atlas on a disk or in an object store, opened for reading.

    The index, the annotations and the model are loaded when a question first needs them, and stay loaded. With
    `shards` the index is opened by Ray actors; `close`, or a `with` block, ends them. Safe to ask from several threads.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: str | None = None,
        device: str | None = None,
        allow_stale: bool = False,
        shards: int | None = None,
        address: str | None = None,
        gpu: int | None = None,
    ):
        """Open the atlas at `path`.

        Args:
            model: checkpoint for queries; by default the one that made the indexed vectors. Another one is refused.
            device: where queries are embedded; by default CUDA where there is one.
            allow_stale: search an index that is older than the embeddings, instead of an error.
            shards: Ray actors that share out the segments of the index, each with one CPU; by default none.
            address: of the Ray cluster where they run; by default $RAY_ADDRESS, or a Ray of our own on this machine.
            gpu: number of the GPU that FAISS searches on, by copies of the index; by default the CPU searches.

        Raises:
            UsageError: less than one shard, an address without shards, or shards and a GPU.
            AtlasError: no atlas stands there; it is an index.errors.StoreError too, as all that follow.
        """
        if shards is None and address is not None:
            raise UsageError(f"address {address!r} without shards: say how many, or leave it out")
        if shards is not None and shards < 1:
            raise UsageError(f"{shards} shards: must be at least 1")
        if shards is not None and gpu is not None:
            raise UsageError(f"gpu {gpu} with shards: those search on CPUs; leave one of the two out")
        with answering():
            self.store = Store.open(path)
        self._model_name = model
        self._device = device
        self._allow_stale = allow_stale
        self._shards, self._address, self._gpu = shards, address, gpu
        self._leave = ExitStack()
        self._filters: dict[tuple[str, str], Any] = {}
        # Which knows this atlas, but shall not keep it.
        self._snapshots = Snapshots(self.store, partial(_open_snapshot, weakref.proxy(self)))
        weakref.finalize(self, self._snapshots.close)
        self._opening = threading.RLock()
        # Of the model: its passes take all cores anyway, and the memory of one.
        self._computing = threading.RLock()

    def __enter__(self) -> Atlas:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what shards were started; the next question opens the live index again."""
        with self._opening:
            self._loaded.pop("searcher", None)
            self._filters.clear()
            self._leave.close()
        self._snapshots.close()

    @cached_property
    def _loaded(self) -> dict[str, Any]:
        return {}

    @property
    def searcher(self) -> Searcher | ShardedSearcher:
        """The live index."""
        # Looked for without the lock first: nobody shall wait for one who loads the model.
        if (found := self._loaded.get("searcher")) is None:
            with self._opening:
                if (found := self._loaded.get("searcher")) is None:
                    found = self._loaded["searcher"] = self._open_searcher()
        return found

    def _open_searcher(self) -> Searcher | ShardedSearcher:
        with answering():
            if self._shards is None:
                return Searcher.open(self.store, allow_stale=self._allow_stale, gpu=self._gpu)
            from raypipe.sharded import ShardedSearcher

            opened = ShardedSearcher(self.store, self._shards, address=self._address, allow_stale=self._allow_stale)
            return self._leave.enter_context(opened)

    @property
    def model(self) -> Model:
        """The encoder that made the vectors; loads torch."""
        return self._heads.model

    @property
    def _heads(self) -> Heads:
        """The encoder, and what its heads were asked before."""
        if (found := self._loaded.get("heads")) is None:
            with self._computing:
                if (found := self._loaded.get("heads")) is None:
                    from raypipe.asking_model import Heads

                    with answering():
                        embedding, name = self._embedding, self._model_name
                        found = Heads(load_encoder(embedding, name, self._device), embedding, name)
                    self._loaded["heads"] = found
        return found

    @property
    def _embedding(self) -> Embedding:
        """The set of vectors that is indexed; before there is an index, the first one."""
        info = current_info(self.store)
        return self.store.embedding(info.embeddings if info else None)

    def search_for(self, question: Question) -> Search:
        """See `Searchable`."""
        return Search(self._answer, question)

    @answering()
    def _answer(self, question: Question) -> Result:
        # Before the queries are embedded, which is the slow part: a wrong name shall not wait for it.
        hits.check_columns(self.store, question.columns)
        allowed = None if question.where is None else self._allowed(question.where)
        own = None
        if question.ids is not None:
            _, seq_ids = hits.resolve_ids(self.store, list(question.ids), self.searcher.catalog)
            queries = self.searcher.vectors(seq_ids)
            own = None if question.itself else seq_ids
        elif question.vectors is not None:
            queries = question.vectors
        else:
            queries = self._embed_told(clean_queries(question.sequences or [], question.names)[1], question.progress)
        asked: dict[str, Any] = {
            "min_score": question.min_score,
            "exact": question.exact,
            "recall": question.recall,
        }
        if self._shards is not None:  # else nothing can be missing
            asked["partial"] = question.partial
        searcher = self.searcher
        k = min(question.k, max(1, searcher.info.rows))  # there are no more: who asks for a billion wants all
        found = searcher.find(queries, k + (own is not None), allowed=allowed, **asked)
        ids, scores = found.seq_ids, found.scores
        if own is not None:
            ids, scores = without(own, ids, scores)
        shown: dict[str, Any] = {
            "columns": question.columns,
            "all_annotations": question.all_annotations,
            "expand_records": question.expand_records,
        }
        table = hits.hit_table(self.store, searcher, question.names or [], ids, scores, **shown)
        return Result(table, found.how, vectors=self.vectors_of)

    def _embed_told(self, sequences: list[str], shown: bool) -> np.ndarray:
        """(N, D) float32 of clean sequences; where a bar is shown in pieces, so that it moves."""
        if not shown:
            return self.embed(sequences)
        with bar("queries", len(sequences), shown) as advance:
            pieces = []
            for start in range(0, len(sequences), EMBEDDED_AT_ONCE):
                pieces.append(self.embed(sequences[start : start + EMBEDDED_AT_ONCE]))
                advance(len(pieces[-1]))
        return np.concatenate(pieces)

    def _allowed(self, where: str) -> Any:
        """What the searcher makes of a condition; asked again while the annotations are the same it is at hand."""
        searcher = self.searcher
        key = (where.strip(), str(live_database(self.store)))
        made = self._filters.get(key)
        if made is None or made.version != searcher.info.version:
            made = searcher.allow(self._matching(where))
            with self._opening:
                if len(self._filters) >= FILTERS_KEPT:
                    self._filters.pop(next(iter(self._filters)))
                self._filters[key] = made
        return made

    def _matching(self, where: str) -> np.ndarray:
        """The sequences that meet a condition: sorted seq_ids, int64 (n,)."""
        return filters.matching_sequences(self.store, where)

    def vectors_of(self, table: pa.Table) -> np.ndarray:
        """The stored vectors of hits, (N, D) float32, by their column seq_id or id."""
        if "seq_id" in table.column_names:
            return self.vectors(seq_ids=table["seq_id"].to_pylist())
        return self.vectors(table["id"].to_pylist())

    @answering()
    def vectors(self, ids: Sequence[str] | None = None, *, seq_ids: Sequence[int] | None = None) -> np.ndarray:
        """The stored vectors of records, or of sequences: (N, D) float32, in the order asked for.

        Raises:
            UsageError: not exactly one of ids and seq_ids.
            AtlasError: an id is not in the atlas, or several sequences carry it; or there is no index yet.
        """
        if (ids is None) == (seq_ids is None):
            raise UsageError("give exactly one of ids and seq_ids")
        if ids is not None:
            return self.searcher.vectors(hits.resolve_ids(self.store, listed_ids(ids), self.searcher.catalog)[1])
        if not (wanted := [int(number) for number in seq_ids or ()]):
            raise UsageError("no sequence; give at least one seq_id")
        return self.searcher.vectors(np.array(wanted, dtype=np.int64))

    @answering()
    def embed(self, sequences: Queries) -> np.ndarray:
        """(N, D) float32 vectors of `sequences`, made as the atlas's own were.

        Raises:
            UsageError: one is no RNA; the message names it and says why.
        """
        cleaned = clean_queries(sequences)[1]
        heads = self._heads
        with self._computing:
            return embed_queries(heads.model, heads.embedding, cleaned)

    @answering()
    def fill_mask(self, sequences: Queries, top_k: int = 5) -> Result:
        """The likeliest tokens for every <mask> in `sequences`.

        Returns:
            Rows by query and position, best first: query (name), position (of the mask, from 1), token, probability
            (over the whole vocabulary), sequence (with the token in the place of that mask).

        Raises:
            UsageError: top_k below 1, or a sequence without a mask or that is no RNA.
            AtlasError: the atlas's model has no masked-LM head.
        """
        heads = self._heads
        with self._computing:
            return Result(heads.fill_mask(sequences, top_k))

    @answering()
    def predict(self, sequences: Queries, heads: Sequence[str]) -> dict[str, Result]:
        """What heads of the atlas's model say of `sequences`.

        Args:
            heads: the checkpoint's own heads by their kind, or adapters of it by their name or file.

        Returns:
            By head a row for each sequence: query, and the columns that an atlas stores of that kind of head.

        Raises:
            UsageError: no head, or a sequence that is no RNA, or that a head refuses.
            RaypipeError: there is no such head.
        """
        known = self._heads
        with self._computing:
            return {name: Result(table) for name, table in known.predict(sequences, heads).items()}

    @answering()
    def sql(self, query: str, params: Any = None) -> Result:
        """Answer one SELECT over sequences, records, rejects, embeddings, neighbors, predictions and annotation tables.

        Three functions ask the index: search('GGUC', k := 10, filter := 'taxid = 9606') and neighbors('id'), tables
        with rank, seq_id, id, score, length and n_records, and embed(sequence). They load it, and the model, when they
        are called.

        Raises:
            AtlasError: anything else than one reading statement, or what DuckDB or a function complains of.
        """
        return Result(self._snapshots.query(query, params))

    @answering()
    def get(self, ids: Sequence[str]) -> Result:
        """The records of `ids` with their sequences, in the order asked for.

        Raises:
            AtlasError: an id is not in the atlas.
        """
        asked = listed_ids(ids)
        table = sql.query(
            self.store,
            """SELECT r.id, r.description, s.length, s.sequence, s.md5, r.source, r.seq_id
               FROM (SELECT unnest($ids::VARCHAR[]) AS id, unnest(range(len($ids))) AS place) AS q
               JOIN records AS r USING (id) JOIN sequences AS s USING (seq_id) ORDER BY q.place, r.ordinal""",
            {"ids": asked},
        )
        missing = sorted(set(asked) - set(table["id"].to_pylist()))
        if missing:
            raise UnknownRecordError(f"no record called {', '.join(map(repr, missing[:5]))}")
        return Result(table)

    @answering()
    def info(self) -> dict[str, Any]:
        """What the atlas holds, in numbers and names."""
        return describe_atlas(self.store)


def _open_snapshot(atlas: Atlas, store: Store) -> Snapshot:
    return Snapshot(store, AtlasAsker(atlas))


def without(own: np.ndarray, seq_ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hits (Q, k + 1) without each query's own sequence `own` (Q,), or else without the last one: (Q, k)."""
    keep = seq_ids != own[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = (len(seq_ids), seq_ids.shape[1] - 1)
    # A query that is among its hits once; what is no hit, -1, is nobody's own.
    return seq_ids[keep].reshape(shape), scores[keep].reshape(shape)
