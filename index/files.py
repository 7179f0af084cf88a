"""Files that are whole or absent: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TEMPORARY = ".tmp"


def commit(temporary: Path, final: Path) -> None:
    """Make `temporary` durable and visible as `final` in one step.

    The folder is synced too: without that a power cut can forget the rename although the data is on the disk.
    """
    sync(temporary)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, final)
    sync(final.parent)


@contextmanager
def atomic(final: Path, root: Path) -> Iterator[Path]:
    """Yield a temporary path on `root`'s file system; it becomes `final` if the block ends without an error.

    Args:
        final: where the file shall stand.
        root: the store's folder; temporaries live in its `.tmp/`, which is swept by the next writer.
    """
    folder = root / TEMPORARY
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{final.name}.{uuid.uuid4().hex}"
    try:
        yield temporary
        commit(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(final: Path, value: Any, root: Path) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic(final, root) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_parquet(
    final: Path,
    table: pa.Table | pa.RecordBatchReader,
    root: Path,
    *,
    schema: pa.Schema | None = None,
    row_group_size: int | None = None,
    **options: Any,
) -> None:
    """Write `table` as one Parquet file, atomically.

    Args:
        table: of a reader, every batch becomes a row group.
        schema: that of `table` with other metadata.
        row_group_size: rows, of a table.
        options: of `pyarrow.parquet.ParquetWriter`.
    """
    with atomic(final, root) as temporary, pq.ParquetWriter(temporary, schema or table.schema, **options) as writer:
        if isinstance(table, pa.Table):
            writer.write_table(table, row_group_size)
        else:
            for batch in table:
                writer.write_batch(batch)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
