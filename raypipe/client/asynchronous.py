"""Atlases for asyncio: the same calls, awaited.

async with await raypipe.connect_async("http://127.0.0.1:8000") as atlas:
    hits = await atlas.search("GGUC...", k=5)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from raypipe.bars import bar
from raypipe.client import calls
from raypipe.client.calls import Call, Job, Limits
from raypipe.client.lines import AsyncLine
from raypipe.client.remote import AT_ONCE, RETRIES, TIMEOUT_SECONDS, RemoteAtlas
from raypipe.queries import Queries
from raypipe.results import Result
from raypipe.searchable import Searchable
from raypipe.searching import AsyncSearch, Question

T = TypeVar("T")


class AsyncAtlas(Searchable[AsyncSearch]):
    """An atlas on this machine, asked in threads: what blocks blocks no loop. Its calls are those of `Atlas`."""

    def __init__(self, atlas: Any):
        """Wrap an opened `raypipe.atlas.Atlas`, which is closed with this."""
        self._atlas = atlas

    async def __aenter__(self) -> AsyncAtlas:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Atlas.close`."""
        await asyncio.to_thread(self._atlas.close)

    def search_for(self, question: Question) -> AsyncSearch:
        """See `Searchable`."""

        async def run(asked: Question) -> Result:
            return await asyncio.to_thread(self._atlas._answer, asked)

        return AsyncSearch(run, question)

    async def vectors(self, ids: Sequence[str] | None = None, *, seq_ids: Sequence[int] | None = None) -> np.ndarray:
        """See `Atlas.vectors`."""
        return await asyncio.to_thread(self._atlas.vectors, ids, seq_ids=seq_ids)

    async def embed(self, sequences: Queries) -> np.ndarray:
        """See `Atlas.embed`."""
        return await asyncio.to_thread(self._atlas.embed, sequences)

    async def fill_mask(self, sequences: Queries, top_k: int = 5) -> Result:
        """See `Atlas.fill_mask`."""
        return await asyncio.to_thread(self._atlas.fill_mask, sequences, top_k)

    async def predict(self, sequences: Queries, heads: Sequence[str]) -> dict[str, Result]:
        """See `Atlas.predict`."""
        return await asyncio.to_thread(self._atlas.predict, sequences, heads)

    async def sql(self, query: str, params: Any = None) -> Result:
        """See `Atlas.sql`."""
        return await asyncio.to_thread(self._atlas.sql, query, params)

    async def get(self, ids: Sequence[str]) -> Result:
        """See `Atlas.get`."""
        return await asyncio.to_thread(self._atlas.get, ids)

    async def info(self) -> dict[str, Any]:
        """See `Atlas.info`."""
        return await asyncio.to_thread(self._atlas.info)


class AsyncRemoteAtlas(Searchable[AsyncSearch]):
    """An atlas behind a server; its options are those of `RemoteAtlas`, and its calls."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        retries: int = RETRIES,
        verify: Any = True,
    ):
        self._line = AsyncLine(url, token, timeout=timeout, retries=retries, verify=verify)
        # For AnnData, which is made of a result without await.
        self._twin = partial(RemoteAtlas, url, token, timeout=timeout, retries=retries, verify=verify)
        self._known_limits: Limits | None = None

    async def __aenter__(self) -> AsyncRemoteAtlas:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncRemoteAtlas({self._line.url!r})"

    async def close(self) -> None:
        """Hang up."""
        await self._line.close()

    def search_for(self, question: Question) -> AsyncSearch:
        """See `Searchable`."""
        return AsyncSearch(self._answer, question)

    async def vectors(self, ids: Sequence[str] | None = None, *, seq_ids: Sequence[int] | None = None) -> np.ndarray:
        """See `raypipe.atlas.Atlas.vectors`."""
        limits = await self._limits(ids if seq_ids is None else seq_ids)
        return await self._do(calls.vectors_job(ids, seq_ids, limits))

    async def embed(self, sequences: Queries) -> np.ndarray:
        """See `raypipe.atlas.Atlas.embed`."""
        return await self._do(calls.embed_job(sequences, await self._limits(sequences)))

    async def fill_mask(self, sequences: Queries, top_k: int = 5) -> Result:
        """See `raypipe.atlas.Atlas.fill_mask`."""
        return await self._do(calls.fill_mask_job(sequences, top_k, await self._limits(sequences)))

    async def predict(self, sequences: Queries, heads: Sequence[str]) -> dict[str, Result]:
        """See `raypipe.atlas.Atlas.predict`."""
        jobs = calls.predict_jobs(sequences, heads, await self._limits(sequences))
        return {head: await self._do(job) for head, job in jobs.items()}

    async def sql(self, query: str, params: Any = None) -> Result:
        """See `raypipe.atlas.Atlas.sql`."""
        return await self._do(calls.sql_job(query, params))

    async def get(self, ids: Sequence[str]) -> Result:
        """See `raypipe.atlas.Atlas.get`."""
        return await self._do(calls.get_job(ids, await self._limits(ids)))

    async def info(self) -> dict[str, Any]:
        """See `raypipe.atlas.Atlas.info`."""
        return {"path": self._line.url, **await self._do(calls.info_job())}

    async def _answer(self, question: Question) -> Result:
        job = calls.search_job(question, await self._limits(question), self._vectors_of)
        return await self._do(job, question.progress)

    def _vectors_of(self, table: pa.Table) -> np.ndarray:
        with self._twin() as atlas:
            return atlas.vectors_of(table)

    async def _limits(self, queries: Any) -> Limits:
        if calls.number_of(queries) < 2:
            return Limits()
        if self._known_limits is None:
            self._known_limits = Limits.of(await self.info())
        return self._known_limits

    async def _do(self, job: Job[T], progress: bool = False) -> T:
        turns = asyncio.Semaphore(AT_ONCE)
        with bar("queries", job.queries, progress) as advance:

            async def ask(call: Call) -> Any:
                async with turns:
                    answer = await self._line.ask(call)
                advance(call.queries)
                return answer

            asked = [asyncio.ensure_future(ask(call)) for call in job.calls]
            try:
                return job.join(await asyncio.gather(*asked))
            finally:
                for task in asked:  # where one failed the others are given up
                    task.cancel()
