"""One writer per store.

The kernel's advisory lock decides, so a killed holder's lock is free at once; on NFS and Lustre the server does the
same. What is written inside the file only tells people who holds it.

In an object store there is no lock: that one writes at a time is the user's business there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from index.errors import StoreError, StoreLockedError
from index.places import Place, RemotePath

LOCK_FILE = ".lock"


@dataclass(frozen=True)
class Holder:
    """Who wrote to a store last.

    Attributes:
        started: when it took the lock, UTC.
        writing: whether it still holds it; None where that cannot be told from here (a process of another machine).
    """

    host: str
    pid: int
    started: str
    writing: bool | None


def has_lock(root: Place) -> bool:
    """Whether there is such a thing as a lock."""
    return not isinstance(root, RemotePath)


def read_holder(root: Place) -> Holder | None:
    """Who holds the store at `root`, or held it last; None if nobody ever did. The lock itself is not touched."""
    if isinstance(root, RemotePath):
        return None
    path = root / LOCK_FILE
    try:
        said = json.loads(path.read_bytes())
        holder = Holder(str(said["host"]), int(said["pid"]), str(said["started"]), None)
        here = said["boot_id"] == boot_id() and holder.host == socket.gethostname()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return replace(holder, writing=_has_open(holder.pid, path) if here else None)


def _has_open(pid: int, path: Path) -> bool | None:
    """Whether process `pid` of this machine has the file `path` open; None where that is not for us to know."""
    wanted = path.stat()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                status = link.stat()
            except OSError:
                continue
            if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False


@contextmanager
def writer_lock(root: Place) -> Iterator[None]:
    """Hold the store at `root` for writing; nothing where there is no lock.

    Raises:
        StoreLockedError: another live process holds it; the message names host, process and start.
        StoreError: the folder cannot be written.
    """
    if isinstance(root, RemotePath):
        yield
        return
    path = root / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"{root}: cannot be written ({error.strerror}); choose a folder you may write to") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise StoreLockedError(_holder_message(root, descriptor)) from None
            raise StoreError(f"{root}: this file system offers no file locks ({error.strerror})") from error
        _write_holder(descriptor)
        yield
    finally:
        os.close(descriptor)


def boot_id() -> str:
    """Linux's id of the running boot, or "" where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _write_holder(descriptor: int) -> None:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "boot_id": boot_id(), "started": started}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder_message(root: Path, descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        who = f"process {holder['pid']} on {holder['host']}, since {holder['started']} UTC"
    except (ValueError, KeyError):
        who = "another process"
    return f"{root}: {who}, is writing to this store; wait for it to end, or stop it"
