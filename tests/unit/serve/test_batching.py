"""Work of many requests as one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from raypipe.serve.batching import Batch, Batcher, Closed, Exhausted, Full, out_of_memory

SECONDS = 10


class Work:
    """Doubles numbers, and remembers what it was given together; waits at `gate` while that is closed."""

    def __init__(self, fails: Callable[[list[int]], Exception | None] = lambda items: None):
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.gate.set()
        self._fails = fails

    def __call__(self, items: list[int]) -> list[int]:
        self.begun.set()
        assert self.gate.wait(SECONDS)
        if error := self._fails(items):
            raise error
        self.batches.append(items)
        return [2 * item for item in items]


@contextmanager
def batcher(budget: int = 10, most: int = 1000, wait: float = 0.0) -> Iterator[tuple[Batcher, list[Batch]]]:
    """A running one, and what it tells of its batches."""
    told: list[Batch] = []
    made = Batcher("test", budget, most=most, wait_seconds=wait, done=told.append)
    made.start()
    yield made, told
    made.close()


def held(made: Batcher, work: Work) -> Future[list[Any]]:
    """Keep the thread busy with one item, so that what comes next waits; let it go by `work.gate.set()`."""
    work.gate.clear()
    first = made.submit("k", work, [0], [1])
    assert work.begun.wait(SECONDS)
    return first


def answer(future: Future[list[Any]]) -> list[int]:
    return [item for part in future.result(SECONDS) for item in part]


def test_what_waits_is_done_together_and_each_gets_its_own() -> None:
    work = Work()
    with batcher() as (made, told):
        first = held(made, work)
        others = [made.submit("k", work, list(range(low, low + 3)), [1] * 3) for low in (10, 20, 30)]
        work.gate.set()
        assert answer(first) == [0]
        assert [answer(each) for each in others] == [[2 * (low + i) for i in range(3)] for low in (10, 20, 30)]
    assert work.batches == [[0], [10, 11, 12, 20, 21, 22, 30, 31, 32]]
    assert [(batch.requests, batch.items, batch.cost) for batch in told] == [(1, 1, 1), (3, 9, 9)]


def test_a_batch_keeps_to_its_budget_but_for_an_item_that_is_larger_alone() -> None:
    work = Work()
    with batcher(budget=5) as (made, _):
        held(made, work)
        long = made.submit("k", work, [1, 2, 3, 4], [2, 2, 9, 2])
        work.gate.set()
        assert answer(long) == [2, 4, 6, 8]
    assert work.batches == [[0], [1, 2], [3], [4]]


def test_other_keys_are_other_batches_and_have_their_turn() -> None:
    work, other = Work(), Work()
    with batcher(budget=2) as (made, _):
        held(made, work)
        large = made.submit("k", work, list(range(100)), [1] * 100)
        small = made.submit("other", other, [7], [1])
        work.gate.set()
        assert answer(small) == [14]
        assert not large.done() or len(work.batches) == 51
        assert answer(large) == [2 * item for item in range(100)]
    assert other.batches == [[7]]


def test_a_small_request_does_not_wait_for_a_large_one() -> None:
    work = Work()
    with batcher(budget=10) as (made, _):
        held(made, work)
        made.submit("k", work, list(range(1000, 1500)), [1] * 500)
        small = made.submit("k", work, [1, 2], [1, 1])
        work.gate.set()
        assert answer(small) == [2, 4]
    assert {1, 2} <= set(work.batches[1])


def test_what_was_cancelled_is_not_done() -> None:
    work = Work()
    with batcher() as (made, _):
        held(made, work)
        gone = made.submit("k", work, [1], [1])
        stays = made.submit("k", work, [2], [1])
        assert gone.cancel()
        work.gate.set()
        assert answer(stays) == [4]
        assert made.waiting == 0
    assert work.batches == [[0], [2]]


def test_more_than_may_wait_is_refused_unless_nothing_else_waits() -> None:
    work = Work()
    with batcher(most=5) as (made, _):
        assert answer(made.submit("k", work, list(range(9)), [1] * 9)) == [2 * item for item in range(9)]
        work.begun.clear()
        held(made, work)
        made.submit("k", work, [1] * 4, [1] * 4)
        with pytest.raises(Full):
            made.submit("k", work, [1, 2], [1, 1])
        work.gate.set()


def test_whoever_is_at_fault_fails_alone() -> None:
    work = Work(lambda items: ValueError("13") if 13 in items else None)
    with batcher() as (made, _):
        held(made, work)
        good, bad, late = (made.submit("k", work, [item], [1]) for item in (12, 13, 14))
        work.gate.set()
        assert answer(good) == [24]
        assert answer(late) == [28]
        with pytest.raises(ValueError, match="13"):
            bad.result(SECONDS)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried")])
def test_too_large_for_the_memory_is_halved_and_goes_on(error: Exception) -> None:
    work = Work(lambda items: error if len(items) > 2 else None)
    with batcher(budget=8) as (made, told):
        held(made, work)
        several = [made.submit("k", work, list(range(low, low + 3)), [1] * 3) for low in (10, 20, 30)]
        work.gate.set()
        assert [answer(each) for each in several] == [[2 * (low + i) for i in range(3)] for low in (10, 20, 30)]
        assert any(batch.halved for batch in told)
        # The next batches are smaller to begin with, and grow again.
        work.batches.clear()
        again = made.submit("k", work, list(range(8)), [1] * 8)
        assert answer(again) == [2 * item for item in range(8)]
    assert out_of_memory(error)


def test_one_item_that_does_not_fit_alone_fails_alone_and_work_goes_on() -> None:
    work = Work(lambda items: MemoryError() if 13 in items else None)
    with batcher() as (made, _):
        held(made, work)
        good, bad = made.submit("k", work, [1, 2, 3], [1] * 3), made.submit("k", work, [12, 13, 14], [1] * 3)
        work.gate.set()
        assert answer(good) == [2, 4, 6]
        with pytest.raises(Exhausted):
            bad.result(SECONDS)
        assert answer(made.submit("k", work, [5], [1])) == [10]
        assert made.waiting == 0


def test_it_waits_for_company_where_there_was_some_and_for_nobody_else() -> None:
    work = Work()
    with batcher(wait=5.0) as (made, told):
        begin = time.monotonic()
        assert answer(made.submit("k", work, [1], [1])) == [2]
        assert time.monotonic() - begin < 2.5  # alone: at once
        work.begun.clear()
        held(made, work)
        pair = [made.submit("k", work, [item], [1]) for item in (2, 3)]
        work.gate.set()
        assert [answer(each) for each in pair] == [[4], [6]]
        # Two were about, so the first of the next waits for the second.
        first = made.submit("k", work, [4], [1])
        time.sleep(0.05)
        assert not first.done()
        assert answer(made.submit("k", work, [5], [1])) == [10]
        assert answer(first) == [8]
    assert [batch.requests for batch in told] == [1, 1, 2, 2]


def test_closed() -> None:
    work = Work()
    made = Batcher("test", 10, most=100)
    made.start()
    first = held(made, work)
    waits = made.submit("k", work, [1], [1])
    closing = threading.Thread(target=made.close)
    closing.start()
    time.sleep(0.01)
    work.gate.set()
    closing.join(SECONDS)
    assert answer(first) == [0]
    with pytest.raises(Closed):
        waits.result(SECONDS)
    with pytest.raises(Closed):
        made.submit("k", work, [1], [1])
    assert not made.alive
