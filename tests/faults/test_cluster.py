"""A Ray cluster that exists already is joined, used as it is, and left as it was, whatever is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import SHARD_TOKENS, Head
from tests.runs import CONSOLE, NANO, RAY_WORKER, assert_same_vectors, done, free_ports, shard_files, started


def embed(undisturbed: Path, *options: str) -> list[str]:
    return [*CONSOLE, "embed", str(undisturbed.with_name("in.fa")), "-o", "atlas", *SHARD_TOKENS, *options]


@pytest.mark.slow
def test_a_killed_driver_takes_its_actors_along(tmp_path: Path, undisturbed: Path, head: Head) -> None:
    """The cluster's address may come from the environment, and the folder may hold files of our packages' names."""
    for name in ("model", "index"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the file of the user was imported')\n")
    daemons = head.run.processes("gcs_server", "raylet")
    atlas = tmp_path / "atlas"
    command = embed(undisturbed, "--workers", "2")
    with started(command, cwd=tmp_path, RAY_ADDRESS=head.address) as run:
        run.wait_for((atlas / NANO / "plan.parquet").exists)
        second = done(command, cwd=tmp_path, RAY_ADDRESS=head.address)
        assert second.code == 1
        assert f"process {run.process.pid} on " in second.lines[-1]
        assert "is writing to this store" in second.lines[-1]
        run.wait_for(lambda: bool(shard_files(atlas)))
        assert head.run.processes(RAY_WORKER)
        os.kill(run.process.pid, signal.SIGKILL)
        run.wait()
    end = time.monotonic() + 20
    while head.run.processes(RAY_WORKER) and time.monotonic() < end:
        time.sleep(0.1)
    assert head.run.processes(RAY_WORKER) == {}
    # What a writer that is killed in the middle of a file leaves.
    (atlas / ".tmp").mkdir(exist_ok=True)
    (atlas / ".tmp" / "part-000009.parquet.0123").write_bytes(b"PAR1 half a file")
    before = {path: path.stat().st_mtime_ns for path in shard_files(atlas)}
    assert len(before) < len(shard_files(undisturbed))
    resumed = done(command, cwd=tmp_path, RAY_ADDRESS=head.address)
    assert resumed.code == 0, resumed.err
    assert f", {len(before)} finished before; workers: 2" in resumed.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_same_vectors(atlas, undisturbed)
    assert not list((atlas / ".tmp").iterdir())
    assert head.run.processes("gcs_server", "raylet") == daemons


def test_more_than_there_is_is_refused_at_once(tmp_path: Path, undisturbed: Path, head: Head) -> None:
    for options, message in (
        (["--workers", "3"], "--workers 3: the cluster has CPUs for 2"),
        (["--gpus-per-worker", "1"], "--gpus-per-worker 1: the cluster has 0 GPUs"),
    ):
        begin = time.monotonic()
        run = done(embed(undisturbed, "--address", head.address, *options), cwd=tmp_path)
        assert run.code == 1
        assert message in run.lines[-1]
        assert time.monotonic() - begin < 30
    assert shard_files(tmp_path / "atlas") == []


def test_no_cluster_there(tmp_path: Path, undisturbed: Path) -> None:
    (port,) = free_ports(1)
    begin = time.monotonic()
    run = done(embed(undisturbed, "--address", f"127.0.0.1:{port}"), cwd=tmp_path)
    assert time.monotonic() - begin < 15
    assert run.code == 1
    assert run.lines[-1].startswith(f"raypipe: Ray at 127.0.0.1:{port}: ")
    assert "Connection refused; check --address and $RAY_ADDRESS" in run.lines[-1]
    assert not any("gcs" in line for line in run.lines)
