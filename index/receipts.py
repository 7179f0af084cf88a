"""Receipts: what the writer of a set noted of every shard, so that nobody has to open its files to know them.

`<main>/<name>/receipts.jsonl` stands beside a set's files. It is only ever appended to, a line of JSON for every shard
that was finished or that failed; of several lines about one shard the last one counts. A receipt vouches for files of
the very size and time that it names; about any other file it says nothing, and the file's own footer decides. A line
that a kill cut short is passed over. To a file in an object store nothing can be added: there its writer keeps the
lines, and puts the whole of it now and then.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from index import files
from index.places import Place, RemotePath
from index.sets import ShardedSet

RECEIPTS = "receipts.jsonl"
REJECTS = "rejects"
PUT_SECONDS = 10.0

Listing = Mapping[str, tuple[int, int]]
"""Size in bytes and time of change in ns of every file in a folder, by name."""


@dataclass(frozen=True)
class Stamp:
    """One file as it was written.

    Attributes:
        mtime_ns: time of its last change.
        sha256: of its content; None where nobody knows it (a file that was found finished).
    """

    name: str
    bytes: int
    mtime_ns: int
    sha256: str | None = None


@dataclass(frozen=True)
class ShardReceipt:
    """What the writer says of one shard of one set.

    Attributes:
        shard, seq_lo, seq_hi: its number and its range of sequences, half open.
        fingerprint: of the set.
        rows, failed: sequences that its files hold, and that stand in rejects/.
        files: by folder of the store; its rejects are there where it has any. Empty where it failed.
        tokens, seconds: that it cost; 0 where it was found finished.
        host, pid: of the worker.
        finished_at: seconds since 1970.
        error: why it failed, or "".
    """

    shard: int
    seq_lo: int
    seq_hi: int
    fingerprint: str
    rows: int
    failed: int
    files: Mapping[str, Stamp] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0
    host: str = ""
    pid: int = 0
    finished_at: float = 0.0
    error: str = ""


def receipts_path(root: Place, made: ShardedSet) -> Place:
    """The file of a set's receipts, in the store at `root`."""
    return root / made.main / made.name / RECEIPTS


def append_receipts(root: Place, made: ShardedSet, receipts: Iterable[ShardReceipt]) -> None:
    """Add receipts of a set; the caller holds the lock. Nothing is synced: a lost line costs a look at a footer.

    Raises:
        OSError: they cannot be written.
    """
    writer = ReceiptWriter(root, made)
    writer.add(receipts)
    writer.close()


class ReceiptWriter:
    """Adds receipts of a set, one after the other; the caller holds the lock.

    On a disk every one is written at once. In an object store all of them are put again every PUT_SECONDS at most, and
    when it is closed.
    """

    def __init__(self, root: Place, made: ShardedSet):
        self._root = root
        self._path = receipts_path(root, made)
        self._lines: bytes | None = None
        self._kept = False
        self._put_at = time.monotonic()

    def add(self, receipts: Iterable[ShardReceipt]) -> None:
        """Add some.

        Raises:
            OSError: they cannot be written.
        """
        lines = "".join(_line(receipt) for receipt in receipts).encode()
        if not lines:
            return
        if not isinstance(self._path, RemotePath):
            _append(self._path, lines)
            return
        if self._lines is None:
            self._lines = self._path.read_bytes() if self._path.exists() else b""
        self._lines += lines
        self._kept = True
        if time.monotonic() - self._put_at >= PUT_SECONDS:
            self.close()

    def close(self) -> None:
        """Put what is kept; more may be added afterwards."""
        if not self._kept or self._lines is None:
            return
        with files.atomic(self._path, self._root) as temporary:
            temporary.write_bytes(self._lines)
        self._kept, self._put_at = False, time.monotonic()


def _append(path: Path, lines: bytes) -> None:
    # The folder is there, with the plan; where a disk went away, none is to be made in its place.
    with path.open("ab+") as file:
        end = file.tell()
        if end:
            file.seek(end - 1)
            # A line that a kill cut short must not take the next one with it.
            lines = lines if file.read(1) == b"\n" else b"\n" + lines
        file.write(lines)


def read_receipts(root: Place, made: ShardedSet) -> tuple[ShardReceipt, ...]:
    """All receipts of a set that carry its fingerprint, in the order in which they were written."""
    path = receipts_path(root, made)
    try:
        status = path.stat()
    except OSError:
        return ()
    receipts = _read(path, status.st_ino, status.st_size, status.st_mtime_ns)
    return tuple(receipt for receipt in receipts if receipt.fingerprint == made.fingerprint)


def newest_receipts(root: Place, made: ShardedSet) -> dict[int, ShardReceipt]:
    """The last receipt of every finished shard of a set, by number; a later failure does not undo what stands."""
    return {receipt.shard: receipt for receipt in read_receipts(root, made) if not receipt.error}


def list_files(folder: Place) -> Listing:
    """The files in `folder`; none where there is no such folder. Ten thousand take some 50 ms, on a disk."""
    if isinstance(folder, RemotePath):
        return folder.listing()
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in found}


def is_unchanged(stamp: Stamp, listing: Listing) -> bool:
    """Whether the file of `stamp` stands in its folder as it was written, as far as size and time tell."""
    return listing.get(stamp.name) == (stamp.bytes, stamp.mtime_ns)


def _line(receipt: ShardReceipt) -> str:
    # Not `asdict`, which copies deeply and takes most of the time.
    stamps = {folder: vars(stamp) for folder, stamp in receipt.files.items()}
    return json.dumps({**vars(receipt), "files": stamps}, separators=(",", ":")) + "\n"


@lru_cache(maxsize=16)
def _read(path: Place, inode: int, size: int, changed: int) -> tuple[ShardReceipt, ...]:
    """Kept, since a served search with a condition asks each time; the other arguments tell one state from the next."""
    receipts = []
    for line in path.read_bytes().splitlines():
        try:
            value: dict[str, Any] = json.loads(line)
            value["files"] = {folder: Stamp(**stamp) for folder, stamp in value["files"].items()}
            receipts.append(ShardReceipt(**value))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return tuple(receipts)
