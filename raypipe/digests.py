"""SHA-256 of files, remembered for large ones: weights are hashed before every run, and by every worker of it."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from index.cache import cache_root

# Hashing fewer bytes takes no longer than remembering them is worth (10 ms).
SMALL_BYTES = 16 << 20
# File systems keep times in steps of up to so long: a second change within one of them would not show.
SETTLED_SECONDS = 2.0


def sha256(file: Path) -> bytes:
    """SHA-256 of a file's content, 32 bytes.

    Of a large file that was hashed before, and whose inode, size and times (that of its last change too, which nobody
    can set) are those of then, the digest of then. Where nothing can be remembered, the file is read.
    """
    with file.open("rb") as stream:
        status = os.fstat(stream.fileno())
        if status.st_size < SMALL_BYTES:
            return hashlib.file_digest(stream, "sha256").digest()
        path = str(file.resolve())
        state: dict[str, Any] = {
            "path": path,
            "device": status.st_dev,
            "inode": status.st_ino,
            "bytes": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "ctime_ns": status.st_ctime_ns,
        }
        note = cache_root() / "sha256" / f"{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()}.json"
        if (known := _remembered(note, state)) is not None:
            return known
        begun = time.time()
        digest = hashlib.file_digest(stream, "sha256").digest()
    if begun - status.st_ctime > SETTLED_SECONDS:
        _write(note, {**state, "sha256": digest.hex()})
    return digest


def _remembered(note: Path, state: dict[str, Any]) -> bytes | None:
    """What `note` says of a file in that state; None where it says nothing of use."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_bytes())
        digest = bytes.fromhex(known.pop("sha256"))
        return digest if known == state and len(digest) == 32 else None
    return None


def _write(note: Path, value: dict[str, Any]) -> None:
    """Whole or not at all; a cache that cannot be written costs time, and nothing else."""
    draft = note.with_name(f".{note.name}.{uuid.uuid4().hex}")
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
            os.replace(draft, note)
        finally:
            draft.unlink(missing_ok=True)
