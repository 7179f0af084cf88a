"""Receipts: what the writer of a set noted of every shard, so that nobody has to open its files to know them.

`<main>/<name>/receipts.jsonl` stands beside a set's files. It is only ever appended to, a line of JSON for every shard
that was finished or that failed; of several lines about one shard the last one counts. A receipt vouches for files of
the very size and time that it names; about any other file it says nothing, and the file's own footer decides. A line
that a kill cut short is passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from index.sets import ShardedSet

RECEIPTS = "receipts.jsonl"
REJECTS = "rejects"

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


def receipts_path(root: Path, made: ShardedSet) -> Path:
    """The file of a set's receipts, in the store at `root`."""
    return root / made.main / made.name / RECEIPTS


def append_receipts(root: Path, made: ShardedSet, receipts: Iterable[ShardReceipt]) -> None:
    """Add receipts of a set; the caller holds the lock. Nothing is synced: a lost line costs a look at a footer.

    Raises:
        OSError: they cannot be written.
    """
    lines = "".join(_line(receipt) for receipt in receipts)
    if not lines:
        return
    path = receipts_path(root, made)
    # The folder is there, with the plan; where a disk went away, none is to be made in its place.
    with path.open("ab+") as file:
        end = file.tell()
        if end:
            file.seek(end - 1)
            # A line that a kill cut short must not take the next one with it.
            lines = lines if file.read(1) == b"\n" else "\n" + lines
        file.write(lines.encode())


def read_receipts(root: Path, made: ShardedSet) -> tuple[ShardReceipt, ...]:
    """All receipts of a set that carry its fingerprint, in the order in which they were written."""
    path = receipts_path(root, made)
    try:
        status = path.stat()
    except OSError:
        return ()
    receipts = _read(path, status.st_ino, status.st_size, status.st_mtime_ns)
    return tuple(receipt for receipt in receipts if receipt.fingerprint == made.fingerprint)


def newest_receipts(root: Path, made: ShardedSet) -> dict[int, ShardReceipt]:
    """The last receipt of every finished shard of a set, by number; a later failure does not undo what stands."""
    return {receipt.shard: receipt for receipt in read_receipts(root, made) if not receipt.error}


def list_files(folder: Path) -> Listing:
    """The files in `folder`; none where there is no such folder. Ten thousand take some 50 ms."""
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
    files = {folder: vars(stamp) for folder, stamp in receipt.files.items()}
    return json.dumps({**vars(receipt), "files": files}, separators=(",", ":")) + "\n"


@lru_cache(maxsize=16)
def _read(path: Path, inode: int, size: int, changed: int) -> tuple[ShardReceipt, ...]:
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
