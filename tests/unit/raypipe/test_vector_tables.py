"""Vectors of nucleotides are written piece by piece, every one in its place."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index import files
from raypipe.vector_tables import BATCH_TOKENS, Vectors, vector_tables
from tests.made import vector_set

MADE = vector_set(dimension=4, dtype="float16", per_token=True)


def made_rows(lengths: list[int]) -> list[Vectors]:
    dice = np.random.default_rng(1)
    return [Vectors(dice.random(4, np.float32), dice.random((length, 4), np.float32)) for length in lengths]


def tokens_of(rows: list[Vectors]) -> pa.RecordBatchReader:
    found = vector_tables(MADE, np.arange(10, 10 + len(rows)), rows)["tokens"]
    assert isinstance(found, pa.RecordBatchReader)
    return found


def test_pieces_hold_whole_sequences(tmp_path: Path) -> None:
    """Also where one alone is longer than a piece."""
    lengths = [5, BATCH_TOKENS - 5, 1, 3 * BATCH_TOKENS, 7, 1]
    rows = made_rows(lengths)
    file = tmp_path / "tokens.parquet"
    files.write_parquet(file, tokens_of(rows), tmp_path, compression="none")
    with pq.ParquetFile(file) as written:
        sizes = [written.metadata.row_group(group).num_rows for group in range(written.metadata.num_row_groups)]
        assert sizes == [2, 1, 3]
        table = written.read()
    assert table["seq_id"].to_pylist() == list(range(10, 16))
    for row, stored in zip(rows, table["values"], strict=True):
        values = np.asarray(stored.values.flatten()).reshape(-1, 4)
        assert row.tokens is not None
        np.testing.assert_array_equal(values, row.tokens.astype(np.float16))


def test_nothing_to_write(tmp_path: Path) -> None:
    files.write_parquet(tmp_path / "tokens.parquet", tokens_of([]), tmp_path)
    assert pq.read_table(tmp_path / "tokens.parquet").num_rows == 0


def test_the_tokens_of_a_shard_are_not_held_twice() -> None:
    rows = made_rows([BATCH_TOKENS // 4] * 80)
    whole = sum(row.tokens.nbytes for row in rows if row.tokens is not None)
    tracemalloc.start()
    pieces = sum(batch.num_rows for batch in tokens_of(rows))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pieces == 80
    assert peak < whole / 4
