"""One worker's part: what it says first, and what it does without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raypipe.errors import RaypipeError
from raypipe.training.draws import Reader
from raypipe.training.folder import RunFolder
from raypipe.training.job import Job, Progress
from raypipe.training.learner import Learner
from raypipe.training.start import find_start
from raypipe.training.worker import describe_beginning, train
from tests.pretraining import make_corpus_of, small, write_corpus

CPU = torch.device("cpu")


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.lines: list[dict[str, Any]] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def line(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


def job(root: Path, **changes: Any) -> Job:
    """A run whose corpus stands."""
    settings = small(**changes)
    folder = RunFolder(root)
    if not folder.begun:
        write_corpus(folder.corpus, make_corpus_of([40] * 30))
    return Job(folder, settings, find_start(settings))


@pytest.mark.parametrize(("warmup", "warns"), [(2, False), (5, False), (6, True), (2000, True)])
def test_a_warm_up_that_never_ends_is_said(tmp_path: Path, warmup: int, warns: bool) -> None:
    told = Told()
    describe_beginning(job(tmp_path, steps=6, warmup_steps=warmup), told)
    message = f"warning: the learning rate never gets to its peak: --warmup-steps {warmup:,} of 6 steps in all"
    assert told.said == [message] * warns


def test_steps_are_counted_once_for_all_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = describe_beginning(job(tmp_path, steps=None, epochs=2.0), Progress())

    def count(*_: object) -> int:
        raise AssertionError("counted again")

    monkeypatch.setattr(Reader, "count", count)
    told = Told()
    train(found, CPU, told)
    # 30 sequences of 42 tokens in batches of 400, twice.
    assert [line["step"] for line in told.lines if "valid" not in line] == list(range(1, 9))


def test_fresh_weights_are_not_drawn_where_a_state_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(job(tmp_path, steps=2), CPU, Progress())

    def draw(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr("model.training.init_weights", draw)
    told = Told()
    train(job(tmp_path, steps=4), CPU, told)
    assert [line["step"] for line in told.lines if "valid" not in line] == [3, 4]
    with pytest.raises(AssertionError, match="drawn again"):
        train(job(tmp_path / "other"), CPU, Progress())


def test_too_little_memory_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*_: object) -> None:
        raise MemoryError

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has")

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "forward", full)
        with pytest.raises(
            RaypipeError,
            match=r"too little memory \(CUDA out of memory\); go on with --checkpoint-activations, or with a s",
        ):
            train(job(tmp_path), CPU, Progress())
        patch.setattr(Learner, "forward", empty)
        with pytest.raises(RaypipeError, match=r"too little memory \(MemoryError\); go on with"):
            train(job(tmp_path), CPU, Progress())
    train(job(tmp_path, steps=2), CPU, Progress())
    monkeypatch.setattr(Learner, "forward", full)
    with pytest.raises(
        RaypipeError, match="or begin in another folder with a smaller --batch-tokens and a larger --ac"
    ):
        train(job(tmp_path), CPU, Progress())
