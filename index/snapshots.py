"""The snapshot of a store that statements of SQL are answered from, opened anew when something in the store changed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from index.annotation_tables import FOLDER as ANNOTATIONS
from index.graph import FOLDER as NEIGHBORS
from index.info import INDEX
from index.places import RemotePath
from index.sql import Params, Snapshot
from index.store import MANIFEST, Store
from index.versions import CURRENT

# What took longer has filled DuckDB's memory, and to open the store again is little beside it.
QUICK = 1.0
Stamp = tuple[tuple[int, int, int] | str | None, ...]


class Snapshots:
    """One snapshot at a time; safe to ask from several threads, and those that read an old one finish."""

    def __init__(self, store: Store, open_snapshot: Callable[[Store], Snapshot], *, reread: bool = False):
        """
        Args:
            reread: whether to read the manifest anew too when the store changed; else it stays that of `store`.
        """
        self._store, self._open, self._reread = store, open_snapshot, reread
        self._lock = threading.Lock()
        self._stamp: Stamp = ()
        self._snapshot: Snapshot | None = None
        self._readers: dict[Snapshot, int] = {}

    def query(self, sql: str, params: Params = None) -> pa.Table:
        """As `index.sql.query`."""
        begin = time.monotonic()
        with self.reading() as snapshot:
            table = snapshot.query(sql, params)
        if time.monotonic() - begin > QUICK:
            self.close()
        return table

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """The snapshot of the store as it is now; it stays open meanwhile.

        Raises:
            StoreError: the store is gone, or damaged.
        """
        stamp = state(self._store)
        with self._lock:
            if self._snapshot is None or stamp != self._stamp:
                if self._reread:
                    self._store = Store.open(self._store.root)
                fresh = self._open(self._store)
                self._retire()
                self._snapshot, self._stamp = fresh, stamp
            snapshot = self._snapshot
            self._readers[snapshot] = self._readers.get(snapshot, 0) + 1
        try:
            yield snapshot
        finally:
            with self._lock:
                self._readers[snapshot] -= 1
                if not self._readers[snapshot]:
                    del self._readers[snapshot]
                    if snapshot is not self._snapshot:
                        snapshot.close()

    def close(self) -> None:
        """Close the snapshot when its last reader is done; the next question opens another."""
        with self._lock:
            self._retire()

    def _retire(self) -> None:
        old, self._snapshot = self._snapshot, None
        if old is not None and old not in self._readers:
            old.close()


def state(store: Store) -> Stamp:
    """What changes when a file of the store comes, goes or is replaced; in an object store, when it is published."""
    root = store.root
    files = (MANIFEST, f"{INDEX}/{CURRENT}", f"{ANNOTATIONS}/{CURRENT}", f"{NEIGHBORS}/graph.json")
    if isinstance(root, RemotePath):
        return tuple(_text(root / name) for name in files)
    sets = [f"{made.main}/{made.name}" for made in (*store.embeddings.values(), *store.predictions.values())]
    return tuple(_stamp(os.path.join(root, name)) for name in (*files, NEIGHBORS, "records", "rejects", *sets))


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _text(file: RemotePath) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None
