"""The first half of ingest: read, clean and hash one source into files of the store's temporary folder.

It touches nothing of the store, so several sources are staged at once, each in a process of its own, while those that
came before them are published in their order.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index import places
from index.schema import REJECTS
from raypipe import bootstrap
from raypipe.batches import GOOD, Batch, gathered
from raypipe.errors import RaypipeError
from raypipe.interrupts import check
from raypipe.sources import TableColumns, read_batches
from raypipe.tables import table_kind
from raypipe.unpacking import unreadable

Progress = Callable[[int], None]

STAGED = pa.schema([("ordinal", pa.int64()), *GOOD])
# Written once and read twice, then thrown away.
OPTIONS: dict[str, Any] = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}
# Files that are smaller together are read before a second process would have begun.
WORTH_PROCESSES = 64 << 20


@dataclass
class Staged:
    """A source that was read to its end.

    Attributes:
        sha256: of its bytes as stored.
        work: folder of its `records` and `rejects`; None if the content was known, and nothing was staged.
        accepted, rejected: records.
        first_reason: the first reject's line, id and reason.
    """

    sha256: str
    work: Path | None = None
    accepted: int = 0
    rejected: int = 0
    first_reason: str | None = None

    @property
    def records(self) -> Path:
        """What can be used: rows of `STAGED`."""
        return Path(self.work or "") / "records.parquet"

    @property
    def rejects(self) -> Path:
        """What is refused: rows of `REJECTS`."""
        return Path(self.work or "") / "rejects.parquet"

    def remove(self) -> None:
        """Take its files away."""
        if self.work is not None:
            shutil.rmtree(self.work, ignore_errors=True)


def stage(
    path: str,
    work: Path,
    *,
    columns: TableColumns | None = None,
    known: Collection[str] = (),
    progress: Progress | None = None,
    stdin: BinaryIO | None = None,
) -> Staged:
    """Read one source.

    Args:
        path: a file or its URI, a named pipe, or "-" for standard input.
        work: folder for what is staged; made here.
        columns: names of the id and sequence columns of a table.
        known: sha256 of contents that need not be read again.
        progress: called with the number of records read so far.
        stdin: what "-" reads, standard input by default.

    Raises:
        InputError: it cannot be read.
        OSError: the disk is full or cannot be written.
    """
    stream = _stream(path, stdin)
    if stream is None:
        sha256 = hash_file(path)
        if sha256 in known:
            return Staged(sha256)
        staged = Staged(sha256, work)
        _write(staged, storable(path), read_batches(path, columns), progress)
        return staged
    with stream as opened:
        # What can be read only once is hashed on its way.
        hashed = _Hashed(opened)
        staged = Staged("", work)
        _write(staged, storable(path), read_batches(path, columns, stream=io.BufferedReader(hashed)), progress)
        staged.sha256 = hashed.hexdigest()
        return staged


@contextmanager
def staged_ahead(
    paths: Sequence[str], work: Path, columns: TableColumns | None, known: Collection[str]
) -> Iterator[dict[str, Future[Staged]]]:
    """Stage several files at once, in processes of their own; nothing where that is not worth it.

    Yields:
        What will be staged, by path. Standard input, pipes, URIs and what cannot be read are left to `stage`.
    """
    files = list(dict.fromkeys(path for path in paths if os.path.isfile(path)))
    workers = min(len(files), len(os.sched_getaffinity(0)))
    if workers < 2 or sum(os.path.getsize(path) for path in files) < WORTH_PROCESSES:
        yield {}
        return
    # Not forked: the threads of Arrow and DuckDB would not come along. The longest first, for an even end.
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        longest = sorted(range(len(files)), key=lambda place: -os.path.getsize(files[place]))
        yield {
            files[place]: pool.submit(stage, files[place], work / str(place), columns=columns, known=frozenset(known))
            for place in longest
        }
    finally:
        # Also when stopped in the middle: nobody waits for what will not be used.
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()
                child.join()


def wait_for(future: Future[Staged], path: str) -> Staged:
    """What a process staged of `path`.

    Raises:
        RaypipeError: the process died.
        InputError, OSError: as `stage`.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RaypipeError(
            f"{path}: the process that read it died, most likely for lack of memory; ingest the files one by one"
        ) from error


def hash_file(path: str) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with places.open_stream(places.place(path)) as file:
            return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def storable(path: str) -> str:
    """`path` as text: names on old disks need not be UTF-8, what the store holds must be."""
    return os.fsencode(path).decode("utf-8", "replace")


def _begin() -> None:
    """In every process, before it imports anything that could be the user's. Ctrl-C is for the one that waits."""
    bootstrap.pin()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write(staged: Staged, name: str, batches: Iterator[Batch], progress: Progress | None) -> None:
    assert staged.work is not None
    shutil.rmtree(staged.work, ignore_errors=True)
    staged.work.mkdir(parents=True)
    with (
        pq.ParquetWriter(staged.records, STAGED, **OPTIONS) as good_file,
        pq.ParquetWriter(staged.rejects, REJECTS, **OPTIONS) as bad_file,
    ):
        for good, rejected in gathered(batches):
            check()
            if rejected:
                first = rejected[0]
                staged.first_reason = staged.first_reason or f"line {first.line}, {first.id or 'no id'}: {first.reason}"
                rows = [
                    {"source": name, "line": line, "id": id_, "seq_id": None, "reason": reason}
                    for line, id_, reason in rejected
                ]
                bad_file.write_table(pa.Table.from_pylist(rows, REJECTS))
            ordinals = pa.array(np.arange(staged.accepted, staged.accepted + good.num_rows))
            good_file.write_table(pa.Table.from_arrays([ordinals, *good.columns], schema=STAGED))
            staged.accepted += good.num_rows
            staged.rejected += len(rejected)
            if progress:
                progress(staged.accepted + staged.rejected)


def _stream(path: str, stdin: BinaryIO | None) -> AbstractContextManager[BinaryIO] | None:
    """What `path` gives if it can be read only once; None for a file."""
    if path == "-":
        return nullcontext(stdin or sys.stdin.buffer)
    if places.is_uri(path):
        # Parquet is read here and there, everything else once.
        return None if table_kind(path) == "parquet" else places.open_stream(places.place(path))
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        return open(path, "rb")
    return None


class _Hashed(io.RawIOBase):
    """A stream that hashes what is read from it: a pipe cannot be read twice."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._digest.update(data)
        buffer[: len(data)] = data
        return len(data)

    def hexdigest(self) -> str:
        """Of the whole stream: what no parser asked for is read now."""
        while self.readinto(bytearray(1 << 16)):
            pass
        return self._digest.hexdigest()
