"""Turn input files into the store's tables: distinct sequences once, records as given, rejects with a reason.

    source --read, clean--> staged Parquet --DuckDB, out of core--> sequences/ (sorted by length), records/, rejects/

One source is one commit: until `store.json` names it, none of its part files counts.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from index import duck, files
from index.schema import RECORDS, REJECTS, SEQUENCES
from index.store import Source, Store
from raypipe.cleaning import judge, md5
from raypipe.errors import InputError, RaypipeError, disk_error
from raypipe.sources import BadRow, Record, TableColumns, read_records
from raypipe.unpacking import shown, unreadable

Progress = Callable[[int], None]

# A staged batch, and so the memory of reading, is bounded by letters as well as by rows.
BATCH_ROWS = 65_536
BATCH_LETTERS = 64 << 20
PART_ROWS = 1 << 20
# A shard reads its rows by seq_id: small row groups keep it from unpacking its neighbours' sequences.
ROW_GROUP = 8_192
MEMORY_LIMIT = "2GB"

STAGED = pa.schema([("ordinal", pa.int64()), ("id", pa.string()), ("description", pa.string()), *SEQUENCES.remove(0)])


@dataclass(frozen=True)
class IngestReport:
    """What one source gave.

    Attributes:
        unchanged: the same content was ingested before, so nothing was done.
        first_reason: the first reject's reason and line, for the report on the screen.
    """

    source: Source
    unchanged: bool
    first_reason: str | None = None


def ingest(
    store: Store,
    path: str,
    *,
    columns: TableColumns | None = None,
    accept_changed: bool = False,
    progress: Progress | None = None,
    stdin: BinaryIO | None = None,
    memory_limit: str = MEMORY_LIMIT,
) -> IngestReport:
    """Ingest one source into `store`; the caller holds `store.lock()`.

    Args:
        path: a file, a named pipe (as the shell makes of <(COMMAND)), or "-" for standard input.
        columns: names of the id and sequence columns of a table.
        accept_changed: take a path again whose content has changed since; its earlier records stay.
        progress: called with the number of records read so far.
        stdin: what "-" reads, standard input by default.
        memory_limit: what DuckDB may hold in memory; beyond it spills to the store's disk.

    Raises:
        InputError: the source cannot be read, or holds no usable sequence, or has changed.
        RaypipeError: the disk is full, or the counts read back from disk do not add up.
    """
    with ExitStack() as opened:
        # What can be read only once is hashed on its way into the staging files.
        hashed = _Hashed(opened.enter_context(stream)) if (stream := _stream(path, stdin)) else None
        name = _storable(path)
        sha256 = None if hashed else _sha256(path)
        if sha256 and (known := _known(store, name, sha256, accept_changed)):
            return IngestReport(known, unchanged=True)
        work = store.root / files.TEMPORARY / "ingest"
        shutil.rmtree(work, ignore_errors=True)
        opened.callback(shutil.rmtree, work, ignore_errors=True)
        try:
            work.mkdir(parents=True)
            records = read_records(path, columns, stream=io.BufferedReader(hashed) if hashed else None)
            staged = _stage(name, records, work, progress)
            if hashed:
                sha256 = hashed.hexdigest()
                if known := _known(store, None, sha256, accept_changed):
                    return IngestReport(known, unchanged=True)
            if staged.accepted + staged.rejected == 0:
                raise InputError(f"{shown(name)}: holds no records")
            if staged.accepted == 0:
                raise InputError(
                    f"{shown(name)}: none of its {staged.rejected} records can be used; {staged.first_reason}"
                )
            return IngestReport(_publish(store, name, str(sha256), staged, memory_limit), False, staged.first_reason)
        except OSError as error:
            raise disk_error(store.root, error) from error
        except (duckdb.Error, pa.ArrowInvalid) as error:
            raise _database_error(store.root, error) from error


def _database_error(root: Path, error: Exception) -> RaypipeError:
    text = str(error).splitlines()[0]
    if isinstance(error, duckdb.OutOfMemoryException) or "No space left" in str(error):
        return RaypipeError(f"{root}: {text}; free disk space and run it again")
    return RaypipeError(f"{root}: {text}; a file of the atlas is damaged, restore it from a copy or ingest anew")


@dataclass
class _Staged:
    records: Path
    rejects: Path
    accepted: int = 0
    rejected: int = 0
    first_reason: str | None = None


def _stage(path: str, records: Iterator[Record | BadRow], work: Path, progress: Progress | None) -> _Staged:
    """Clean every record into `work/records.parquet` or `work/rejects.parquet`."""
    staged = _Staged(work / "records.parquet", work / "rejects.parquet")
    good: list[tuple[Any, ...]] = []
    bad: list[tuple[Any, ...]] = []
    letters = 0
    with (
        pq.ParquetWriter(staged.records, STAGED, compression="zstd") as good_file,
        pq.ParquetWriter(staged.rejects, REJECTS, compression="zstd") as bad_file,
    ):
        for record in records:
            canonical, reason = judge(record)
            if isinstance(record, Record) and reason is None:
                sequence = canonical.decode("ascii")
                good.append((staged.accepted, record.id, record.description, md5(canonical), len(sequence), sequence))
                staged.accepted += 1
                letters += len(sequence)
            else:
                bad.append((path, record.line, record.id or None, None, reason))
                staged.rejected += 1
                staged.first_reason = staged.first_reason or f"line {record.line}, {record.id or 'no id'}: {reason}"
            if len(good) == BATCH_ROWS or letters > BATCH_LETTERS or len(bad) == BATCH_ROWS:
                _write_rows(good_file, good, STAGED)
                _write_rows(bad_file, bad, REJECTS)
                letters = 0
                if progress:
                    progress(staged.accepted + staged.rejected)
        _write_rows(good_file, good, STAGED)
        _write_rows(bad_file, bad, REJECTS)
    return staged


def _write_rows(writer: pq.ParquetWriter, rows: list[tuple[Any, ...]], schema: pa.Schema) -> None:
    if rows:
        arrays = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        rows.clear()


def _publish(store: Store, path: str, sha256: str, staged: _Staged, memory_limit: str) -> Source:
    """Give new sequences their seq_id, write the part files, and commit them by naming the source."""
    number = len(store.sources)
    first = store.num_sequences
    work = staged.records.parent
    for kind in ("sequences", "records", "rejects"):
        for leftover in (store.root / kind).glob(f"part-{number:05d}-*.parquet"):
            leftover.unlink()  # of a run that was killed before it committed
    known = store.parts("sequences")
    standing = sum(pq.read_metadata(part).num_rows for part in known)
    if standing != first:
        raise RaypipeError(
            f"{store.root / 'sequences'}: {standing} sequences where {first} were ingested, a file is missing or "
            f"changed; restore it from a copy or ingest anew"
        )
    with duck.new_connection(memory_limit, spill=work / "spill") as con:
        con.execute("SET preserve_insertion_order = false")
        earlier = f"WHERE md5 NOT IN (SELECT md5 FROM {duck.parquet(known)})" if known else ""
        fresh = con.sql(
            f"""SELECT md5, any_value(length) AS length, any_value(sequence) AS sequence
                FROM {duck.parquet([staged.records])} {earlier} GROUP BY md5 ORDER BY length, md5"""
        ).to_arrow_reader(ROW_GROUP)
        count = _write_parts(store, "sequences", number, SEQUENCES, _numbered(fresh, first))
        added = sorted((store.root / "sequences").glob(f"part-{number:05d}-*.parquet"))
        rows = con.sql(
            f"""SELECT id, description, $source AS source, ordinal, seq_id FROM {duck.parquet([staged.records])}
                JOIN (SELECT md5, seq_id FROM {duck.parquet([*known, *added])}) USING (md5) ORDER BY ordinal""",
            params={"source": path},
        ).to_arrow_reader(BATCH_ROWS)
        written = _write_parts(store, "records", number, RECORDS, rows)
    if staged.rejected:
        reader = pq.ParquetFile(staged.rejects).iter_batches(BATCH_ROWS)
        _write_parts(store, "rejects", number, REJECTS, reader)
    if written != staged.accepted:
        raise RaypipeError(f"{path}: {staged.accepted} records were read but {written} written; please report this")
    source = Source(path, sha256, number, staged.accepted, staged.rejected, first, first + count)
    store.add_source(source)
    return source


def _numbered(batches: Iterator[pa.RecordBatch], first: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        ids = pa.array(range(first, first + batch.num_rows), pa.int64())
        yield pa.RecordBatch.from_arrays([ids, *batch.columns], ["seq_id", *batch.schema.names])
        first += batch.num_rows


def _write_parts(store: Store, kind: str, number: int, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write `batches` as `<kind>/part-<number>-<k>.parquet`, a new file every PART_ROWS rows; the rows written."""
    total = 0
    remaining = iter(batches)
    for part in itertools.count():
        batch = next(remaining, None)
        if batch is None:
            break
        rows = 0
        final = store.root / kind / f"part-{number:05d}-{part:05d}.parquet"
        with (
            files.atomic(final, store.root) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            while batch is not None:
                writer.write_batch(batch.cast(schema), row_group_size=ROW_GROUP)
                rows += batch.num_rows
                batch = next(remaining, None) if rows < PART_ROWS else None
        total += rows
    return total


def _known(store: Store, path: str | None, sha256: str, accept_changed: bool) -> Source | None:
    """The source of this content, if it was ingested before; `path` is None for what has no lasting name.

    Raises:
        InputError: another content was ingested from the same path, and the user did not ask for both.
    """
    for source in store.sources:
        if source.sha256 == sha256:
            return source
    if path is not None and not accept_changed and any(source.path == path for source in store.sources):
        raise InputError(
            f"{path}: has changed since it was ingested into {store.root}; ingest it into a new atlas, or add its "
            f"present content to this one with --accept-changed (the earlier records stay)"
        )
    return None


def _stream(path: str, stdin: BinaryIO | None) -> AbstractContextManager[BinaryIO] | None:
    """What `path` gives if it can be read only once; None for a file."""
    if path == "-":
        return nullcontext(stdin or sys.stdin.buffer)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        return open(path, "rb")
    return None


def _storable(path: str) -> str:
    """`path` as text: names on old disks need not be UTF-8, what the store holds must be."""
    return os.fsencode(path).decode("utf-8", "replace")


def _sha256(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


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
