"""Files that are whole or absent: written under a temporary name, synced, then renamed; into an object store, put."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from index.errors import StoreError
from index.places import Place, RemotePath

TEMPORARY = ".tmp"
IDLE_SECONDS = 3600


def commit(temporary: Path, final: Place) -> None:
    """Make `temporary` durable and visible as `final` in one step.

    The folder is synced too: without that a power cut can forget the rename although the data is on the disk. Into an
    object store a file is put, which is that one step there, and a folder file by file: it is for CURRENT to say that
    it counts. `temporary` is left behind.
    """
    if isinstance(final, RemotePath):
        for file in sorted(temporary.iterdir()) if temporary.is_dir() else []:
            (final / file.name).put(file)
        if temporary.is_file():
            final.put(temporary)
        return
    sync(temporary)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, final)
    sync(final.parent)


@contextmanager
def atomic(final: Place, root: Place) -> Iterator[Path]:
    """Yield a temporary path on `root`'s file system; it becomes `final` if the block ends without an error.

    Args:
        final: where the file shall stand.
        root: the store's folder; temporaries live in its `scratch`, which is swept by the next writer.
    """
    folder = scratch(root)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{final.name}.{uuid.uuid4().hex}"
    try:
        yield temporary
        commit(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(final: Place, value: Any, root: Place) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic(final, root) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_parquet(
    final: Place,
    table: pa.Table | pa.RecordBatchReader,
    root: Place,
    *,
    schema: pa.Schema | None = None,
    row_group_size: int | None = None,
    **options: Any,
) -> str:
    """Write a table as one Parquet file, atomically; the sha256 of its content.

    Args:
        table: as a whole; or piece by piece as it is read, then each piece is a row group, or several.
        schema: that of the table, with what else the footer shall say.
        row_group_size: the most rows of a row group.
        options: of `pyarrow.parquet.ParquetWriter`.
    """
    footer = table.schema if schema is None else schema
    with atomic(final, root) as temporary:
        if isinstance(table, pa.Table):
            whole = table.replace_schema_metadata(footer.metadata)
            pq.write_table(whole, temporary, row_group_size=row_group_size, **options)
        else:
            with pq.ParquetWriter(temporary, footer, **options) as writer:
                for batch in table:
                    writer.write_batch(batch, row_group_size=row_group_size)
        with temporary.open("rb") as file:  # which lies in the memory of the system yet
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def scratch(root: Place) -> Path:
    """The folder for what is temporary: in a local store its own; of an object store one of this machine and process.

    The latter is below the system's temporary folder, where there has to be room for the largest file (TMPDIR names
    another one).
    """
    if not isinstance(root, RemotePath):
        return root / TEMPORARY
    folder = machine_folder(root) / str(os.getpid())
    if not folder.exists():
        sweep(root)  # on a machine with workers only nobody else does
    return folder


def sweep(root: Place) -> None:
    """Remove what killed writers left in their `scratch`; of a local store the caller is the one writer."""
    if not isinstance(root, RemotePath):
        shutil.rmtree(root / TEMPORARY, ignore_errors=True)
        return
    for folder in machine_folder(root).iterdir():
        with suppress(FileNotFoundError):  # another process sweeps too
            idle = folder.name.isdigit() and time.time() - folder.stat().st_mtime > IDLE_SECONDS
            if idle and not _lives(int(folder.name)):
                shutil.rmtree(folder, ignore_errors=True)


def machine_folder(root: RemotePath) -> Path:
    """A folder on this machine for what belongs to an atlas in an object store and cannot be there; of this user alone.

    Raises:
        StoreError: somebody else made it.
    """
    own = Path(tempfile.gettempdir()) / f"raypipe-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    status = own.lstat()
    if status.st_uid != os.getuid() or own.is_symlink():
        raise StoreError(f"{own}: is not yours; remove it, or let TMPDIR name another temporary folder")
    # Containers may share the folder, and not see each other's processes.
    name = f"{socket.gethostname()} {root}"
    folder = own / hashlib.sha256(name.encode()).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    return folder


def remove(path: Place) -> None:
    """Remove a file, or a folder with all that is in it."""
    if not path.is_dir():
        path.unlink()
    elif isinstance(path, RemotePath):
        path.remove_tree()
    else:
        shutil.rmtree(path)


def _lives(pid: int) -> bool:
    with suppress(PermissionError):  # somebody else's, so it is there
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
