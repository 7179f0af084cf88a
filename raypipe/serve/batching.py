"""Work of many requests done together: one thread takes what waits, up to a budget, and hands the parts back.

Used for the encoder, by tokens, and for searches, by queries. What is put together gives what each gives alone.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

Call = Callable[[list[Any]], Any]
"""Takes items of one or several requests, returns as many answers in their order, as something that can be sliced."""
# After the memory did not suffice, batches grow again by this with each that went well.
GROWTH = 1.1
# Whoever has its answer comes again within this, or is gone.
LINGER_SECONDS = 0.1


class Full(Exception):
    """More waits than may wait; ask again."""


class Exhausted(Exception):
    """The memory does not suffice for one item alone."""


class Closed(Exception):
    """The server stops."""


@dataclass(eq=False)
class _Job:
    key: Hashable
    call: Call
    items: Sequence[Any]
    costs: Sequence[int]
    future: Future[list[Any]]
    taken: int = 0
    parts: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """What was done in one go: for the metrics.

    Attributes:
        cost: of all items, in tokens or queries.
        halved: whether it was more than the memory took.
    """

    cost: int
    items: int
    requests: int
    seconds: float
    halved: bool


class Batcher:
    """A queue with a thread behind it.

    Items of different requests go together where their keys are equal. Requests share out a batch item by item, so a
    small one does not wait for a large one. What was cancelled before its turn is dropped.
    """

    def __init__(
        self,
        name: str,
        budget: int,
        *,
        most: int,
        wait_seconds: float = 0.0,
        done: Callable[[Batch], None] = lambda batch: None,
        prepare: Callable[[], None] = lambda: None,
    ):
        """Make it; `start` starts the thread.

        Args:
            budget: cost of one batch; an item that costs more is a batch of its own.
            most: cost that may wait.
            wait_seconds: for company, where the batch before had some.
            done: is told of every batch, in the thread.
            prepare: is called in the thread before all else.
        """
        self._prepare = prepare
        self._budget, self._most, self._wait, self._done = budget, most, wait_seconds, done
        self._limit = float(budget)
        self._jobs: deque[_Job] = deque()
        self._there = threading.Condition()
        self._closed = False
        self._company, self._ended = 0, 0.0
        self.waiting = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread is."""
        return self._thread.is_alive()

    def submit(self, key: Hashable, call: Call, items: Sequence[Any], costs: Sequence[int]) -> Future[list[Any]]:
        """Ask for `call(items)`, alone or with others of the same key.

        Returns:
            A future of the answers as a list of slices, which together are in the order of `items`.

        Raises:
            Full: too much waits already.
            Closed: after `close`.
        """
        job = _Job(key, call, items, costs, Future())
        cost = sum(costs)
        with self._there:
            if self._closed:
                raise Closed
            # What is larger than the whole queue may come when nothing else is there.
            if self.waiting and self.waiting + cost > self._most:
                raise Full
            self._jobs.append(job)
            self.waiting += cost
            self._there.notify()
        return job.future

    def close(self) -> None:
        """Finish what is being done, refuse the rest."""
        with self._there:
            self._closed = True
            self._there.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        self._prepare()
        while taken := self._take():
            begin = time.perf_counter()
            cost = sum(sum(job.costs[low:high]) for job, low, high in taken)
            halved = self._answer(taken)
            seconds = time.perf_counter() - begin
            with self._there:
                self._limit = min(self._budget, self._limit * GROWTH)
                self._ended = time.monotonic()
            self._done(Batch(cost, sum(high - low for _, low, high in taken), len(taken), seconds, halved))
            del taken  # or the last request's arrays stay until the next one comes
        with self._there:
            jobs, self._jobs = list(self._jobs), deque()
        for job in jobs:
            _fail(job, Closed())

    def _take(self) -> list[tuple[_Job, int, int]]:
        """The next batch: jobs, and which of their items. Empty when closed."""
        with self._there:
            until: float | None = None
            while True:
                self._drop_cancelled()
                if self._closed:
                    return []
                if not self._jobs:
                    until = None
                    self._there.wait()
                    continue
                now = time.monotonic()
                if until is None:
                    until = now + self._wait
                    if now - self._ended > LINGER_SECONDS:  # nobody is about any more
                        self._company = 0
                if self._company < 2 or len(self._jobs) >= self._company or self.waiting >= self._limit or now >= until:
                    break
                self._there.wait(until - now)
            taken = self._share_out()
            self._company = len(taken)
            for job, _, high in taken:
                self._jobs.remove(job)
                if high < len(job.items):  # behind the others, whose turn it is
                    self._jobs.append(job)
            return taken

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._jobs if job.future.cancelled()]:
            self._jobs.remove(job)
            self.waiting -= sum(job.costs[job.taken :])

    def _share_out(self) -> list[tuple[_Job, int, int]]:
        key = self._jobs[0].key
        jobs = [job for job in self._jobs if job.key == key]
        ends = {id(job): job.taken for job in jobs}
        spent, open_ = 0, deque(jobs)
        while open_:
            job = open_.popleft()
            end = ends[id(job)]
            if end == len(job.items):
                continue
            if spent and spent + job.costs[end] > self._limit:
                break
            spent += job.costs[end]
            ends[id(job)] = end + 1
            open_.append(job)
        taken = []
        for job in jobs:
            low, job.taken = job.taken, ends[id(job)]
            if job.taken > low or not job.items:
                taken.append((job, low, job.taken))
        self.waiting -= spent
        return taken

    def _answer(self, taken: list[tuple[_Job, int, int]]) -> bool:
        """Whether it had to be halved."""
        taken = [(job, low, high) for job, low, high in taken if not job.future.done()]
        if not taken:
            return False
        items = [item for job, low, high in taken for item in job.items[low:high]]
        try:
            answers = taken[0][0].call(items)
        except Exception as error:
            return self._mend(taken, items, error)
        place = 0
        for job, low, high in taken:
            job.parts.append(answers[place : place + high - low])
            place += high - low
            if high == len(job.items):
                _finish(job)
        return False

    def _mend(self, taken: list[tuple[_Job, int, int]], items: list[Any], error: Exception) -> bool:
        if out_of_memory(error):
            _free()
            if len(items) > 1:
                # The half that comes first is done first: a request's parts stay in order.
                with self._there:
                    self._limit = max(1.0, self._limit / 2)
                for half in _halves(taken, len(items) // 2):
                    self._answer(half)
                return True
            error = Exhausted()
        elif len(taken) > 1:  # whose fault it is shows alone
            for each in taken:
                self._answer([each])
            return False
        for job, _, _ in taken:
            with self._there:
                if job in self._jobs:
                    self._jobs.remove(job)
                    self.waiting -= sum(job.costs[job.taken :])
            _fail(job, error)
        return False


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory, of the machine or of a device, did not suffice."""
    # By name: torch is not loaded where nothing is embedded, nor DuckDB by a server without SQL.
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "OutOfMemoryException"):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


def _free() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _halves(taken: list[tuple[_Job, int, int]], first: int) -> list[list[tuple[_Job, int, int]]]:
    """`taken`, cut behind its `first` items."""
    halves: list[list[tuple[_Job, int, int]]] = [[], []]
    for job, low, high in taken:
        middle = min(high, low + max(0, first))
        first -= high - low
        if middle > low:
            halves[0].append((job, low, middle))
        if middle < high:
            halves[1].append((job, middle, high))
    return halves


def _finish(job: _Job) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_result(job.parts)


def _fail(job: _Job, error: Exception) -> None:
    if not job.future.done() and job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
