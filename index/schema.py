"""Arrow schemas of every table of a store: the contract that ingest, actors, index and SQL share.

The folders and their meaning are drawn in `index/store.py`.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

FORMAT_VERSION = 1
FOOTER_KEY = b"raypipe"

SEQUENCES = pa.schema(
    [
        pa.field("seq_id", pa.int64(), nullable=False),
        pa.field("md5", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("sequence", pa.string(), nullable=False),
    ]
)
RECORDS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("seq_id", pa.int64(), nullable=False),
    ]
)
REJECTS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("seq_id", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)

VECTOR_TYPES = {"float16": pa.float16(), "float32": pa.float32()}


def vector_type(dimension: int, dtype: str) -> pa.FixedSizeListType:
    """Type of one stored vector: FixedSizeList of `dimension` halffloats or floats.

    Raises:
        ValueError: `dtype` is neither "float16" nor "float32".
    """
    if dtype not in VECTOR_TYPES:
        raise ValueError(f"vectors are stored as float16 or float32, not {dtype!r}")
    return pa.list_(pa.field("element", VECTOR_TYPES[dtype], nullable=False), dimension)


def embeddings_schema(dimension: int, dtype: str) -> pa.Schema:
    """One pooled vector per distinct sequence."""
    vector = pa.field("embedding", vector_type(dimension, dtype), nullable=False)
    return pa.schema([SEQUENCES.field("seq_id"), vector])


def tokens_schema(dimension: int, dtype: str) -> pa.Schema:
    """One row of `dimension` values per nucleotide, special tokens excluded."""
    values = pa.list_(pa.field("element", vector_type(dimension, dtype), nullable=False))
    return pa.schema([SEQUENCES.field("seq_id"), pa.field("values", values, nullable=False)])


def with_footer(schema: pa.Schema, footer: dict[str, Any]) -> pa.Schema:
    """`schema` carrying `footer` as JSON in the Parquet key-value metadata."""
    return schema.with_metadata({**(schema.metadata or {}), FOOTER_KEY: json.dumps(footer, sort_keys=True)})


def read_footer(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """The footer that `with_footer` wrote, or {} where there is none."""
    raw = (metadata or {}).get(FOOTER_KEY)
    return json.loads(raw) if raw else {}
