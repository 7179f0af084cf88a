"""Ask an atlas from Python: search, SQL, records, vectors.

atlas = raypipe.connect("atlas")
atlas.search("GGUC...", k=10, where="rna_type = 'tRNA'").to_pandas()
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from index import filters, hits, sql
from index.annotation_tables import list_tables, live_database
from index.errors import StoreError
from index.info import current_info
from index.search import Searcher
from index.sets import ShardedSet
from index.store import Embedding, Store
from raypipe.cleaning import clean
from raypipe.completeness import check_set, check_sources
from raypipe.errors import RaypipeError, UsageError
from raypipe.wording import participle

if TYPE_CHECKING:
    from model import Model
    from raypipe.sharded import ShardedSearcher


FILTERS_KEPT = 16


class Result:
    """A table of answers.

    Attributes:
        how: of a search, how it was done: see `index.search.Found`.
    """

    def __init__(self, table: pa.Table, how: dict[str, Any] | None = None):
        self._table = table
        self.how = how

    def to_arrow(self) -> pa.Table:
        """As an Arrow table, without a copy."""
        return self._table

    def to_pandas(self) -> Any:
        """As a pandas DataFrame.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        return self._table.to_pandas()

    def to_pylist(self) -> list[dict[str, Any]]:
        """As a list of dictionaries, one a row."""
        return self._table.to_pylist()

    def __len__(self) -> int:
        return self._table.num_rows

    def __repr__(self) -> str:
        return f"Result({self._table.num_rows} rows: {', '.join(self._table.column_names)})"


class Atlas:
    """An atlas on a disk or in an object store, opened for reading.

    The index, the annotations and the model are loaded when a question first needs them, and stay loaded. With
    `shards` the index is opened by Ray actors; `close`, or a `with` block, ends them.
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
    ):
        """Open the atlas at `path`.

        Args:
            model: checkpoint for queries; by default the one that made the indexed vectors. Another one is refused.
            device: where queries are embedded; by default CUDA where there is one.
            allow_stale: search an index that is older than the embeddings, instead of an error.
            shards: Ray actors that share out the segments of the index, each with one CPU; by default none.
            address: of the Ray cluster where they run; by default $RAY_ADDRESS, or a Ray of our own on this machine.

        Raises:
            UsageError: less than one shard, or an address without shards.
            index.errors.StoreError: no atlas stands there.
        """
        if shards is None and address is not None:
            raise UsageError(f"address {address!r} without shards: say how many, or leave it out")
        if shards is not None and shards < 1:
            raise UsageError(f"{shards} shards: must be at least 1")
        self.store = Store.open(path)
        self._model_name = model
        self._device = device
        self._allow_stale = allow_stale
        self._shards, self._address = shards, address
        self._leave = ExitStack()
        self._filters: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> Atlas:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what shards were started; the next question opens the live index again."""
        self.__dict__.pop("searcher", None)
        self._filters.clear()
        self._leave.close()

    @cached_property
    def searcher(self) -> Searcher | ShardedSearcher:
        """The live index."""
        if self._shards is None:
            return Searcher.open(self.store, allow_stale=self._allow_stale)
        from raypipe.sharded import ShardedSearcher

        opened = ShardedSearcher(self.store, self._shards, address=self._address, allow_stale=self._allow_stale)
        return self._leave.enter_context(opened)

    @cached_property
    def model(self) -> Model:
        """The encoder that made the vectors; loads torch."""
        return load_encoder(self._embedding, self._model_name, self._device)

    @property
    def _embedding(self) -> Embedding:
        """The set of vectors that is indexed; before there is an index, the first one."""
        info = current_info(self.store)
        return self.store.embedding(info.embeddings if info else None)

    def search(
        self,
        sequences: str | Sequence[str] | Mapping[str, str] | None = None,
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
    ) -> Result:
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

        Returns:
            Rows by query and rank: query, rank, id, score (cosine in the index's own space: `info()` tells its
            transform), length, description, annotations. Its `how` says how it was searched.

        Raises:
            UsageError: not exactly one of sequences, ids and vectors, or k below 1, or a query that is no RNA.
            RaypipeError: a shard died, and no new one answers.
            index.errors.StoreError: no index yet, or older than the embeddings; unknown id, column or condition.
        """
        if sum(kind is not None for kind in (sequences, ids, vectors)) != 1:
            raise UsageError("give exactly one of sequences, ids and vectors")
        if k < 1:
            raise UsageError(f"k is {k}; ask for at least one hit")
        chosen = list(columns) if columns is not None else None
        # Before the queries are embedded, which is the slow part: a wrong name shall not wait for it.
        hits.check_columns(self.store, chosen)
        allowed = None if where is None else self._allowed(where)
        if ids is not None:
            labels, seq_ids = hits.resolve_ids(self.store, list(ids))
            queries = self.searcher.vectors(seq_ids)
        elif vectors is not None:
            queries = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
            labels = [f"query_{number}" for number in range(1, len(queries) + 1)]
        else:
            labels, cleaned = clean_queries(sequences or [], names)
            queries = self.embed(cleaned)
        labels = list(names) if names is not None else labels
        if len(labels) != len(queries):
            raise UsageError(f"{len(labels)} names for {len(queries)} queries; give one for each")
        asked: dict[str, Any] = {"min_score": min_score, "exact": exact, "recall": recall}
        if self._shards is not None:  # else nothing can be missing
            asked["partial"] = partial
        found = self.searcher.find(queries, k, allowed=allowed, **asked)
        table = hits.hit_table(self.store, self.searcher, labels, found.seq_ids, found.scores, columns=chosen)
        return Result(table, found.how)

    def _allowed(self, where: str) -> Any:
        """What the searcher makes of a condition; asked again while the annotations are the same it is at hand."""
        key = (where.strip(), str(live_database(self.store)))
        made = self._filters.get(key)
        if made is None:
            made = self.searcher.allow(filters.matching_sequences(self.store, where))
            if len(self._filters) >= FILTERS_KEPT:
                self._filters.pop(next(iter(self._filters)))
            self._filters[key] = made
        return made

    def embed(self, sequences: str | Sequence[str]) -> np.ndarray:
        """(N, D) float32 vectors of `sequences`, made as the atlas's own were."""
        listed = [sequences] if isinstance(sequences, str) else list(sequences)
        return embed_queries(self.model, self._embedding, listed)

    def sql(self, query: str, params: Any = None) -> Result:
        """Answer one SELECT over sequences, records, rejects, embeddings and the annotation tables."""
        return Result(sql.query(self.store, query, params))

    def get(self, ids: Sequence[str]) -> Result:
        """The records of `ids` with their sequences, in the order asked for.

        Raises:
            index.errors.StoreError: an id is not in the atlas.
        """
        asked = list(ids)
        table = sql.query(
            self.store,
            """SELECT r.id, r.description, s.length, s.sequence, s.md5, r.source, r.seq_id
               FROM (SELECT unnest($ids) AS id, unnest(range(len($ids))) AS place) AS q
               JOIN records AS r USING (id) JOIN sequences AS s USING (seq_id) ORDER BY q.place, r.ordinal""",
            {"ids": asked},
        )
        missing = sorted(set(asked) - set(table["id"].to_pylist()))
        if missing:
            raise StoreError(f"{self.store.root}: no record called {', '.join(map(repr, missing[:5]))}")
        return Result(table)

    def info(self) -> dict[str, Any]:
        """What the atlas holds, in numbers and names."""
        return describe_atlas(self.store)


def clean_queries(
    sequences: str | Sequence[str] | Mapping[str, str], names: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """Names and canonical letters of queries; unnamed ones are called query_1, query_2, ...

    Raises:
        UsageError: there is none, or one is no RNA; the message names it and says why.
    """
    if isinstance(sequences, Mapping):
        names, sequences = list(sequences), list(sequences.values())
    listed = [sequences] if isinstance(sequences, str) else list(sequences)
    labels = list(names) if names is not None else [f"query_{number}" for number in range(1, len(listed) + 1)]
    if not listed:
        raise UsageError("no query; give a sequence, a FASTA file or --ids")
    if len(labels) != len(listed):
        raise UsageError(f"{len(labels)} names for {len(listed)} queries; give one for each")
    cleaned = []
    for label, sequence in zip(labels, listed, strict=True):
        canonical, reason = clean(sequence.strip())
        if reason is not None:
            shown = sequence if len(sequence) <= 30 else sequence[:30] + "..."
            raise UsageError(f"{label} ({shown!r}): {reason}")
        cleaned.append(canonical.decode("ascii"))
    return labels, cleaned


def load_encoder(embedding: Embedding, model: str | None = None, device: str | None = None) -> Model:
    """Load the model that made `embedding`.

    Raises:
        StoreError: `model`, or the files where it was loaded from, are another model now.
    """
    from model import ModelError, load
    from raypipe.checkpoints import find_checkpoint

    if device is None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        checkpoint = find_checkpoint(model or embedding.model)
    except (RaypipeError, ModelError) as error:
        if model is not None:
            raise
        raise StoreError(
            f"the vectors {embedding.name!r} were made by {embedding.model}, which cannot be had now ({error}); "
            f"give its present place with --model"
        ) from error
    if checkpoint.fingerprint != embedding.model_fingerprint:
        raise StoreError(
            f"the vectors {embedding.name!r} were made by another model than {model or embedding.model} "
            f"(fingerprint {embedding.model_fingerprint[:12]}, here {checkpoint.fingerprint[:12]}); vectors of "
            f"different models cannot be compared: give that model with --model, or embed anew under another --name"
        )
    return load(checkpoint.path, device=device, dtype="float32" if device == "cpu" else embedding.settings["dtype"])


def embed_queries(encoder: Model, embedding: Embedding, sequences: list[str]) -> np.ndarray:
    """(N, D) float32, by the layer, pooling and policy for long sequences of `embedding`.

    Raises:
        UsageError: a query is longer than the model's context, where the atlas refused such sequences too.
    """
    context = encoder.config.context
    if embedding.on_long == "reject" and (longest := max(map(len, sequences), default=0)) > context:
        raise UsageError(
            f"a query has {longest} nt; the vectors {embedding.name!r} were made with --on-long reject, so queries "
            f"over {context} nt are refused too: search with a part of it, or embed the atlas with --on-long window"
        )
    long = "truncate" if embedding.on_long == "truncate" else "window"
    features = encoder.features(sequences, pooling=embedding.pooling, layer=embedding.layer, long=long)
    return features.embeddings


def describe_atlas(store: Store) -> dict[str, Any]:
    """The content of a store as plain values."""
    counted = sql.query(store, "SELECT coalesce(sum(length), 0) AS n, coalesce(max(length), 0) AS m FROM sequences")
    nucleotides, longest = (int(counted[name][0].as_py()) for name in ("n", "m"))
    missing = check_sources(store)
    return {
        "path": str(store.root),
        "sources": [{"path": s.path, "records": s.records, "rejected": s.rejected} for s in store.sources],
        "records": store.num_records,
        "rejected": sum(source.rejected for source in store.sources),
        "removed": store.num_removed,
        "sequences": store.num_sequences,
        "nucleotides": nucleotides,
        "longest": longest,
        "embeddings": [
            {
                "name": e.name,
                "model": e.model,
                "dimension": e.dimension,
                "pooling": e.pooling,
                "layer": e.layer,
                "dtype": e.dtype,
                **_state(store, e, missing),
            }
            for e in store.embeddings.values()
        ],
        "predictions": [
            {
                "name": p.name,
                "model": p.model,
                "task": p.task,
                "problem": p.problem,
                "head": p.head,
                "labels": [] if p.task == "logits" else p.labels,
                "threshold": p.threshold,
                "method": p.method,
                **_state(store, p, missing),
            }
            for p in store.predictions.values()
        ],
        "index": _index_summary(store),
        "annotations": {table.name: table.columns for table in list_tables(store)},
    }


def _state(store: Store, made: ShardedSet, missing: list[str]) -> dict[str, Any]:
    state = check_set(store, made)
    return {participle(made): state.made, "failed": state.failed, "missing": [*missing, *state.messages]}


def _index_summary(store: Store) -> dict[str, Any] | None:
    info = current_info(store)
    if info is None:
        return None
    return {
        "version": info.version,
        "type": info.type,
        "rows": info.rows,
        "embeddings": info.embeddings,
        "space": info.space,
        "transform": info.transform,
    }
