"""Turn input files into the store's tables: distinct sequences once, records as given, rejects with a reason.

    source --read, clean--> staged Parquet --DuckDB, out of core--> sequences/ (sorted by length), records/, rejects/

Reading is in `raypipe/staging.py`. One source is one commit: until `store.json` names it, none of its files counts.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from index import duck, files, places
from index.parquet import read_metadata
from index.places import Place
from index.schema import RECORDS, REJECTS, SEQUENCES
from index.store import Source, Store
from raypipe.batches import BATCH_ROWS
from raypipe.disk_errors import disk_error
from raypipe.errors import InputError, RaypipeError
from raypipe.interrupts import check
from raypipe.sources import TableColumns
from raypipe.staging import Progress, Staged, hash_file, stage, storable, wait_for
from raypipe.unpacking import shown

PART_ROWS = 1 << 20
# A shard reads its rows by seq_id: small row groups keep it from unpacking its neighbours' sequences.
ROW_GROUP = 8_192
MEMORY_LIMIT = "2GB"
# RNAcentral's key of a sequence, as `raypipe.cleaning.md5` has it, in SQL.
KEY = "md5(replace(sequence, 'U', 'T'))"


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
    ahead: Future[Staged] | None = None,
) -> IngestReport:
    """Ingest one source into `store`; the caller holds `store.lock()`.

    Args:
        path: a file or its URI, a named pipe (as the shell makes of <(COMMAND)), or "-" for standard input.
        columns: names of the id and sequence columns of a table.
        accept_changed: take a path again whose content has changed since; its earlier records stay.
        progress: called with the number of records read so far.
        stdin: what "-" reads, standard input by default.
        memory_limit: what DuckDB may hold in memory; beyond it spills to the store's disk.
        ahead: what `raypipe.staging.staged_ahead` makes of the file.

    Raises:
        InputError: the source cannot be read, or holds no usable sequence, or has changed.
        RaypipeError: the disk is full, or the counts read back from disk do not add up.
    """
    name = storable(path)
    lasting = name if places.is_uri(path) or os.path.isfile(path) else None
    # Of a file that was ingested before, the content is looked at before it is read at length.
    seen = any(source.path == lasting for source in store.sources)
    if seen and (earlier := _known(store, lasting, hash_file(path), accept_changed)):
        return IngestReport(earlier, unchanged=True)
    staged = None
    work = staging_folder(store)
    try:
        if ahead is None:
            known = {source.sha256 for source in store.sources}
            staged = stage(path, work / "one", columns=columns, known=known, progress=progress, stdin=stdin)
        else:
            staged = wait_for(ahead, path)
        if earlier := _known(store, lasting, staged.sha256, accept_changed):
            return IngestReport(earlier, unchanged=True)
        if staged.accepted + staged.rejected == 0:
            raise InputError(f"{shown(name)}: holds no records")
        if staged.accepted == 0:
            raise InputError(f"{shown(name)}: none of its {staged.rejected} records can be used; {staged.first_reason}")
        return IngestReport(_publish(store, name, staged, memory_limit), False, staged.first_reason)
    except OSError as error:
        raise disk_error(store.root, error) from error
    except (duckdb.Error, pa.ArrowInvalid) as error:
        raise _database_error(store.root, error) from error
    finally:
        if staged is not None:
            staged.remove()
        shutil.rmtree(work / "one", ignore_errors=True)
        with suppress(OSError):  # others are staged there still
            work.rmdir()


def staging_folder(store: Store) -> Path:
    """Where sources are staged; swept with all that is temporary."""
    return files.scratch(store.root) / "ingest"


def _database_error(root: Place, error: Exception) -> RaypipeError:
    places.raise_unreachable(root, error)
    text = str(error).splitlines()[0]
    if isinstance(error, duckdb.OutOfMemoryException) or "No space left" in str(error):
        return RaypipeError(f"{root}: {text}; free disk space and run it again")
    return RaypipeError(f"{root}: {text}; a file of the atlas is damaged, restore it from a copy or ingest anew")


def _publish(store: Store, path: str, staged: Staged, memory_limit: str) -> Source:
    """Give new sequences their seq_id, write the part files, and commit them by naming the source."""
    number = len(store.sources)
    first = store.num_sequences
    work = staged.records.parent
    for kind in ("sequences", "records", "rejects"):
        for leftover in (store.root / kind).glob(f"part-{number:05d}-*.parquet"):
            leftover.unlink()  # of a run that was killed before it committed
    known = store.parts("sequences")
    standing = sum(read_metadata(part).num_rows for part in known)
    if standing != first:
        raise RaypipeError(
            f"{store.root / 'sequences'}: {standing} sequences where {first} were ingested, a file is missing or "
            f"changed; restore it from a copy or ingest anew"
        )
    with duck.new_connection(memory_limit, spill=work / "spill", reads=store.root) as con:
        con.execute("SET preserve_insertion_order = false")
        earlier = f"WHERE {KEY} NOT IN (SELECT md5 FROM {duck.parquet(known)})" if known else ""
        fresh = duck.batches(
            con,
            f"""SELECT {KEY} AS md5, any_value(length) AS length, any_value(sequence) AS sequence
                FROM {duck.parquet([staged.records])} {earlier} GROUP BY md5 ORDER BY length, md5""",
            ROW_GROUP,
        )
        count = _write_parts(store, "sequences", number, SEQUENCES, _numbered(fresh, first))
        added = sorted((store.root / "sequences").glob(f"part-{number:05d}-*.parquet"))
        rows = duck.batches(
            con,
            f"""SELECT id, description, $source AS source, ordinal, seq_id FROM {duck.parquet([staged.records])}
                JOIN (SELECT md5, seq_id FROM {duck.parquet([*known, *added])}) AS known ON known.md5 = {KEY}
                ORDER BY ordinal""",
            BATCH_ROWS,
            {"source": path},
        )
        written = _write_parts(store, "records", number, RECORDS, rows)
    if staged.rejected:
        reader = pq.ParquetFile(staged.rejects).iter_batches(BATCH_ROWS)
        _write_parts(store, "rejects", number, REJECTS, reader)
    if written != staged.accepted:
        raise RaypipeError(f"{path}: {staged.accepted} records were read but {written} written; please report this")
    source = Source(path, staged.sha256, number, staged.accepted, staged.rejected, first, first + count)
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
                check()
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
