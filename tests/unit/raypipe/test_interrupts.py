"""Ctrl-C and SIGTERM: who takes them, when, and what becomes of those whose exception was lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from index.store import Store
from raypipe.ingest import ingest
from raypipe.interrupts import check, held, interruptible, obeyed

STOPS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """No test leaves handlers behind."""
    before = [signal.getsignal(number) for number in STOPS]
    yield
    assert [signal.getsignal(number) for number in STOPS] == before


def lose(number: int) -> None:
    """As C code does, whose callers do not hear of errors."""
    with suppress(KeyboardInterrupt):
        signal.raise_signal(number)


@pytest.mark.parametrize("number", STOPS)
def test_a_lost_stop_is_found(number: int) -> None:
    with interruptible():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        with interruptible(), pytest.raises(KeyboardInterrupt):
            check()
        obeyed()
        check()
        lose(number)
    check()  # what comes next in this process is not stopped by it


def test_ingest_ends_after_a_lost_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text("".join(f">r{n}\n{'ACGU' * 50}\n" for n in range(70_000)))
    store, read = Store.open_or_create(tmp_path / "atlas"), []

    def progress(records: int) -> None:
        read.append(records)
        lose(signal.SIGINT)

    with store.lock(), interruptible(), pytest.raises(KeyboardInterrupt):
        ingest(store, str(tmp_path / "in.fa"), progress=progress)
    assert len(read) == 1
    assert not store.sources
    assert not list((tmp_path / "atlas").glob(".tmp/*"))


def test_handlers_of_others_stay() -> None:
    heard: list[int] = []
    for handler in (signal.SIG_IGN, lambda number, _: heard.append(number)):
        before = signal.signal(signal.SIGINT, handler)
        try:
            with interruptible():
                signal.raise_signal(signal.SIGINT)
                check()
        finally:
            signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


@pytest.mark.parametrize("number", STOPS)
def test_held_back_until_the_end_of_a_block(number: int) -> None:
    done = []

    def block() -> None:
        with interruptible():
            with held():
                signal.signal(signal.SIGTERM, lambda *_: os.abort())  # as Ray does
                signal.raise_signal(number)
                signal.raise_signal(number)
                done.append("the block")
            done.append("what comes after it")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["the block"]


def test_held_back_nothing() -> None:
    with held():
        before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert signal.signal(signal.SIGUSR1, before) == signal.SIG_IGN
