"""What a run would cost: against published counts, hand counts, and the files that runs leave."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from index.sets import Embedding, OnLong, Prediction
from model import registry
from model.config import AidoRnaConfig
from raypipe.checkpoints import find_checkpoint
from raypipe.cost import DEVICES, estimate, measure_flops, outputs, read_lengths, worker_bytes
from tests.made import vector_set

SMALL = AidoRnaConfig(num_layers=2, hidden_size=8, num_heads=2, intermediate_size=12, max_positions=12)


def _vectors(on_long: OnLong = "window", *, dimension: int = 8, per_token: bool = False) -> Embedding:
    return vector_set(on_long=on_long, dimension=dimension, per_token=per_token, dtype="float16", shard_tokens=0)


def _prediction(task: str, labels: int = 1) -> Prediction:
    about = {"name": "p", "fingerprint": "p", "model": "m", "model_path": "m", "model_fingerprint": "m"}
    return Prediction(**about, on_long="window", shard_tokens=0, task=task, labels=["x"] * labels)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "published"), [("aido.rna-650m", 168.25e9), ("aido.rna-1.6b", 415.67e9)])
def test_operations_are_those_of_the_model_card(name: str, published: float) -> None:
    """The cards count one sequence of 128 tokens."""
    entry = registry.find(name)
    assert entry is not None
    cost = estimate(np.array([126]), entry.config, [_vectors()], "h200", 1, 1e12)
    assert cost.tokens == 128
    assert cost.linear + cost.attention == pytest.approx(published, rel=2e-3)


def test_operations_by_hand() -> None:
    lengths = np.array([1, 10, 15, 15])  # windows of 10 nt: 1, 10, twice 10 and 10
    weights = 2 * (4 * 8 * 8 + 3 * 8 * 12)
    cost = estimate(lengths, SMALL, [_vectors()], "cpu", 4, 1e6)
    assert (cost.sequences, cost.tokens, cost.refused) == (4, 3 + 12 + 4 * 12, 0)
    assert cost.linear == 2 * weights * 63
    assert cost.attention == 4 * 2 * 8 * (3**2 + 5 * 12**2)
    assert cost.seconds == pytest.approx(1.05 * (cost.linear + cost.attention) / 1e6 / 4)
    # Heads look at every pair of a window, at a rate of their own.
    both = estimate(lengths, SMALL, [_vectors(), _prediction("contact", 3)], "cpu", 4, 1e6)
    assert both.heads == 2 * 8 * 3 * (1 + 5 * 100)
    assert both.seconds - cost.seconds == pytest.approx(1.05 * both.heads / DEVICES["cpu"].head_flops / 4)
    refused = estimate(lengths, SMALL, [_vectors("reject")], "cpu", 4, 1e6)
    assert (refused.tokens, refused.refused, refused.index_bytes) == (
        15,
        2,
        2 * (8 * 4 + 12),
    )  # vectors, bounds
    assert estimate(lengths, SMALL, [_vectors("truncate")], "cpu", 4, 1e6).tokens == 3 + 3 * 12


@pytest.mark.parametrize(("on_long", "rows", "letters"), [("window", 4, 41), ("truncate", 4, 31), ("reject", 2, 11)])
def test_bytes_follow_the_policy_for_long_sequences(on_long: OnLong, rows: int, letters: int) -> None:
    pooled, tokens = outputs(_vectors(on_long, per_token=True), np.array([1, 10, 15, 15]), 10)
    assert (pooled.folder, pooled.bytes, pooled.exact) == ("embeddings/e", rows * (8 + 16), True)
    assert (tokens.folder, tokens.bytes) == ("tokens/e", 8 * rows + 16 * letters)


@pytest.mark.parametrize("name", ["nano", "aido.rna-650m", "aido.rna-1.6b"])
def test_forty_million_sequences_make_some_thousand_shards(name: str) -> None:
    """Each long against its start and short against its loss; a hundredth of them is counted here."""
    entry = registry.find(name)
    assert entry is not None
    lengths = np.sort(np.random.default_rng(0).lognormal(5.4, 0.8, 400_000).astype(np.int64).clip(15, 20_000))
    cost = estimate(lengths, entry.config, [_vectors()], "h200", 1, 4e14)
    assert 100 * cost.tokens / cost.shard_tokens < 10_000
    # A small model is not bound by operations: its shards are as large as memory and loss allow.
    assert name == "nano" or 2 < cost.shard_seconds[0] < 120
    assert cost.shard_seconds[1] < 120


def test_lengths_of_files_are_those_of_distinct_sequences(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGUACGU\n>b\nacgtacgt\n>c\nAC\n>protein\nMKLE\n")
    with gzip.open(tmp_path / "b.fa.gz", "wt") as file:
        file.write(">d\nAC\n>e\nGGG\n")
    assert read_lengths([str(tmp_path / "a.fa"), str(tmp_path / "b.fa.gz")]).tolist() == [2, 3, 8]


def test_memory_of_a_worker() -> None:
    config = registry.get("aido.rna-650m").config
    assert worker_bytes(config, "bfloat16", cuda=True) == pytest.approx(2.74 * 2**30, rel=0.01)
    assert worker_bytes(config, "float32", cuda=False) == pytest.approx(2.98 * 2**30, rel=0.01)
    cost = estimate(np.array([10]), config, [_vectors()], "h200", 1, 1e12)
    assert cost.worker_bytes == worker_bytes(config, "bfloat16", cuda=True)


def test_a_core_is_measured(fresh: Path) -> None:
    rate = measure_flops(find_checkpoint(str(fresh)), np.array([20, 200, 5000]), seconds=0.05)
    assert 1e6 < rate < 1e13
