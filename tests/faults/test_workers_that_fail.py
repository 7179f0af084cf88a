"""Workers that cannot do their work end a run soon, with words; they neither hang it nor take good shards along."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

from model import shipped_checkpoint
from tests.faults.conftest import SHARD_TOKENS, Head
from tests.runs import CONSOLE, assert_same_vectors, done, shard_files, started

DEADLY = [sys.executable, str(Path(__file__).with_name("deadly.py"))]


def test_a_shard_that_kills_its_worker(tmp_path: Path, undisturbed: Path, head: Head) -> None:
    inputs = [str(undisturbed.with_name("in.fa")), "-o", "atlas", *SHARD_TOKENS]
    options = ["--workers", "2", "--address", head.address]
    run = done([*DEADLY, "embed", *inputs, *options], cwd=tmp_path, DEADLY="3")
    names = [path.name for path in shard_files(undisturbed)]
    assert run.code == 3, run.err
    assert [path.name for path in shard_files(tmp_path / "atlas")] == [n for n in names if n != "part-000003.parquet"]
    last = run.lines[-1]
    assert f"1 of {len(names)} shards unfinished: 3 (seq_id " in last
    assert "every worker died that took shard 3 (seq_id " in last
    assert "try fewer --workers or a smaller --max-tokens); run the same command again to go on" in last
    assert run.out == ""
    assert len(run.lines) < 8
    again = done([*CONSOLE, "embed", "atlas", *SHARD_TOKENS, "--executor", "inline"], cwd=tmp_path, cpus=1)
    assert again.code == 0, again.err
    assert_same_vectors(tmp_path / "atlas", undisturbed)


@pytest.mark.slow
def test_every_shard_kills_its_worker(tmp_path: Path, undisturbed: Path) -> None:
    command = [*DEADLY, "embed", str(undisturbed.with_name("in.fa")), "-o", "atlas", "--shard-tokens", "2000"]
    begin = time.monotonic()
    run = done([*command, "--workers", "2"], cwd=tmp_path, cpus=2, DEADLY="all")
    assert time.monotonic() - begin < 120
    assert run.code == 3, run.err
    assert "workers died at more than 4 shards; most likely the memory does not suffice" in run.lines[-1]
    assert len(run.lines) < 8


def test_a_model_that_vanishes(tmp_path: Path, undisturbed: Path, head: Head) -> None:
    folder = Path(shutil.copytree(shipped_checkpoint("nano"), tmp_path / "mine"))
    command = [*CONSOLE, "embed", str(undisturbed.with_name("in.fa")), "-o", "atlas", "--model", str(folder)]
    with started([*command, "--workers", "1", "--address", head.address], cwd=tmp_path) as run:
        run.wait_for((tmp_path / "atlas" / "embeddings" / "mine" / "plan.parquet").exists)
        shutil.rmtree(folder)
        run.wait()
    assert run.code == 1, run.err
    assert f"{folder} is neither a checkpoint folder nor a name of the model registry; mend that" in run.lines[-1]
    assert run.out == ""
    assert len(run.lines) < 6


def test_damaged_weights(tmp_path: Path, undisturbed: Path) -> None:
    folder = Path(shutil.copytree(shipped_checkpoint("nano"), tmp_path / "mine"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    command = [*CONSOLE, "embed", str(undisturbed.with_name("in.fa")), "-o", "atlas", "--model", str(folder)]
    run = done([*command, "--executor", "inline"], cwd=tmp_path)
    assert run.code == 1, run.err
    assert f"{weights} cannot be read: damaged or cut short" in run.lines[-1]
    assert len(run.lines) < 6
