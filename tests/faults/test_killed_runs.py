"""A run may be stopped or killed at any moment: the same command then makes what is missing, and nothing twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import SHARD_TOKENS
from tests.runs import CLUSTER, CONSOLE, Run, assert_same_vectors, done, shard_files, started

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two CPUs")


def embed(undisturbed: Path, *options: str) -> list[str]:
    return [*CONSOLE, "embed", str(undisturbed.with_name("in.fa")), "-o", "atlas", *SHARD_TOKENS, *options]


def gone(run: Run, seconds: float = 10) -> bool:
    """Whether nothing that computes or keeps a cluster alive is left of `run` within `seconds`."""
    end = time.monotonic() + seconds
    while run.processes(*CLUSTER) and time.monotonic() < end:
        time.sleep(0.1)
    return not run.processes(*CLUSTER)


def send(run: Run, stop: str) -> None:
    if stop == "SIGTERM":
        os.kill(run.process.pid, signal.SIGTERM)
    else:  # a terminal sends it to all processes of the group
        os.killpg(run.process.pid, signal.SIGINT)


def times(atlas: Path) -> dict[str, int]:
    """When each finished shard was written."""
    return {path.name: path.stat().st_mtime_ns for path in shard_files(atlas)}


def resume(tmp_path: Path, undisturbed: Path) -> None:
    """The same command again makes the missing shards only, and the result is that of an undisturbed run."""
    before, total = times(tmp_path / "atlas"), len(shard_files(undisturbed))
    assert 0 < len(before) < total
    run = done(embed(undisturbed, "--executor", "inline"), cwd=tmp_path, cpus=1)
    assert run.code == 0, run.err
    assert f"in {total - len(before)} shards, {len(before)} finished before" in run.err
    assert before.items() <= times(tmp_path / "atlas").items()
    assert_same_vectors(tmp_path / "atlas", undisturbed)
    assert not list((tmp_path / "atlas").glob(".tmp/*"))
    assert not (tmp_path / "atlas" / ".attempts").exists()


def test_the_atlas_vanishes(tmp_path: Path, undisturbed: Path) -> None:
    """As a disk that is unmounted: one line, nothing is written in its place, and it can be brought back."""
    atlas = tmp_path / "atlas"
    with started(embed(undisturbed, "--executor", "inline"), cwd=tmp_path, cpus=1) as run:
        run.wait_for(lambda: bool(shard_files(atlas)))
        atlas.rename(tmp_path / "elsewhere")
        run.wait(60)
    assert run.code == 1, run.err
    assert f"{atlas}: the atlas is gone from there" in run.lines[-1]
    assert run.lines[-1].endswith("bring it back and run the same command again: it goes on where it stopped")
    assert len(run.lines) < 8
    assert not atlas.exists()
    (tmp_path / "elsewhere").rename(atlas)
    resume(tmp_path, undisturbed)


@pytest.mark.parametrize("executor", ["ray", "inline"])
@pytest.mark.parametrize("stop", ["SIGTERM", pytest.param("Ctrl-C", marks=pytest.mark.slow)])
def test_stopped(tmp_path: Path, undisturbed: Path, stop: str, executor: str) -> None:
    atlas = tmp_path / "atlas"
    options = ["--executor", "inline"] if executor == "inline" else ["--workers", "2"]
    with started(embed(undisturbed, *options), cwd=tmp_path, cpus=2 if executor == "ray" else 1) as run:
        run.wait_for(lambda: bool(shard_files(atlas)))
        send(run, stop)
        run.wait(30)
        assert gone(run)
    assert run.code == 3, run.err
    assert run.lines[-1] == "raypipe: stopped; what is finished stays, run the same command again to go on"
    assert run.out == ""
    assert len(run.lines) < 8
    resume(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["SIGTERM", "Ctrl-C"])
def test_stopped_while_ray_starts(tmp_path: Path, undisturbed: Path, stop: str) -> None:
    with started(embed(undisturbed, "--workers", "2"), cwd=tmp_path, cpus=2) as run:
        # The raylet has the command line of its agents among its options. They would outlive it by a minute.
        run.wait_for(lambda: len(run.processes("runtime_env/agent")) > 1)
        time.sleep(0.3)
        send(run, stop)
        run.wait(60)
        end = time.monotonic() + 15
        while run.processes() and time.monotonic() < end:
            time.sleep(0.1)
        assert run.processes() == {}
    assert run.code == 3, run.err
    assert run.lines[-1] == "raypipe: stopped; what is finished stays, run the same command again to go on"
    assert len(run.lines) < 8


@pytest.mark.slow
def test_killed_without_warning(tmp_path: Path, undisturbed: Path) -> None:
    """As in test_cluster.py, where Ray is not the run's own."""
    atlas = tmp_path / "atlas"
    with started(embed(undisturbed, "--workers", "2"), cwd=tmp_path, cpus=2) as run:
        run.wait_for(lambda: bool(shard_files(atlas)))
        os.kill(run.process.pid, signal.SIGKILL)
        run.wait(30)
        assert gone(run)
    resume(tmp_path, undisturbed)
