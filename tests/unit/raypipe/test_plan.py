"""The plan: every sequence in one shard, shards of the size asked for, extended but never changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.schema import SEQUENCES, embeddings_schema, with_footer
from index.sets import Embedding, Prediction, ShardedSet
from index.store import Source, Store
from model.config import AidoRnaConfig
from raypipe import plan
from raypipe.plan import Shard, Task, begin_plan, make_plans, merge, most_pairs, read_plan
from raypipe.shard_files import footer
from raypipe.work import (
    MAX_KEPT_SHARD_TOKENS,
    MAX_SHARD_TOKENS,
    MIN_SHARD_TOKENS,
    default_shard_tokens,
    sequence_lengths,
    sequence_tokens,
    stored_pairs,
)
from tests.made import on_disk, unfinished, vector_set

CONTEXT = 10


def _prediction(shard_tokens: int, **about: Any) -> Prediction:
    return Prediction(
        name="p",
        fingerprint="p" * 64,
        model="m",
        model_path="m",
        model_fingerprint="m" * 64,
        shard_tokens=shard_tokens,
        **{"on_long": "window", "task": "structure", "problem": "binary", "labels": ["0"], **about},
    )


def make_plan(store: Store, made: ShardedSet, context: int) -> list[Shard]:
    """The plan of a run with one set."""
    return make_plans(store, [made], context)[0]


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
    embedding = vector_set(shard_tokens=1, on_long=on_long)
    assert sequence_tokens(sequence_lengths(store, 0), CONTEXT, embedding).tolist() == tokens
    assert sequence_tokens(sequence_lengths(store, 2), CONTEXT, embedding).tolist() == tokens[2:]


def test_an_empty_store_has_no_tokens(grow: Callable) -> None:
    assert sequence_tokens(sequence_lengths(grow([]), 0), CONTEXT, vector_set(shard_tokens=1)).tolist() == []


def test_masking_costs_a_copy_for_every_nucleotide() -> None:
    lengths = np.array([1, 10, 25])
    masked = _prediction(1, task="pll", method="masked")
    assert sequence_tokens(lengths, CONTEXT, masked).tolist() == [3, 10 * 12, 4 * 10 * 12]
    assert sequence_tokens(lengths, CONTEXT, replace(masked, method="wild-type")).tolist() == [3, 12, 4 * 12]


@pytest.mark.parametrize("shard_tokens", [1, 12, 13, 30, 1000])
def test_shards_cover_every_sequence_once(grow: Callable, shard_tokens: int) -> None:
    lengths = [1, 2, 3, 5, 8, 10, 10, 9, 1]
    store = grow(lengths)
    shards = make_plan(store, vector_set(shard_tokens=shard_tokens), CONTEXT)
    assert [shard.seq_lo for shard in shards] == [0, *(shard.seq_hi for shard in shards[:-1])]
    assert shards[-1].seq_hi == len(lengths)
    tokens = np.array(lengths) + 2
    for shard in shards:
        assert shard.tokens == tokens[shard.seq_lo : shard.seq_hi].sum()
        assert shard.tokens <= shard_tokens or shard.num_sequences == 1
        if shard.seq_hi < len(lengths):
            assert shard.tokens + tokens[shard.seq_hi] > shard_tokens
    assert read_plan(store, vector_set(shard_tokens=shard_tokens)) == shards
    assert [shard.number for shard in shards] == list(range(len(shards)))


def test_rejected_sequences_stay_in_a_shard(grow: Callable) -> None:
    """They cost nothing, but the actor that reads them must write them into rejects/."""
    shards = make_plan(grow([5, 20, 25]), vector_set(shard_tokens=7, on_long="reject"), CONTEXT)
    assert sum(shard.num_sequences for shard in shards) == 3


def test_a_plan_is_extended_and_never_changed(grow: Callable) -> None:
    store, embedding = grow([1, 2, 3]), vector_set(shard_tokens=6)
    first = make_plan(store, embedding, CONTEXT)
    assert make_plan(store, embedding, CONTEXT) == first
    grow([1, 1])
    second = make_plan(store, embedding, CONTEXT)
    assert second[: len(first)] == first
    assert [(shard.seq_lo, shard.seq_hi) for shard in second[len(first) :]] == [(3, 5)]


def _write(store: Store, embedding: Embedding, shard: Shard, /, kind: str = "embeddings", **changes: Any) -> Path:
    schema = embeddings_schema(embedding.dimension, embedding.dtype)
    rows = shard.num_sequences
    says = {**footer(embedding, shard, rows, 0), **changes}
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(2 * rows, np.float32)), type=schema.field(1).type)
    ids = pa.array(range(shard.seq_lo, shard.seq_hi), pa.int64())
    file = on_disk(store.root) / kind / embedding.name / shard.file_name
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table([ids, vectors], schema=with_footer(schema, says)), file)
    return file


def test_finished_is_a_file_whose_footer_fits(grow: Callable) -> None:
    store, embedding = grow([1, 2, 3]), vector_set(shard_tokens=5)
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
    store, embedding = grow([1, 2, 3]), vector_set(shard_tokens=1000)
    (shard,) = make_plan(store, embedding, CONTEXT)
    _write(store, embedding, shard, **changes)
    assert unfinished(store, embedding, [shard]) == [shard]


def test_per_token_needs_both_files(grow: Callable) -> None:
    store, embedding = grow([1, 2, 3]), vector_set(shard_tokens=1000, per_token=True)
    (shard,) = make_plan(store, embedding, CONTEXT)
    _write(store, embedding, shard)
    assert unfinished(store, embedding, [shard]) == [shard]
    _write(store, embedding, shard, "tokens")
    assert unfinished(store, embedding, [shard]) == []


def test_default_size_follows_device_work_and_workers() -> None:
    small = AidoRnaConfig(num_layers=1, hidden_size=16, num_heads=2, intermediate_size=16)
    large = AidoRnaConfig(num_layers=33, hidden_size=1280, num_heads=20, intermediate_size=3392)
    many = np.full(1_000_000, 500)
    size = default_shard_tokens
    pooled, per_token = [vector_set(shard_tokens=0)], [vector_set(shard_tokens=0, per_token=True)]
    assert size(large, pooled, many, 1, cuda=False) == MIN_SHARD_TOKENS
    assert MIN_SHARD_TOKENS < size(large, pooled, many, 1, cuda=True) <= MAX_SHARD_TOKENS
    assert size(small, pooled, many, 1, cuda=True) == MAX_SHARD_TOKENS
    assert size(small, per_token, many, 1, cuda=True) == MAX_KEPT_SHARD_TOKENS
    # Enough shards for every worker to have several.
    assert size(small, pooled, np.full(1000, 798), 4, cuda=False) == 800_000 // 16 + 1


def test_heads_over_pairs_make_shards_smaller_where_sequences_are_long() -> None:
    small = AidoRnaConfig(num_layers=1, hidden_size=16, num_heads=2, intermediate_size=16)
    heads = [_prediction(0)]
    size = default_shard_tokens
    long, short = np.full(100_000, 1000), np.full(5_000_000, 20)
    assert size(small, heads, long, 1, cuda=False) == MIN_SHARD_TOKENS
    assert size(small, heads, short, 1, cuda=False) > MIN_SHARD_TOKENS
    assert size(small, heads, long, 1, cuda=False) < size(small, heads, long, 1, cuda=True)
    contact = [_prediction(0, task="contact")]
    assert size(small, heads, long, 1, cuda=False) < size(small, contact, long, 1, cuda=False)


@pytest.mark.parametrize(
    ("on_long", "pairs"), [("window", [0, 50, 125]), ("truncate", [0, 50, 50]), ("reject", [0, 50, 0])]
)
def test_pairs_that_a_sequence_can_give(on_long: str, pairs: list[int]) -> None:
    lengths = np.array([1, 10, 25])
    contact = _prediction(1, task="contact", problem="multiclass", labels=["a", "b", "c"], on_long=on_long)
    structure = replace(_prediction(1), on_long=on_long)
    assert stored_pairs(lengths, CONTEXT, [structure]).tolist() == pairs
    assert stored_pairs(lengths, CONTEXT, [contact, structure]).tolist() == [4 * number for number in pairs]
    others = [
        vector_set(shard_tokens=1),
        _prediction(1, task="token"),
        _prediction(1, task="logits", labels=["A"] * 16),
    ]
    assert stored_pairs(lengths, CONTEXT, others).tolist() == [0, 0, 0]


def test_a_shard_holds_no_more_pairs_than_the_memory(grow: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MAX_SHARD_PAIRS", 100)
    store = grow([2, 4, 8, 8, 8, 9, 16, 3])
    one, three = _prediction(1000), _prediction(1000, task="contact", problem="multiclass", labels=["a", "b", "c"])
    # Pairs: 2, 8, 32, 32, 32, 40, 80, 4.
    spans = [(shard.seq_lo, shard.seq_hi) for shard in make_plan(store, one, CONTEXT)]
    assert spans == [(0, 4), (4, 6), (6, 8)]
    assert most_pairs(store, one, [one], CONTEXT) == 84
    assert most_pairs(store, one, [one, three], CONTEXT) == 4 * 84
    assert most_pairs(store, one, [vector_set(shard_tokens=1)], CONTEXT) == 0
    assert most_pairs(store, vector_set(shard_tokens=1), [one], CONTEXT) == 0
    # One that is beyond by itself is a shard of its own.
    spans = [(shard.seq_lo, shard.seq_hi) for shard in make_plan(store, replace(three, name="three"), CONTEXT)]
    assert spans == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8)]


def test_sets_of_one_run_are_cut_alike(grow: Callable) -> None:
    store = grow([1, 2, 3, 4, 5])
    embedding, prediction = vector_set(shard_tokens=14), _prediction(9)
    first, second = make_plans(store, [embedding, prediction], CONTEXT)
    assert first == second
    assert read_plan(store, embedding) == read_plan(store, prediction) == first
    # The smaller of the two sizes holds for both.
    assert all(shard.tokens <= 9 for shard in first)
    assert merge([first, second]) == [Task(s.number, s.seq_lo, s.seq_hi, s.tokens, (s.number,) * 2) for s in first]


def test_a_set_that_begins_takes_over_a_plan(grow: Callable) -> None:
    store, embedding, prediction = grow([1, 2, 3, 4]), vector_set(shard_tokens=8), _prediction(100)
    older = make_plan(store, embedding, CONTEXT)
    begin_plan(store, prediction, embedding)
    assert make_plans(store, [embedding, prediction], CONTEXT) == [older, older]
    begin_plan(store, prediction, None)
    assert read_plan(store, prediction) == []


def test_sets_with_different_plans_meet_again_in_later_sequences(grow: Callable) -> None:
    store, embedding, prediction = grow([1, 2, 3, 4]), vector_set(shard_tokens=8), _prediction(100)
    make_plan(store, embedding, CONTEXT)
    make_plan(store, prediction, CONTEXT)
    grow([2, 2, 2])
    plans = make_plans(store, [embedding, prediction], CONTEXT)
    tasks = merge(plans)
    assert [task.number for task in tasks] == list(range(len(tasks)))
    apart, together = [t for t in tasks if t.seq_lo < 4], [t for t in tasks if t.seq_lo >= 4]
    assert [(t.seq_lo, t.seq_hi, t.shards) for t in apart] == [
        (0, 2, (0, -1)),
        (0, 4, (-1, 0)),
        (2, 3, (1, -1)),
        (3, 4, (2, -1)),
    ]
    assert [(t.seq_lo, t.seq_hi, t.shards) for t in together] == [(4, 6, (3, 1)), (6, 7, (4, 2))]
    for place, shards in enumerate(plans):
        of_tasks = sorted(tasks, key=lambda task: task.shards[place])
        assert [task.shard(place) for task in of_tasks if task.shard(place)] == shards
