"""Read Parquet files wherever they are.

Of local files as pyarrow does it. Of an object store errors of the way to it become UnreachableError: without that,
who looks for damage would take every file for damaged while the network is down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from index.places import Place, RemotePath, transport_errors


class _RemoteFile(pq.ParquetFile):
    """Whole column chunks are fetched together, since every read is a request."""

    def __init__(self, path: RemotePath):
        self._path = path
        with transport_errors(path):
            super().__init__(path.key, filesystem=path.filesystem, pre_buffer=True)

    def iter_batches(self, *args: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        with transport_errors(self._path):
            yield from super().iter_batches(*args, **options)

    def read(self, *args: Any, **options: Any) -> pa.Table:
        with transport_errors(self._path):
            return super().read(*args, **options)

    def read_row_group(self, *args: Any, **options: Any) -> pa.Table:
        with transport_errors(self._path):
            return super().read_row_group(*args, **options)


def open_parquet(path: Place) -> pq.ParquetFile:
    """A file to be read in pieces; to be closed."""
    return _RemoteFile(path) if isinstance(path, RemotePath) else pq.ParquetFile(path)


def read_parquet(path: Place, **options: Any) -> pa.Table:
    """The whole table; `options` are those of `pyarrow.parquet.read_table`."""
    if not isinstance(path, RemotePath):
        return pq.read_table(path, **options)
    with transport_errors(path):
        return pq.read_table(path.key, filesystem=path.filesystem, **options)


def read_schema(path: Place) -> pa.Schema:
    """The columns, with what else the footer says."""
    if not isinstance(path, RemotePath):
        return pq.read_schema(path)
    with transport_errors(path):
        return pq.read_schema(path.key, filesystem=path.filesystem)


def read_metadata(path: Place) -> pq.FileMetaData:
    """What the footer says."""
    if not isinstance(path, RemotePath):
        return pq.read_metadata(path)
    with transport_errors(path):
        return pq.read_metadata(path.key, filesystem=path.filesystem)


def read_rows(paths: Sequence[Place], columns: Sequence[str], seq_lo: int, seq_hi: int) -> pa.Table:
    """Rows of several files with a seq_id from `seq_lo` to below `seq_hi`; other row groups are not unpacked."""
    # Here, not above: with pandas installed its import costs every command a quarter of a second.
    import pyarrow.dataset as ds

    if not paths:
        return pa.table({name: pa.nulls(0) for name in columns})
    condition = (ds.field("seq_id") >= seq_lo) & (ds.field("seq_id") < seq_hi)
    remote = next((path for path in paths if isinstance(path, RemotePath)), None)
    if remote is None:
        return ds.dataset([str(path) for path in paths]).to_table(columns=list(columns), filter=condition)
    keys = [path.key for path in paths if isinstance(path, RemotePath)]
    with transport_errors(remote.parent):
        table = ds.dataset(keys, filesystem=remote.filesystem, format="parquet")
        return table.to_table(columns=list(columns), filter=condition)
