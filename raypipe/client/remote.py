"""An atlas behind a server, asked as one on this machine is."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from raypipe.bars import bar
from raypipe.client import calls
from raypipe.client.calls import Call, Job, Limits
from raypipe.client.lines import Line
from raypipe.queries import Queries
from raypipe.results import Result
from raypipe.searchable import Searchable
from raypipe.searching import Question, Search

T = TypeVar("T")
TIMEOUT_SECONDS, RETRIES, AT_ONCE = 120.0, 4, 4


class RemoteAtlas(Searchable[Search]):
    """An atlas behind `raypipe serve`; its calls are those of `raypipe.atlas.Atlas`, with the same answers and errors.

    Connections are kept and reused: close it, or use it in a `with` block. Safe to ask from several threads.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        retries: int = RETRIES,
        verify: Any = True,
    ):
        """Nothing is asked yet.

        Args:
            url: of the server, such as http://127.0.0.1:8000.
            token: that the server wants; $RAYPIPE_TOKEN if None.
            timeout: seconds without an answer after which a call is given up.
            retries: a call is sent again so often where the server cannot be reached, or is busy or not ready (429 and
                503), after pauses that grow, or as long as it asks for (Retry-After).
            verify: False, or an ssl.SSLContext, where the server's certificate is none that this machine knows.

        Raises:
            UsageError: a token or a time that cannot be.
        """
        self._line = Line(url, token, timeout=timeout, retries=retries, verify=verify)

    def __enter__(self) -> RemoteAtlas:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RemoteAtlas({self.url!r})"

    @property
    def url(self) -> str:
        """Of the server."""
        return self._line.url

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    def search_for(self, question: Question) -> Search:
        """See `Searchable`.

        Many queries are sent in parts that fit the server's limits; where a new index comes between two of them, the
        answer's `how` tells its "versions".
        """
        return Search(self._answer, question)

    def vectors(self, ids: Sequence[str] | None = None, *, seq_ids: Sequence[int] | None = None) -> np.ndarray:
        """The stored vectors of records, or of sequences: (N, D) float32, in the order asked for."""
        return self._do(calls.vectors_job(ids, seq_ids, self._limits(ids if seq_ids is None else seq_ids)))

    def embed(self, sequences: Queries) -> np.ndarray:
        """(N, D) float32 vectors of `sequences`, made as the atlas's own were."""
        return self._do(calls.embed_job(sequences, self._limits(sequences)))

    def fill_mask(self, sequences: Queries, top_k: int = 5) -> Result:
        """The likeliest tokens for every <mask>: see `raypipe.atlas.Atlas.fill_mask`."""
        return self._do(calls.fill_mask_job(sequences, top_k, self._limits(sequences)))

    def predict(self, sequences: Queries, heads: Sequence[str]) -> dict[str, Result]:
        """What heads of the atlas's model say: see `raypipe.atlas.Atlas.predict`."""
        jobs = calls.predict_jobs(sequences, heads, self._limits(sequences))
        return {head: self._do(job) for head, job in jobs.items()}

    def sql(self, query: str, params: Any = None) -> Result:
        """Answer one SELECT; where the server's limit cut rows off, the result is `truncated`."""
        return self._do(calls.sql_job(query, params))

    def get(self, ids: Sequence[str]) -> Result:
        """The records of `ids` with their sequences, in the order asked for."""
        return self._do(calls.get_job(ids, self._limits(ids)))

    def info(self) -> dict[str, Any]:
        """What the atlas holds, in numbers and names; the server's "limits" and version besides."""
        return {"path": self.url, **self._do(calls.info_job())}

    def _answer(self, question: Question) -> Result:
        job = calls.search_job(question, self._limits(question), self.vectors_of)
        return self._do(job, question.progress)

    def vectors_of(self, table: pa.Table) -> np.ndarray:
        """The stored vectors of hits, (N, D) float32, by their column seq_id or id."""
        if "seq_id" in table.column_names:
            return self.vectors(seq_ids=table["seq_id"].to_pylist())
        return self.vectors(table["id"].to_pylist())

    @cached_property
    def _known_limits(self) -> Limits:
        return Limits.of(self.info())

    def _limits(self, queries: Any) -> Limits:
        """Of the server, which is asked for them where there are several queries."""
        return self._known_limits if calls.number_of(queries) > 1 else Limits()

    def _do(self, job: Job[T], progress: bool = False) -> T:
        if len(job.calls) == 1 and not progress:
            return job.join([self._line.ask(job.calls[0])])
        answers: list[Any] = [None] * len(job.calls)
        with bar("queries", job.queries, progress) as advance, _side_by_side(self._line.ask, job.calls) as answered:
            for place, answer in answered:
                answers[place] = answer
                advance(job.calls[place].queries)
        return job.join(answers)


@contextmanager
def _side_by_side(ask: Callable[[Call], Any], calls: Sequence[Call]) -> Iterator[Iterator[tuple[int, Any]]]:
    """Yields the answers of calls with their places, as they come; the error of one is raised where they are taken.

    Behind the block nobody waits for what is on its way, nor does the end of the program: the threads are daemons, and
    not those of a pool, which Ctrl-C would have to wait for.
    """
    todo, stopped = iter(enumerate(calls)), threading.Event()
    taking, done = threading.Lock(), queue.SimpleQueue[tuple[int, Any, BaseException | None]]()

    def work() -> None:
        while not stopped.is_set():
            with taking:
                place, call = next(todo, (-1, None))
            if call is None:
                return
            try:
                done.put((place, ask(call), None))
            except BaseException as error:
                done.put((place, None, error))

    def answers() -> Iterator[tuple[int, Any]]:
        for _ in calls:
            place, answer, error = done.get()
            if error is not None:
                raise error
            yield place, answer

    for number in range(min(AT_ONCE, len(calls))):
        threading.Thread(target=work, name=f"raypipe-{number}", daemon=True).start()
    try:
        yield answers()
    finally:
        stopped.set()
