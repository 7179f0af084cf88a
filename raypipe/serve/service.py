"""What the server does for a request: checks it against the limits, gathers it with others, asks the atlas.

Shapes: N sequences, Q queries, D values of a vector as the model gives it.
"""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from threadpoolctl import ThreadpoolController

from index.errors import StoreError
from index.faiss_runtime import load_faiss
from index.fenced import FencedResult, FencedSql, Limits
from raypipe.answering import PAIRS_PER_TOKEN
from raypipe.asker import AtlasAsker
from raypipe.errors import UsageError
from raypipe.queries import MASK, clean_queries, labels
from raypipe.serve.batching import Batch, Batcher
from raypipe.serve.faults import CLOSED, Refusal
from raypipe.serve.hits import Asked, Part, search_ids, search_vectors
from raypipe.serve.live import Live, ServedAtlas, Snapshot
from raypipe.serve.metrics import Metrics
from raypipe.serve.requests import texts_of
from raypipe.serve.settings import ServeSettings

T = TypeVar("T")
# Queries of one search: more would let others wait for longer, and bring little.
SEARCH_BATCH = 64
SEARCH_QUEUE = 16_384
# Of what is looked up in files: records, descriptions, conditions.
LOOKERS = 4
# Statements that wait or run, for each that may run.
SQL_QUEUE = 8
TIDY_SECONDS = 2.0
# Letters of an answer to fill-mask, which has the whole sequence in every row.
FILLED_LETTERS = 64 << 20


class Service:
    """One atlas, asked by many.

    Attributes:
        live: the atlas of now.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics):
        self._settings, self._metrics = settings, metrics
        self._encoder = Batcher(
            "encoder",
            settings.batch_tokens,
            most=settings.max_queued_tokens,
            wait_seconds=settings.batch_wait_ms / 1000,
            done=_tidied(metrics.batch("encoder")),
        )
        note = metrics.batch("search")
        self._searches = Batcher("search", SEARCH_BATCH, most=SEARCH_QUEUE, done=note, prepare=_alone)
        # What compares with every vector, or has many queries, has a thread of its own: nobody else waits for it.
        self._slow = Batcher("slow-search", SEARCH_BATCH, most=SEARCH_QUEUE, done=note)
        self._batchers, self._opened = (self._encoder, self._searches, self._slow), False
        metrics.waiting("encoder", lambda: self._encoder.waiting)
        metrics.waiting("search", lambda: self._searches.waiting + self._slow.waiting)
        self._lookers = ThreadPoolExecutor(LOOKERS, "look-up")
        self._sql = ThreadPoolExecutor(SQL_QUEUE * settings.sql_workers, "sql")
        limits = Limits(
            seconds=settings.sql_seconds,
            rows=settings.max_rows,
            memory=settings.sql_memory,
            processes=settings.sql_workers,
        )
        self._fenced, self._statements = FencedSql(settings.atlas, limits) if settings.sql else None, 0
        # Processes of their own: a statement may wait for the condition of its search(), while it has its process.
        self._conditions = FencedSql(settings.atlas, limits)
        self.live = Live(settings, metrics, self)

    def open(self) -> None:
        """Open the atlas and start the threads; again it does nothing.

        Raises:
            StoreError: no atlas stands there, or it is damaged.
        """
        if self._opened:
            return
        self.live.open()
        for batcher in self._batchers:
            batcher.start()
        self._opened = True

    @property
    def alive(self) -> bool:
        """Whether all threads are, that work for everybody."""
        return all(batcher.alive for batcher in self._batchers)

    def close(self) -> None:
        """Finish what is being done, refuse the rest."""
        for batcher in self._batchers:
            batcher.close()
        for pool in (self._lookers, self._sql):
            pool.shutdown(cancel_futures=True)
        for fenced in (self._fenced, self._conditions):
            if fenced is not None:
                fenced.close()
        self.live.close()

    async def search_sequences(
        self, snapshot: Snapshot, asked: Asked, sequences: Any, names: Sequence[str] | None
    ) -> list[Part]:
        """The hits of sequences."""
        texts = texts_of(sequences)
        self.check_sequences(texts)
        self.check_number(len(texts), asked.k)
        named, cleaned = clean_queries(sequences, names)
        snapshot.searchable()
        await self._prepare(snapshot, asked)
        vectors = await self.embed(snapshot, cleaned)
        return await self._search(snapshot, asked, search_vectors, list(zip(named, vectors, strict=True)))

    async def search_ids(
        self, snapshot: Snapshot, asked: Asked, ids: list[str], names: Sequence[str] | None
    ) -> list[Part]:
        """The hits of records by their ids."""
        self.check_number(len(ids), asked.k)
        named = ids if names is None else labels(len(ids), names)
        snapshot.searchable()
        await self._prepare(snapshot, asked)
        return await self._search(snapshot, asked, search_ids, list(zip(named, ids, strict=True)))

    async def search_vectors(
        self, snapshot: Snapshot, asked: Asked, vectors: np.ndarray, names: Sequence[str] | None
    ) -> list[Part]:
        """The hits of (Q, D) vectors."""
        self.check_number(len(vectors), asked.k)
        if not len(vectors):
            raise UsageError("no query; give a sequence, an id or a vector")
        named = labels(len(vectors), names)
        snapshot.searchable()
        dimension = snapshot.atlas.searcher.transform.dimension
        if vectors.shape[1] != dimension:  # here, as vectors of different lengths cannot even be put together
            raise Refusal(
                "invalid",
                f"queries of shape {vectors.shape}: this index holds vectors of {dimension} values "
                f"({snapshot.atlas.searcher.info.embeddings}); embed the queries with the same model",
            )
        await self._prepare(snapshot, asked)
        return await self._search(snapshot, asked, search_vectors, list(zip(named, vectors, strict=True)))

    async def embed(self, snapshot: Snapshot, sequences: list[str]) -> np.ndarray:
        """(N, D) float32 of clean sequences."""
        return np.concatenate(await _waited(self._embedding(snapshot.atlas, sequences)))

    async def model(
        self, call: Callable[[dict[str, str]], T], names: list[str], sequences: list[str], *, pairs: bool = False
    ) -> list[T]:
        """What `call` gives for the sequences, portion by portion, in the encoder's thread.

        Args:
            call: takes sequences by their names.
            names: no two of them alike.
            pairs: whether it may look at all pairs of nucleotides, as heads for structures do.
        """
        portions: list[dict[str, str]] = []
        costs: list[int] = []
        for name, sequence in zip(names, sequences, strict=True):
            cost = _cost(sequence) + len(sequence) ** 2 // PAIRS_PER_TOKEN if pairs else _cost(sequence)
            if not portions or costs[-1] + cost > self._settings.batch_tokens:
                portions.append({})
                costs.append(0)
            portions[-1][name] = sequence
            costs[-1] += cost
        done = await _waited(self._encoder.submit(object(), lambda them: [call(one) for one in them], portions, costs))
        return [one for part in done for one in part]

    async def look_up(self, call: Callable[..., T], *arguments: Any) -> T:
        """Do something that reads files, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._lookers, partial(call, *arguments))

    async def sql(self, snapshot: Snapshot, query: str, params: Any) -> FencedResult:
        """The rows of a query.

        Raises:
            Refusal: this server answers none, or too many wait already.
        """
        if self._fenced is None:
            raise Refusal("usage", "this server answers no SQL", status=403)
        # Each has a thread that waits for a process; those would be many, and all for the same.
        if self._statements >= SQL_QUEUE * self._settings.sql_workers:
            raise Refusal("busy", f"{self._statements} SQL statements are waiting", "ask again")
        self._statements += 1
        try:
            ask = partial(self._fenced.query, query, params, AtlasAsker(snapshot.atlas))
            return await asyncio.get_running_loop().run_in_executor(self._sql, ask)
        finally:
            self._statements -= 1

    def check_sequences(self, sequences: Sequence[str]) -> None:
        """
        Raises:
            Refusal: too many, or one or all of them too long.
        """
        settings = self._settings
        self.check_number(len(sequences))
        longest, total = max(map(len, sequences), default=0), sum(map(len, sequences))
        if longest > settings.max_length:
            raise Refusal("too_large", f"a sequence of {longest:,} nt; this server takes {settings.max_length:,}")
        if total > settings.max_nucleotides:
            raise Refusal(
                "too_large",
                f"sequences of {total:,} nt in all; this server takes {settings.max_nucleotides:,} at a time",
                "send them in parts",
            )

    def check_filled(self, sequences: Sequence[str], top_k: int) -> None:
        """
        Raises:
            Refusal: so many masks that the answer would be too large.
        """
        letters = top_k * sum(len(sequence) * sequence.count(MASK) for sequence in sequences)
        if letters > FILLED_LETTERS:
            raise Refusal(
                "too_large",
                f"the sequences with their masks filled in have {letters:,} letters; this server gives "
                f"{FILLED_LETTERS:,} at a time",
                "send them in parts, or with fewer masks",
            )

    def count(self, kind: str, number: int) -> None:
        """Note so many queries."""
        self._metrics.queries.labels(kind).inc(number)

    def check_number(self, queries: int, k: int = 1) -> None:
        """
        Raises:
            Refusal: too many queries, or hits.
        """
        settings = self._settings
        if queries > settings.max_queries:
            raise Refusal(
                "too_large",
                f"{queries:,} queries; this server takes {settings.max_queries:,} at a time",
                "send them in parts",
            )
        if k > settings.max_k:
            raise Refusal("too_large", f"k is {k:,}; this server gives {settings.max_k:,} hits of a query at most")
        if queries * k > settings.max_hits:
            raise Refusal(
                "too_large",
                f"{queries:,} queries with {k:,} hits each; this server gives {settings.max_hits:,} hits at a time",
                "send them in parts, or ask for fewer hits",
            )

    async def _prepare(self, snapshot: Snapshot, asked: Asked) -> None:
        """What may take long and is not for the threads of searches: the condition is looked up, then it is at hand."""
        if asked.columns is not None:
            from index.hits import check_columns

            await self.look_up(check_columns, snapshot.atlas.store, list(asked.columns))
        if asked.where is not None:
            await self.look_up(snapshot.atlas.allowed, asked.where)

    async def _search(
        self, snapshot: Snapshot, asked: Asked, how: Callable[..., Any], queries: list[tuple[str, Any]]
    ) -> list[Part]:
        slow = asked.exact or snapshot.atlas.sharded or len(queries) > SEARCH_BATCH or asked.k > 100
        batcher = self._slow if slow else self._searches
        # Of expanded records it could not be told whose they are.
        key = object() if asked.expand_records else (id(snapshot), how, asked)
        return await _waited(batcher.submit(key, partial(how, snapshot, asked), queries, [1] * len(queries)))

    def _embedding(self, atlas: ServedAtlas, sequences: list[str]) -> Future[list[Any]]:
        return self._encoder.submit(
            ("embed", id(atlas)), atlas.embed_here, sequences, [_cost(sequence) for sequence in sequences]
        )

    def matching(self, where: str) -> np.ndarray:
        """The sequences that meet a stranger's condition: sorted seq_ids, int64 (n,)."""
        return self._conditions.matching_sequences(where)

    def embed_from_thread(self, atlas: ServedAtlas, sequences: list[str]) -> np.ndarray:
        """For SQL's own search() and embed()."""
        self.check_sequences(sequences)
        future = self._embedding(atlas, sequences)
        try:
            return np.concatenate(future.result(self._settings.request_seconds))
        except TimeoutError:
            future.cancel()
            raise


def _tidied(note: Callable[[Batch], None]) -> Callable[[Batch], None]:
    """`note`, and now and then what the encoder has freed goes back to the system: the allocator of glibc would keep it
    in pieces, twice the memory after some minutes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    last = time.monotonic()

    def done(batch: Batch) -> None:
        nonlocal last
        note(batch)
        if trim is not None and time.monotonic() - last > TIDY_SECONDS:
            trim(0)
            last = time.monotonic()

    return done


def _alone() -> None:
    """Let FAISS search without further threads in this one, and NumPy multiply without any: on a busy machine they wait
    for each other for longer than a small search takes."""
    numpys = ThreadpoolController().select(internal_api="openblas")
    for library in numpys.lib_controllers:
        if "numpy" in library.filepath:
            library.set_num_threads(1)
    with suppress(StoreError):  # not installed: whoever searches is told
        load_faiss().omp_set_num_threads(1)


def _cost(sequence: str) -> int:
    """Tokens, about: special ones included, windows of long sequences overlap."""
    return len(sequence) + 2 if len(sequence) <= 1022 else 2 * len(sequence)


async def unless_gone(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """`answer`, given up when the client goes away: nobody shall wait for the encoder because of one who does not.

    Args:
        request: whose body was read.

    Raises:
        Refusal: it is gone.
    """
    work, gone = asyncio.ensure_future(answer), asyncio.ensure_future(request.receive())
    try:
        # After the body only that comes.
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise Refusal("usage", "the client went away", status=CLOSED)
    finally:
        work.cancel()
        gone.cancel()


async def _waited(future: Future[list[Any]]) -> list[Any]:
    """The answer; given up together with who waits for it."""
    return await asyncio.wrap_future(future)
