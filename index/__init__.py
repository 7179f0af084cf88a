"""Storage, nearest-neighbour search and annotation of an atlas.

Importing this package is cheap: FAISS, DuckDB and Arrow load at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from index.annotations import TableReport, annotate
    from index.build import build_index
    from index.errors import StaleIndexError, StoreError, StoreLockedError
    from index.filters import matching_sequences
    from index.hits import available_columns, hit_table, resolve_ids
    from index.info import IndexInfo
    from index.search import Searcher
    from index.sql import connect, query
    from index.store import Store

_HOME = {
    "IndexInfo": "info",
    "Searcher": "search",
    "StaleIndexError": "errors",
    "Store": "store",
    "StoreError": "errors",
    "StoreLockedError": "errors",
    "TableReport": "annotations",
    "annotate": "annotations",
    "available_columns": "hits",
    "build_index": "build",
    "connect": "sql",
    "hit_table": "hits",
    "matching_sequences": "filters",
    "query": "sql",
    "resolve_ids": "hits",
}

__all__ = [
    "IndexInfo",
    "Searcher",
    "StaleIndexError",
    "Store",
    "StoreError",
    "StoreLockedError",
    "TableReport",
    "annotate",
    "available_columns",
    "build_index",
    "connect",
    "hit_table",
    "matching_sequences",
    "query",
    "resolve_ids",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
