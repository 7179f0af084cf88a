"""The atlas as it stands: opened once, opened anew when something newer was published, while old readers finish."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from index.annotation_tables import FOLDER as ANNOTATIONS
from index.errors import NoIndexError, StaleIndexError, StoreError
from index.info import INDEX
from index.places import Place, place
from index.store import MANIFEST, Embedding
from index.versions import CURRENT, current
from model.errors import ModelError
from raypipe.atlas import Atlas
from raypipe.errors import RaypipeError
from raypipe.failures import answering
from raypipe.queries import Queries, clean_queries
from raypipe.results import Result
from raypipe.searching import Question
from raypipe.serve.faults import Refusal
from raypipe.serve.logs import say
from raypipe.serve.metrics import Metrics
from raypipe.serve.settings import ServeSettings

# Versions that cannot be opened are tried again less and less often: opening may take a while, and a disk.
SLOWEST_TRY = 60.0


class Ways(Protocol):
    """What an atlas leaves to the server."""

    def embed_from_thread(self, atlas: ServedAtlas, sequences: list[str]) -> np.ndarray:
        """(N, D) float32 of clean sequences."""
        ...

    def matching(self, where: str) -> np.ndarray:
        """The sequences that meet a condition: sorted seq_ids, int64 (n,)."""
        ...


State = tuple[object, ...]


class ServedAtlas(Atlas):
    """An atlas whose queries are embedded by the server's encoder, with those of others, and whose conditions are
    matched behind the fence.

    Attributes:
        most_rows: that a search may give where records are expanded.
    """

    def __init__(self, settings: ServeSettings, ways: Ways):
        """Open it; see `Atlas`."""
        super().__init__(
            settings.atlas,
            model=settings.model,
            device=settings.device,
            allow_stale=settings.allow_stale,
            shards=settings.shards,
            address=settings.address if settings.shards else None,
        )
        self._ways, self._most_hits = ways, settings.max_k
        self.most_rows = settings.max_hits

    def embed(self, sequences: Queries) -> np.ndarray:
        """(N, D) float32, waiting for the encoder's thread; so not to be called from it."""
        return self._ways.embed_from_thread(self, clean_queries(sequences)[1])

    def embed_here(self, sequences: list[str]) -> np.ndarray:
        """(N, D) float32, in this thread."""
        return super().embed(sequences)

    def _matching(self, where: str) -> np.ndarray:
        return self._ways.matching(where)

    def _answer(self, question: Question) -> Result:
        if question.k > self._most_hits:  # of SQL's search(), which nobody has looked at before
            raise Refusal("too_large", f"k is {question.k:,}; this server gives {self._most_hits:,} hits of a query")
        return super()._answer(question)

    def allowed(self, where: str) -> Any:
        """What the searcher makes of a condition; kept for the next time."""
        with answering():
            return self._allowed(where)

    @property
    def sharded(self) -> bool:
        """Whether its index is searched by Ray actors."""
        return self._shards is not None

    @property
    def embedding(self) -> Embedding:
        """The set of vectors that queries are embedded like."""
        return self._heads.embedding

    @property
    def indexed(self) -> Embedding:
        """The set of vectors that is searched; there is an index."""
        return self.store.embedding(self.searcher.info.embeddings)

    def take_over(self, other: ServedAtlas) -> None:
        """The model of `other`, where it is loaded and fits; else load it.

        Raises:
            StoreError: nothing is embedded yet, or the model is not what it was.
        """
        loaded = other._loaded.get("heads")
        if loaded is not None and loaded.embedding.fingerprint == self._embedding.fingerprint:
            self._loaded["heads"] = loaded


class Snapshot:
    """The atlas as it was opened.

    Attributes:
        atlas: to be asked.
        unusable: why it cannot be searched, if so.
    """

    def __init__(self, atlas: ServedAtlas, unusable: StoreError | None):
        self.atlas, self.unusable = atlas, unusable
        self._readers, self._retired = 0, False
        self._lock = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """It stays open meanwhile."""
        with self._lock:
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                last = self._retired and not self._readers
            if last:
                self.atlas.close()

    def retire(self) -> None:
        """Close it when its last reader is done."""
        with self._lock:
            self._retired = True
            last = not self._readers
        if last:
            self.atlas.close()

    @cached_property
    def about(self) -> dict[str, Any]:
        """What `Atlas.info` says; looked up once."""
        return self.atlas.info()

    def searchable(self) -> None:
        """
        Raises:
            index.errors.StoreError: it has no index, or a stale one.
        """
        if self.unusable is not None:
            raise self.unusable.with_traceback(None)


class Live:
    """The snapshot that is asked now, and what looks for a newer one."""

    def __init__(self, settings: ServeSettings, metrics: Metrics, ways: Ways):
        self._settings, self._metrics, self._ways = settings, metrics, ways
        self._root: Place = place(settings.atlas)
        self._state: State = ()
        self._failed: State | None = None
        self._next_try, self._pause = 0.0, settings.watch_seconds
        self._snapshot: Snapshot | None = None
        self._gone = False
        self._changing = threading.Lock()

    def open(self) -> None:
        """Open the atlas for the first time.

        Raises:
            StoreError: there is none, or it is damaged.
            StoreError, RaypipeError, ModelError: the model, or the device, that is asked for cannot be had.
        """
        self._state = self._look()
        self._swap(self._opened(None))

    def close(self) -> None:
        """Close it when its last reader is done."""
        if self._snapshot is not None:
            self._snapshot.retire()
            self._snapshot = None

    @property
    def ready(self) -> bool:
        """Whether questions are answered."""
        return self._snapshot is not None and not self._gone

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """The snapshot of now; it stays open while it is used.

        Raises:
            Refusal: the atlas is gone, or this is closed.
        """
        snapshot = self._snapshot
        if snapshot is None:
            raise Refusal("unavailable", "the server stops", "ask again: another one, or this one when it is back")
        if self._gone:
            raise Refusal("unavailable", "the atlas is gone from its place", "bring it back; then it is served again")
        with snapshot.reading():
            yield snapshot

    async def watch(self) -> None:
        """Look for what is new, for ever."""
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:  # the next look may do better; the log says what it was
                say("looking for new versions failed", level=logging.ERROR, error=error)

    def refresh(self) -> None:
        """Take up what was published since, if anything was. Safe to be called from several threads."""
        with self._changing:
            self._refresh()

    def _refresh(self) -> None:
        state = self._look()
        gone = state[0] is None
        if gone != self._gone:
            self._gone = gone
            say("the atlas is gone" if gone else "the atlas is back", level=logging.WARNING)
        if gone or state == self._state:
            return
        now = time.monotonic()
        if state == self._failed and now < self._next_try:
            return
        self._pause = self._settings.watch_seconds if state != self._failed else min(SLOWEST_TRY, 2 * self._pause)
        try:
            snapshot = self._opened(self._snapshot)
        except (StoreError, RaypipeError, ModelError, OSError) as error:
            self._failed, self._next_try = state, now + self._pause
            self._metrics.refused.inc()
            # Said once; counted each time.
            level = logging.WARNING if self._pause == self._settings.watch_seconds else logging.DEBUG
            say("what is new cannot be served; what stood before still is", level=level, why=str(error))
            return
        self._state, self._failed = state, None
        self._swap(snapshot)
        self._metrics.taken_up.inc()
        say("taken up", index=_version(snapshot), annotations=self._annotations())

    def _look(self) -> State:
        """By what a change is noticed: of the manifest and of the two files that name versions."""
        return tuple(_stamp(self._root / name) for name in (MANIFEST, f"{INDEX}/{CURRENT}", f"{ANNOTATIONS}/{CURRENT}"))

    def _opened(self, before: Snapshot | None) -> Snapshot:
        atlas = ServedAtlas(self._settings, self._ways)
        unusable: StoreError | None = None
        try:
            _ = atlas.searcher
        except NoIndexError as error:
            unusable = error
        except StaleIndexError as error:
            # The old index and its store fit together; they are searched until the new index is there.
            if before is not None and before.unusable is None:
                raise
            unusable = error
        try:
            if before is not None:
                atlas.take_over(before.atlas)
            _ = atlas.model  # now, not while somebody waits
        except (StoreError, RaypipeError, ModelError) as error:
            if before is None and (self._settings.model is not None or self._settings.device is not None):
                raise  # it was asked for
            say("sequences cannot be embedded", level=logging.WARNING, why=str(error))
        return Snapshot(atlas, unusable)

    def _swap(self, snapshot: Snapshot) -> None:
        old, self._snapshot = self._snapshot, snapshot
        self._metrics.index.clear()
        if snapshot.unusable is None:
            info = snapshot.atlas.searcher.info
            self._metrics.index.labels(info.version, info.type, str(info.rows)).set(1)
        self._metrics.annotations.clear()
        self._metrics.annotations.labels(self._annotations()).set(1)
        if old is not None:
            old.retire()

    def _annotations(self) -> str:
        try:
            return current(self._root / ANNOTATIONS) or "none"
        except StoreError:
            return "damaged"


def _version(snapshot: Snapshot) -> str:
    return "none" if snapshot.unusable is not None else snapshot.atlas.searcher.info.version


def _stamp(file: Place) -> State | None:
    """What changes when `file` does; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return getattr(status, "st_ino", 0), status.st_size, status.st_mtime_ns
