"""SQL of strangers, for a server: fenced by its syntax, and answered in processes that may be lost.

DuckDB's own limits do not hold everywhere: a function of text may take the whole memory within one call, and nothing
stops it there. So statements run in processes of their own, with limits of the system on memory, which end when their
time is over, and are replaced. They search by asking back.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from index.fence_limits import FencedResult, FenceError, Limits, bytes_of, check_length
from index.fence_worker import Worker
from index.functions import Asker

__all__ = ["FenceError", "FencedResult", "FencedSql", "Limits"]


class FencedSql:
    """Answers the SQL of strangers over one store; safe to ask from several threads.

    Every process keeps the store open, and opens it anew when something in it changed.
    """

    def __init__(self, root: str | os.PathLike[str], limits: Limits | None = None):
        """
        Args:
            root: folder of the store, or its URI.

        Raises:
            QuestionError: a limit that is no size.
        """
        self.limits = limits or Limits()
        for size in (self.limits.memory, self.limits.spill):
            bytes_of(size)
        self._root = os.fspath(root) if "://" in os.fspath(root) else os.path.abspath(root)
        self._free = threading.BoundedSemaphore(self.limits.processes)
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> FencedSql:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def query(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None, asker: Asker | None = None
    ) -> FencedResult:
        """Answer one SELECT.

        Args:
            params: for `?` or `$name`; what JSON can say.
            asker: who answers search(), neighbors() and embed(); what it raises is raised here.

        Raises:
            FenceError: it took too much time (code "timeout") or memory ("too_large"), or all processes were busy for
                as long ("busy").
            QuestionError: a statement that is refused or wrong, or a store that cannot be read, by its code. The
                message names no folder of this machine.
        """
        check_length(sql)
        with self._worker() as worker:
            return worker.answer(sql, params, asker)

    def matching_sequences(self, where: str) -> np.ndarray:
        """As `index.filters.matching_sequences`: sorted seq_ids, int64 (n,), for which a stranger's condition holds.

        Raises:
            FenceError, QuestionError: as `query`.
        """
        check_length(where)
        with self._worker() as worker:
            return worker.matching(where)

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        if not self._free.acquire(timeout=self.limits.seconds):
            raise FenceError("too many SQL statements at a time; ask again", "busy")
        worker: Worker | None = None
        try:
            worker = self._take()
            yield worker
        finally:
            if worker is not None:
                self._put(worker)
            self._free.release()

    def start(self) -> None:
        """Start a process now, so that the first question need not wait for it."""
        self._put(self._take())

    def close(self) -> None:
        """End the processes; statements under way are finished first."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()

    def _take(self) -> Worker:
        with self._lock:
            if self._closed:
                raise FenceError("the server stops", "unavailable")
            ended = [worker for worker in self._idle if not worker.alive]
            self._idle = [worker for worker in self._idle if worker.alive]
            found = self._idle.pop() if self._idle else None
        for worker in ended:  # somebody killed it while it waited
            worker.end()
        return found or Worker(self._root, self.limits)

    def _put(self, worker: Worker) -> None:
        with self._lock:
            if worker.usable and not self._closed:
                self._idle.append(worker)
                return
        worker.end()
