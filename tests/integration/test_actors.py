"""One actor, called by two threads as Ray Data does: the next shard is read while one is computed."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from index.store import Store
from raypipe import actors
from raypipe.actors import Job, ShardActor
from raypipe.outputs import Ask
from raypipe.plan import Task, merge, read_plan
from tests.runs import write_fasta
from tests.untrained import make_untrained


def batch(task: Task) -> dict[str, np.ndarray]:
    """A task as Ray Data gives it."""
    return {name: np.array([value]) for name, value in asdict(task).items()}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def store(tmp_path: Path, cli: Callable) -> Store:
    """With a set of vectors whose shards are gone."""
    write_fasta(tmp_path / "in.fa", 60, 20, 60)
    model = make_untrained(tmp_path / "model")
    ran = cli("embed", tmp_path / "in.fa", "-o", tmp_path / "atlas", "--executor", "inline", "--model", model,
              "--shard-tokens", 800)  # fmt: skip
    assert ran.code == 0, ran.err
    made = Store.open(tmp_path / "atlas")
    for part in made.set_parts(made.embedding()):
        part.unlink()
    return made


def test_the_next_shard_is_read_while_one_is_computed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store.embedding()
    tasks = merge([read_plan(store, made)])
    assert len(tasks) > 2
    read: list[tuple[int, str]] = []

    def noted(of: Store, task: Task) -> actors.Sequences:
        read.append((task.number, threading.current_thread().name))
        return actual(of, task)

    actual = actors.read_sequences
    monkeypatch.setattr(actors, "read_sequences", noted)
    actor = ShardActor(Job(str(store.root), (made,), "float32", "cpu", 1, Ask("window", None)))
    answers = [actor(batch(tasks[0]))]
    assert [number for number, _ in read] == [0]
    with actor._turn:  # as if another shard were computed
        second = threading.Thread(target=lambda: answers.append(actor(batch(tasks[1]))))
        second.start()
        wait_for(lambda: len(read) == 2)
        assert read[1][0] == 1
        assert len(answers) == 1
    second.join(60)
    actor(batch(tasks[2]))
    assert [number for number, _ in read] == [0, 1, 2]  # each once
    assert [int(answer["rows"][0]) for answer in answers] == [task.num_sequences for task in tasks[:2]]
    assert [str(answer["error"][0]) for answer in answers] == ["", ""]
    assert len(store.set_parts(made)) == 3


def test_what_cannot_be_read_ahead_is_told_by_its_task(store: Store) -> None:
    made = store.embedding()
    tasks = merge([read_plan(store, made)])
    actor = ShardActor(Job(str(store.root), (made,), "float32", "cpu", 1, Ask("window", None)))
    actor(batch(tasks[0]))
    shutil.rmtree(str(store.root / "sequences"))
    answers = []
    with actor._turn:
        thread = threading.Thread(target=lambda: answers.append(actor(batch(tasks[1]))))
        thread.start()
        time.sleep(0.2)
    thread.join(60)
    assert "sequences" in str(answers[0]["error"][0])
    assert not answers[0]["fatal"][0]
