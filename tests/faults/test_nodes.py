"""Nodes that come and go while a run is on: the new ones are used, and nothing is lost with the dead ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.storm import descendants
from tests.runs import CONSOLE, NANO, assert_same_vectors, shard_files, started


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that does no work, and one node with a CPU."""
    from ray.cluster_utils import Cluster

    home = tempfile.mkdtemp(prefix="rt", dir="/tmp")  # the path of a Unix socket is limited to 107 bytes
    made = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": home})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()
    shutil.rmtree(home, ignore_errors=True)


def raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


@pytest.mark.slow
def test_a_node_comes_and_another_dies(tmp_path: Path, undisturbed: Path, cluster: Any) -> None:
    atlas = tmp_path / "atlas"
    inputs = [str(undisturbed.with_name("in.fa")), "-o", "atlas", "--shard-tokens", "6000"]
    with started([*CONSOLE, "embed", *inputs, "--address", cluster.address], cwd=tmp_path) as run:
        run.wait_for(lambda: bool(shard_files(atlas)))
        (first,) = cluster.worker_nodes
        # Held up in the middle of a shard, so that there is work left for the other one.
        for pid in descendants(raylet(first)):
            os.kill(pid, signal.SIGSTOP)
        added = cluster.add_node(num_cpus=1)
        of_added = set[int]()

        def has_worked() -> bool:
            of_added.update(descendants(raylet(added)))
            return bool(of_added & workers(atlas))

        run.wait_for(has_worked)
        before = len(shard_files(atlas))
        for pid in (raylet(first), *descendants(raylet(first))):
            os.kill(pid, signal.SIGKILL)
        cluster.remove_node(first, allow_graceful=False)
        run.wait()
    assert run.code == 0, run.err
    assert "workers: 1" in run.err
    assert before < len(shard_files(undisturbed))
    assert workers(atlas) - of_added
    assert_same_vectors(atlas, undisturbed)


def workers(atlas: Path) -> set[int]:
    """Processes that have made shards."""
    receipts = atlas / NANO / "receipts.jsonl"
    return {json.loads(line)["pid"] for line in receipts.read_text().splitlines()} if receipts.exists() else set()
