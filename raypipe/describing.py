"""What an atlas holds, as plain values."""

from __future__ import annotations

from typing import Any

from index import sql
from index.annotation_tables import list_tables
from index.info import current_info
from index.sets import ShardedSet
from index.store import Store
from raypipe.completeness import check_set, check_sources
from raypipe.wording import participle


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
