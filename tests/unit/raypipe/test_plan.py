"""The plan: every sequence in one shard, shards of the size asked for, extended but never changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.schema import SEQUENCES, embeddings_schema, with_footer
from index.store import Embedding, OnLong, Source, Store
from model.config import AidoRnaConfig
from raypipe.plan import (
    MAX_PER_TOKEN_SHARD_TOKENS,
    MAX_SHARD_TOKENS,
    MIN_SHARD_TOKENS,
    Shard,
    default_shard_tokens,
    make_plan,
    read_plan,
    sequence_tokens,
    shard_footer,
    unfinished,
)

CONTEXT = 10


def _embedding(shard_tokens: int, on_long: OnLong = "window", *, per_token: bool = False) -> Embedding:
    return Embedding("e", "f" * 64, "m", "m", "m" * 64, 2, "float32", "mean", 1, on_long, per_token, shard_tokens)


@pytest.fixture
def grow(tmp_path: Path) -> Callable[[list[int]], Store]:
    """Adds sequences of these lengths to one store, in this order, as one ingested source."""
    store = Store.open_or_create(tmp_path / "atlas")

    def add(lengths: list[int]) -> Store:
        number, first = len(store.sources), store.num_sequences
        rows = [
            {"seq_id": first + place, "md5": hashlib.md5(str(first + place).encode()).hexdigest(), "length": length}
            for place, length in enumerate(lengths)
        ]
        table = pa.Table.from_pylist([{**row, "sequence": "A" * row["length"]} for row in rows], schema=SEQUENCES)
        file = store.root / "sequences" / f"part-{number:05d}-00000.parquet"
        file.parent.mkdir(exist_ok=True)
        pq.write_table(table, file)
        store.add_source(Source(f"{number}", f"{number}", number, len(lengths), 0, first, first + len(lengths)))
        return store

    return add


@pytest.mark.parametrize(
    ("on_long", "tokens"),
    [
        # 25 nt in windows of 10 with stride 5: 0-10, 5-15, 10-20, 15-25.
        ("window", [3, 12, 3 * 12, 4 * 12]),
        ("truncate", [3, 12, 12, 12]),
        ("reject", [3, 12, 0, 0]),
    ],
)
def test_tokens_count_specials_and_windows(grow: Callable, on_long: str, tokens: list[int]) -> None:
    store = grow([1, 10, 20, 25])
    assert sequence_tokens(store, 0, CONTEXT, on_long).tolist() == tokens
    assert sequence_tokens(store, 2, CONTEXT, on_long).tolist() == tokens[2:]


def test_an_empty_store_has_no_tokens(grow: Callable) -> None:
    assert sequence_tokens(grow([]), 0, CONTEXT, "window").tolist() == []


@pytest.mark.parametrize("shard_tokens", [1, 12, 13, 30, 1000])
def test_shards_cover_every_sequence_once(grow: Callable, shard_tokens: int) -> None:
    lengths = [1, 2, 3, 5, 8, 10, 10, 9, 1]
    store = grow(lengths)
    shards = make_plan(store, _embedding(shard_tokens), CONTEXT)
    assert [shard.seq_lo for shard in shards] == [0, *(shard.seq_hi for shard in shards[:-1])]
    assert shards[-1].seq_hi == len(lengths)
    tokens = np.array(lengths) + 2
    for shard in shards:
        assert shard.tokens == tokens[shard.seq_lo : shard.seq_hi].sum()
        assert shard.tokens <= shard_tokens or shard.num_sequences == 1
        if shard.seq_hi < len(lengths):
            assert shard.tokens + tokens[shard.seq_hi] > shard_tokens
    assert read_plan(store, "e") == shards
    assert [shard.number for shard in shards] == list(range(len(shards)))


def test_rejected_sequences_stay_in_a_shard(grow: Callable) -> None:
    """They cost nothing, but the actor that reads them must write them into rejects/."""
    shards = make_plan(grow([5, 20, 25]), _embedding(7, "reject"), CONTEXT)
    assert sum(shard.num_sequences for shard in shards) == 3


def test_a_plan_is_extended_and_never_changed(grow: Callable) -> None:
    store, embedding = grow([1, 2, 3]), _embedding(6)
    first = make_plan(store, embedding, CONTEXT)
    assert make_plan(store, embedding, CONTEXT) == first
    grow([1, 1])
    second = make_plan(store, embedding, CONTEXT)
    assert second[: len(first)] == first
    assert [(shard.seq_lo, shard.seq_hi) for shard in second[len(first) :]] == [(3, 5)]


def _write(store: Store, embedding: Embedding, shard: Shard, /, kind: str = "embeddings", **changes: Any) -> Path:
    schema = embeddings_schema(embedding.dimension, embedding.dtype)
    rows = shard.num_sequences
    footer = {**shard_footer(embedding, shard, rows, 0), **changes}
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(2 * rows, np.float32)), type=schema.field(1).type)
    ids = pa.array(range(shard.seq_lo, shard.seq_hi), pa.int64())
    file = store.root / kind / embedding.name / shard.file_name
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table([ids, vectors], schema=with_footer(schema, footer)), file)
    return file


def test_finished_is_a_file_whose_footer_fits(grow: Callable) -> None:
    store, embedding = grow([1, 2, 3]), _embedding(5)
    shards = make_plan(store, embedding, CONTEXT)
    assert unfinished(store, embedding, shards) == shards
    files = [_write(store, embedding, shard) for shard in shards]
    assert unfinished(store, embedding, shards) == []
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-10])
    _write(store, embedding, shards[2], fingerprint="other")
    assert unfinished(store, embedding, shards) == shards


@pytest.mark.parametrize("changes", [{"seq_lo": 1}, {"shard": 7}, {"rows": 2}, {"failed": 1}])
def test_a_footer_of_another_shard_does_not_count(grow: Callable, changes: dict[str, Any]) -> None:
    store, embedding = grow([1, 2, 3]), _embedding(1000)
    (shard,) = make_plan(store, embedding, CONTEXT)
    _write(store, embedding, shard, **changes)
    assert unfinished(store, embedding, [shard]) == [shard]


def test_per_token_needs_both_files(grow: Callable) -> None:
    store, embedding = grow([1, 2, 3]), _embedding(1000, per_token=True)
    (shard,) = make_plan(store, embedding, CONTEXT)
    _write(store, embedding, shard)
    assert unfinished(store, embedding, [shard]) == [shard]
    _write(store, embedding, shard, "tokens")
    assert unfinished(store, embedding, [shard]) == []


def test_default_size_follows_device_work_and_workers() -> None:
    small = AidoRnaConfig(num_layers=1, hidden_size=16, num_heads=2, intermediate_size=16)
    large = AidoRnaConfig(num_layers=33, hidden_size=1280, num_heads=20, intermediate_size=3392)
    size = default_shard_tokens
    assert size(large, 10**12, 1, cuda=False, per_token=False) == MIN_SHARD_TOKENS
    assert MIN_SHARD_TOKENS < size(large, 10**12, 1, cuda=True, per_token=False) <= MAX_SHARD_TOKENS
    assert size(small, 10**12, 1, cuda=True, per_token=False) == MAX_SHARD_TOKENS
    assert size(small, 10**12, 1, cuda=True, per_token=True) == MAX_PER_TOKEN_SHARD_TOKENS
    # Enough shards for every worker to have several.
    assert size(small, 800_000, 4, cuda=False, per_token=False) == 800_000 // 16 + 1
