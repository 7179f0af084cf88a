"""Workers that cannot do their work end a run soon, with words; they neither hang it nor take good shards along."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from pathlib import Path

import pytest

from model import shipped_checkpoint
from tests.faults.conftest import Head
from tests.runs import CONSOLE, done, started

AFFLICTED = [sys.executable, str(Path(__file__).with_name("afflicted.py"))]


@pytest.mark.slow
def test_every_shard_kills_its_worker(tmp_path: Path, undisturbed: Path) -> None:
    command = [*AFFLICTED, "embed", str(undisturbed.with_name("in.fa")), "-o", "atlas", "--shard-tokens", "2000"]
    begin = time.monotonic()
    run = done([*command, "--workers", "2"], cwd=tmp_path, cpus=2, seconds=280, DEADLY="all")
    assert time.monotonic() - begin < 240
    assert run.code == 3, run.err
    assert sum("failed on" in line for line in run.lines) == 5
    assert "workers died at more than 4 shards; most likely the memory does not suffice" in run.lines[-1]
    assert len(run.lines) < 12


@pytest.mark.slow
def test_a_model_that_vanishes(tmp_path: Path, undisturbed: Path, head: Head) -> None:
    folder = Path(shutil.copytree(shipped_checkpoint("nano"), tmp_path / "mine"))
    command = [*CONSOLE, "embed", str(undisturbed.with_name("in.fa")), "-o", "atlas", "--model", str(folder)]
    with started([*command, "--workers", "1", "--address", head.address], cwd=tmp_path) as run:
        run.wait_for((tmp_path / "atlas" / "embeddings" / "mine" / "plan.parquet").exists)
        shutil.rmtree(folder)
        run.wait()
    assert run.code == 1, run.err
    assert f"{folder}: {socket.gethostname()} has no such folder; put the model where every machine" in run.lines[-1]
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
