"""Vectors as Arrow tables: what a shard's files of a set of vectors hold.

Legend: L nucleotides of one sequence, D values per vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from index.schema import VECTOR_TYPES, embeddings_schema, tokens_schema, vector_type
from index.sets import Embedding

# Nucleotides of a row group of tokens/: some 40 MB of 1280 halves.
BATCH_TOKENS = 16_384


class Vectors(NamedTuple):
    """What a set of vectors holds of one sequence.

    Attributes:
        embedding: (D,) float32.
        tokens: (L, D) float32; None unless the set stores them.
    """

    embedding: np.ndarray
    tokens: np.ndarray | None


def refuse_vectors(made: Embedding, row: Vectors) -> str | None:
    """Why a sequence's vectors cannot be stored; None where they can."""
    limit = np.finfo(made.dtype).max
    values = [row.embedding] if row.tokens is None else [row.embedding, row.tokens]
    # Written so that NaN fails too.
    if all((np.abs(value) <= limit).all() for value in values):
        return None
    return f"its values do not fit {made.dtype} (beyond {limit:.3g}, or not finite)"


def vector_tables(
    made: Embedding, seq_ids: np.ndarray, rows: Sequence[Vectors]
) -> dict[str, pa.Table | pa.RecordBatchReader]:
    """The table of each of the set's folders; that of nucleotides piece by piece, as it is read.

    Args:
        seq_ids: (N,) int64.
        rows: N of them, in the same order.
    """
    ids = pa.array(seq_ids, pa.int64())
    vectors = np.stack([row.embedding for row in rows]) if rows else np.zeros((0, made.dimension), np.float32)
    schema = embeddings_schema(made.dimension, made.dtype)
    pooled = pa.table([ids, vector_array(vectors, made.dtype)], schema=schema)
    if not made.per_token:
        return {"embeddings": pooled}
    schema = tokens_schema(made.dimension, made.dtype)
    tokens = pa.RecordBatchReader.from_batches(schema, _token_batches(made, schema, seq_ids, rows))
    return {"embeddings": pooled, "tokens": tokens}


def _token_batches(
    made: Embedding, schema: pa.Schema, seq_ids: np.ndarray, rows: Sequence[Vectors]
) -> Iterator[pa.RecordBatch]:
    """Vectors of nucleotides as they are stored. They are the most that a shard holds, so no second copy is made of
    all of them."""
    values = [row.tokens for row in rows if row.tokens is not None]
    lengths = np.array([len(value) for value in values], np.int64)
    piece = (np.cumsum(lengths) - 1) // BATCH_TOKENS
    edges = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), len(values)]
    for first, last in pairwise(edges if values else []):
        stacked = vector_array(np.concatenate(values[first:last]), made.dtype)
        lists = list_array(stacked, lengths[first:last], schema.field(1).type)
        yield pa.record_batch([pa.array(seq_ids[first:last], pa.int64()), lists], schema=schema)


def vector_array(vectors: np.ndarray, dtype: str) -> pa.FixedSizeListArray:
    """(N, D) values as one column of vectors."""
    flat = pa.array(vectors.astype(dtype).reshape(-1), VECTOR_TYPES[dtype])
    return pa.FixedSizeListArray.from_arrays(flat, type=vector_type(vectors.shape[1], dtype))


def list_array(values: pa.Array, lengths: Sequence[int] | np.ndarray, type: pa.DataType) -> pa.ListArray:
    """Consecutive `values` as lists of these lengths."""
    offsets = np.cumsum([0, *lengths])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=type)
