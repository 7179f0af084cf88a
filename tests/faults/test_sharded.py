"""An index that is searched by the machines of a cluster: as by one process, also when some of them die."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raypipe
from index import segments
from index.build import build_index
from index.errors import StoreError
from index.faiss_runtime import load_faiss
from index.info import IndexInfo, current_info
from index.removals import remove_records
from index.search import Found, Searcher
from index.store import Store
from raypipe.atlas import Atlas
from raypipe.errors import RaypipeError, UsageError
from raypipe.ray_runtime import session
from raypipe.sharded import ShardedSearcher, share_out
from tests.faults.conftest import Head
from tests.faults.storm import descendants
from tests.made import on_disk
from tests.unit.index.conftest import Builder

TYPE = "IVF16,RaBitQ,Refine(SQfp16)"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """900 vectors of 16 values, indexed in 9 segments; 30 sequences are removed."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100 * 4 * 16)
    generator = np.random.default_rng(8)
    centres = generator.standard_normal((12, 16))
    vectors = (centres[np.arange(900) % 12] + 0.5 * generator.standard_normal((900, 16))).astype(np.float32)
    vectors[450:460] = vectors[:10]  # ties over the border of segments
    made = Builder(tmp_path).embedded(vectors, parts=9)
    with made.lock():
        remove_records(made, [f"R{number:05d}" for number in range(0, 900, 30)])
        build_index(made, kind=TYPE, recall=0.8)
    return made


@pytest.fixture(scope="module")
def joined(head: Head) -> Iterator[Head]:
    """This process is connected to the cluster."""
    with session(head.address):
        yield head


def current(store: Store) -> IndexInfo:
    info = current_info(store)
    assert info is not None
    return info


def assert_same(found: Found, wanted: Found) -> None:
    np.testing.assert_array_equal(found.seq_ids, wanted.seq_ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


QUESTIONS: dict[str, Callable[[Any, np.ndarray], Found]] = {
    "plain": lambda opened, queries: opened.find(queries, 10),
    "more than a segment has": lambda opened, queries: opened.find(queries, 150),
    "more than there are": lambda opened, queries: opened.find(queries, 950),
    "many may be found": lambda opened, queries: opened.find(queries, 5, allowed=np.arange(0, 900, 9)),
    "few may be found": lambda opened, queries: opened.find(queries, 5, allowed=np.array([777, 3, 30, 5000, -1])),
    "none may be found": lambda opened, queries: opened.find(queries, 5, allowed=np.array([], dtype=np.int64)),
    "a filter that is kept": lambda opened, queries: opened.find(queries, 5, allowed=opened.allow(np.arange(450))),
    "exact": lambda opened, queries: opened.find(queries, 10, exact=True),
    "exact among few": lambda opened, queries: opened.find(queries, 10, exact=True, allowed=np.arange(440, 470)),
    "with a lowest score": lambda opened, queries: opened.find(queries, 10, min_score=0.9),
    "for a recall": lambda opened, queries: opened.find(queries, 10, recall=0.5),
    "with an effort": lambda opened, queries: opened.find(queries, 10, nprobe=1, k_factor=2.0),
    "no query": lambda opened, queries: opened.find(queries[:0], 10),
}

REFUSED: dict[str, Callable[[Any, np.ndarray], Found]] = {
    "k = 0": lambda opened, queries: opened.find(queries, 0),
    "k = -3": lambda opened, queries: opened.find(queries, -3),
    "this index holds vectors of 16 values": lambda opened, queries: opened.find(queries[:, :5], 3),
    "query 2: the vector is zero": lambda opened, queries: opened.find(queries * ([[1], [0]] + [[1]] * 28), 3),
    "was measured to reach": lambda opened, queries: opened.find(queries, 3, recall=1.1),
    "no embedding of seq_id 900, 905 ": lambda opened, _: opened.vectors(np.array([3, 900, 4, 905])),
}


def of_actor(sharded: ShardedSearcher, place: int, what: Callable[[], Any]) -> Any:
    """What a function gives in the process of one shard."""
    return sharded._ray.get(sharded._actors[place].__ray_call__.remote(lambda _: what()))


def test_searched_as_by_one_process(store: Store, joined: Head) -> None:
    opened = Searcher.open(store)
    queries = opened.vectors(np.arange(1, 900, 30))
    some = np.array([899, 0, 3, 3])
    with ShardedSearcher(store, 2, cpus=0.5) as sharded:
        assert [sum(each.rows for each in shard) for shard in sharded.shards] == [500, 400]
        for name, ask in QUESTIONS.items():
            found, wanted = ask(sharded, queries), ask(opened, queries)
            assert_same(found, wanted)
            told = {"shards": 2, "missing": {}, "missing_rows": 0}
            assert {**wanted.how, **told, "searched": ""} == {**found.how, "searched": ""}, name
            assert set(wanted.how["searched"]) == set(found.how["searched"]), name
        for words, ask in REFUSED.items():
            for one in (sharded, opened):
                with pytest.raises(StoreError, match=words):
                    ask(one, queries)
        with pytest.raises(StoreError, match="query 1, 2, 3, 4, 5 and 25 more: the vector is zero"):
            sharded.find(0 * queries, 3, partial=True)  # what cannot be asked is no shard's failure
        np.testing.assert_array_equal(sharded.vectors(some), opened.vectors(some))
        with pytest.raises(StoreError, match="the filter was made for index 000009, this is 000001"):
            sharded.find(queries, 3, allowed=replace(sharded.allow(some), version="000009"))
    with pytest.raises(RaypipeError, match="the shards are closed"):
        sharded.find(queries, 3)
    with ShardedSearcher(store, 1, cpus=2) as sharded:
        assert_same(sharded.find(queries, 10), opened.find(queries, 10))
        assert of_actor(sharded, 0, lambda: load_faiss().omp_get_max_threads()) == 2


def test_an_atlas_with_shards(store: Store, joined: Head) -> None:
    """The same questions in Python, with and without; of an exact index too."""
    with store.lock():
        build_index(store, kind="flat")
    alone = Atlas(on_disk(store.root))
    vectors = alone.searcher.vectors(np.arange(0, 900, 100))
    questions: list[dict[str, Any]] = [
        {"ids": ["R00001", "R00898"], "k": 7, "columns": ["query", "rank", "id", "seq_id", "score", "length"]},
        {"vectors": vectors, "where": "length < 30", "partial": True},
        {"vectors": vectors, "where": "length < 30", "exact": True, "min_score": 0.5},
        {"vectors": vectors, "recall": 0.5},
    ]
    with raypipe.connect(on_disk(store.root), shards=2, address=joined.address) as atlas:
        for question in questions:
            found, wanted = atlas.search(**question), alone.search(**question)
            assert found.to_pylist() == wanted.to_pylist()
            assert found.how is not None
            assert wanted.how is not None
            assert len(found) > 0
            assert found.how["allowed"] == wanted.how["allowed"] < 900
            assert (found.how["shards"], found.how["missing"]) == (2, {})
        with pytest.raises(StoreError, match="no record with id R99999"):
            atlas.search(ids=["R99999"]).to_arrow()
        closed = atlas.searcher
    assert isinstance(closed, ShardedSearcher)
    with pytest.raises(RaypipeError, match="the shards are closed"):
        closed.vectors(np.arange(3))
    alone.close()
    assert len(alone.search(vectors=vectors)) == 90


def test_what_cannot_be(store: Store, joined: Head) -> None:
    with pytest.raises(UsageError, match="0 shards of 1 CPUs each: there must be at least one"):
        ShardedSearcher(store, 0)
    with pytest.raises(UsageError, match="2 shards of 0 CPUs each"):
        ShardedSearcher(store, 2, cpus=0)
    with pytest.raises(RaypipeError, match="3 shards of 1 CPUs each: the cluster has CPUs for 2; ask for fewer"):
        ShardedSearcher(store, 3)
    with pytest.raises(UsageError, match="0 shards: must be at least 1"):
        Atlas(on_disk(store.root), shards=0)
    with pytest.raises(UsageError, match="address 'auto' without shards"):
        Atlas(on_disk(store.root), address="auto")
    victim = on_disk(store.root) / "index" / "segments" / current(store).segments[3].name / "rows.npy"
    os.truncate(victim, 100)
    with pytest.raises(StoreError, match=f"{victim.parent.name}/rows.npy: damaged, 100 bytes instead of"):
        ShardedSearcher(store, 2)


def test_shards_die(store: Store, joined: Head) -> None:
    """It is told, aloud or in the answer, as is asked for; a new one takes the place of a dead one."""
    opened = Searcher.open(store)
    queries = opened.vectors(np.arange(1, 900, 31))
    wanted = opened.find(queries, 10)
    with ShardedSearcher(store, 2) as sharded:
        lost, left = ([segment.name for segment in shard] for shard in sharded.shards)
        of_others = Searcher.open(store, only=left).find(queries, 10)

        def kill() -> int:
            os.kill(pid := of_actor(sharded, 0, os.getpid), signal.SIGKILL)
            return pid

        first = kill()
        part = sharded.find(queries, 10, partial=True)
        assert list(part.how["missing"]) == lost
        assert all("its process or machine died" in why for why in part.how["missing"].values())
        assert (part.how["missing_rows"], part.how["allowed"]) == (500, of_others.how["allowed"])
        assert_same(part, of_others)
        again = sharded.find(queries, 10)
        assert_same(again, wanted)
        assert again.how["missing"] == {}

        # One that hangs.
        second = of_actor(sharded, 0, os.getpid)
        assert second != first
        os.kill(second, signal.SIGSTOP)
        with pytest.raises(RaypipeError, match=r"5 of 9 segments were not searched .*: it did not answer in time"):
            sharded.find(queries, 10, timeout_seconds=1)
        part = sharded.find(queries, 10, timeout_seconds=5, partial=True)
        assert list(part.how["missing"]) == lost
        assert_same(part, of_others)
        os.kill(second, signal.SIGCONT)
        assert_same(sharded.find(queries, 10), wanted)

        # One whose successor cannot open the index: for a while, and for ever.
        home = on_disk(store.root)
        away = home.rename(home.with_name("away"))
        kill()
        with pytest.raises(StoreError, match="not an atlas"):
            sharded.find(queries, 10)
        part = sharded.find(queries, 10, partial=True)
        assert all("not an atlas" in why for why in part.how["missing"].values())
        assert_same(part, of_others)
        away.rename(home)
        assert_same(sharded.find(queries, 10), wanted)
        with store.lock():
            for _ in range(2):  # the version before the live one is kept
                build_index(store, kind=TYPE, recall=0.8, anew=True)
        assert_same(sharded.find(queries, 10), wanted)
        kill()
        with pytest.raises(StoreError, match="index 000001 was replaced, and is removed by now; open the atlas again"):
            sharded.find(queries, 10)


def test_shares_are_even(store: Store) -> None:
    held = current(store).segments
    for number in (1, 2, 4, 9, 20):
        shards = share_out(held, number)
        assert sorted(each.name for shard in shards for each in shard) == sorted(each.name for each in held)
        sizes = [len(shard) for shard in shards]
        assert len(shards) == min(number, 9)
        assert max(sizes) - min(sizes) <= 1


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that does no work, and two nodes with a CPU each."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()  # whatever this process was connected to
    home = tempfile.mkdtemp(prefix="rt", dir="/tmp")  # the path of a Unix socket is limited to 107 bytes
    made = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": home})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.slow
def test_a_node_dies_under_the_questions(store: Store, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shard is missed; a new one opens its segments as soon as there is a machine."""
    opened = Searcher.open(store)
    queries = opened.vectors(np.arange(1, 900, 31))
    wanted = opened.find(queries, 10)
    with ShardedSearcher(store, 2, address=cluster.address) as sharded:
        assert_same(sharded.find(queries, 10), wanted)
        first, _ = cluster.worker_nodes
        raylet = first.all_processes["raylet"][0].process.pid
        for pid in (raylet, *descendants(raylet)):
            os.kill(pid, signal.SIGKILL)
        part = sharded.find(queries, 10, partial=True)
        assert 4 <= len(part.how["missing"]) <= 5
        kept = [each.name for shard in sharded.shards for each in shard if each.name not in part.how["missing"]]
        assert_same(part, Searcher.open(store, only=kept).find(queries, 10))
        cluster.remove_node(first, allow_graceful=False)
        with pytest.raises(RaypipeError, match=r"of 9 segments were not searched .*: it did not answer in time"):
            sharded.find(queries, 10, timeout_seconds=2)
        monkeypatch.setattr("raypipe.sharded.REPLICA_SECONDS", 3)
        with pytest.raises(RaypipeError, match=r"of 9 segments were not searched .*: its process or machine died"):
            sharded.find(queries, 10)
        monkeypatch.undo()
        cluster.add_node(num_cpus=1)
        assert_same(sharded.find(queries, 10), wanted)
