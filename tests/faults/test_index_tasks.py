"""An index whose segments are made by the machines of a cluster: as here, also when workers die and users stop it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from index.build import build_index
from index.errors import StoreError
from index.info import IndexInfo, current_info
from index.kmeans import NearestByBlas
from index.search import Searcher
from index.segments import SegmentJob
from index.store import Store
from index.vectors import finished_parts
from raypipe.errors import RaypipeError
from raypipe.index_build import _make, on_cluster
from tests.faults.conftest import Head
from tests.runs import Run, done, free_ports, shard_files, started
from tests.unit.index.conftest import Builder

# The command line, with every file of vectors a segment of its own.
SMALL = "from index import segments; segments.SEGMENT_BYTES = 1; from raypipe.cli import main; main()"
TYPE = ["--type", "IVF8,RaBitQ,Refine(SQfp16)", "--recall", "0.5"]
TASK = "ray::_make"


def command(atlas: Path, *address: str) -> list[str]:
    return [sys.executable, "-c", SMALL, "index", str(atlas), *TYPE, *(("--address", *address) if address else ())]


def info(atlas: Path) -> IndexInfo | None:
    return current_info(Store.open(atlas))


def standing(atlas: Path) -> dict[str, int]:
    """When each segment was published."""
    return {path.name: path.stat().st_mtime_ns for path in (atlas / "index" / "segments").glob("*")}


@pytest.fixture(scope="module")
def built_here(tmp_path_factory: pytest.TempPathFactory, undisturbed: Path) -> Path:
    """The index as this machine makes it. Not to be changed."""
    atlas = Path(shutil.copytree(undisturbed, tmp_path_factory.mktemp("here") / "atlas"))
    # By a process of its own too: the last bits of sums depend on how many threads NumPy was loaded with.
    run = done(command(atlas), cwd=atlas.parent)
    assert run.code == 0, run.err
    return atlas


@pytest.fixture
def atlas(tmp_path: Path, undisturbed: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(undisturbed, tmp_path / "atlas"))


def assert_as_here(atlas: Path, built_here: Path) -> None:
    found, wanted = info(atlas), info(built_here)
    assert found is not None
    assert wanted is not None
    assert len(found.segments) == len(shard_files(built_here)) > 8
    # The bits: names are made of what went in, checksums of what came out.
    assert found.trained == wanted.trained
    assert found.segments == wanted.segments
    queries = Searcher.open(Store.open(built_here)).vectors(np.arange(0, 400, 9))
    hits = [Searcher.open(Store.open(each)).search(queries, 20) for each in (atlas, built_here)]
    for one, other in zip(*hits, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not list((atlas / ".tmp").glob("*"))


def kill_in_the_middle(run: Run, head: Head, atlas: Path) -> None:
    """Kill the worker that makes a segment, when there is half of one."""

    def killed() -> bool:
        for pid in head.run.processes(TASK):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.1)  # it stops soon, not at once
            half = list((atlas / ".tmp").glob("*"))
            os.kill(pid, signal.SIGKILL if half else signal.SIGCONT)
            return bool(half)
        return False

    run.wait_for(killed)


@pytest.mark.slow
def test_a_worker_dies_and_a_user_stops_it(atlas: Path, built_here: Path, head: Head) -> None:
    """Nothing half is published, nothing is made twice, and in the end it is the index that is made here."""
    with started(command(atlas, head.address), cwd=atlas.parent) as run:
        kill_in_the_middle(run, head, atlas)
        killed_at = len(standing(atlas))
        run.wait_for(lambda: len(standing(atlas)) > killed_at)  # made again, or the next one
        os.killpg(run.process.pid, signal.SIGINT)
        run.wait(60)
    assert run.code == 3, run.err
    assert run.lines[-1] == "raypipe: stopped; what is finished stays, run the same command again to go on"
    end = time.monotonic() + 20
    while head.run.processes(TASK) and time.monotonic() < end:
        time.sleep(0.1)
    assert head.run.processes(TASK) == {}
    before = standing(atlas)
    assert 0 < len(before) < len(shard_files(atlas))
    assert info(atlas) is None
    run = done(command(atlas, head.address), cwd=atlas.parent)
    assert run.code == 0, run.err
    assert before.items() <= standing(atlas).items()
    assert_as_here(atlas, built_here)


@pytest.mark.slow
def test_every_worker_dies(atlas: Path, head: Head) -> None:
    """A machine that cannot do it is not asked for ever."""
    with started(command(atlas, head.address), cwd=atlas.parent) as run:
        while run.process.poll() is None:
            for pid in head.run.processes(TASK):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        run.wait()
    assert run.code == 3, run.err
    assert "stopped: workers died over segments (" in run.lines[-1]
    assert run.lines[-1].endswith("run the same command again to go on")
    assert info(atlas) is None


@pytest.mark.slow
def test_an_error_of_a_task_is_told_as_here(tmp_path: Path, head: Head) -> None:
    """What another machine finds wrong keeps its words, and what was published stands."""
    made = Builder(tmp_path)
    vectors = np.random.default_rng(3).standard_normal((320, 16)).astype(np.float32)
    store = made.embedded(vectors[:300])
    with store.lock():
        before = build_index(store)
    made.add_source(store, made.random_records(20, seed=9), "more.fasta")
    vectors[307] = np.nan
    part = made.write_part(store, store.embedding(), 3, range(300, 320), vectors[300:])
    with store.lock():
        with pytest.raises(StoreError, match=rf"{part.name}: seq_id 307: .*zero or not finite"):
            build_index(store, run=on_cluster(head.address))
        assert current_info(store) == before
        vectors[307] = 1
        made.write_part(store, store.embedding(), 3, range(300, 320), vectors[300:])
        after = build_index(store, run=on_cluster(head.address))
    assert [segment.rows for segment in after.segments] == [300, 20]


def test_nobody_there_and_nothing_there(atlas: Path, tmp_path: Path) -> None:
    """The first is said before anything is learned; a machine that does not see the atlas writes nothing."""
    (port,) = free_ports(1)
    with pytest.raises(RaypipeError, match=rf"Ray at 127.0.0.1:{port}: .*Connection refused; check --address"):
        on_cluster(f"127.0.0.1:{port}")
    store = Store.open(atlas)
    made = store.embedding()
    job = SegmentJob(store, "Flat", made.dimension, {}, tuple(finished_parts(store, made)[:1]), NearestByBlas())
    atlas.rename(tmp_path / "away")
    with pytest.raises(RaypipeError, match="the atlas is gone from there, as"):
        _make(job)
    assert not atlas.exists()
