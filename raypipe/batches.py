"""Clean records in batches, as Arrow holds them: what can be used, and what is refused with its line and reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from raypipe.cleaning import judge
from raypipe.records import BadRow, Record

# A batch, and so the memory of reading, is bounded by letters as well as by rows.
BATCH_ROWS = 65_536
BATCH_LETTERS = 64 << 20

GOOD = pa.schema([("id", pa.string()), ("description", pa.string()), ("length", pa.int32()), ("sequence", pa.string())])


class Rejected(NamedTuple):
    """A record that cannot be used: where it stands, its id if it has one, and what is to mend."""

    line: int
    id: str | None
    reason: str


class Batch(NamedTuple):
    """Records in the order of their file.

    Attributes:
        good: rows of `GOOD`.
        rejected: those among and behind them that are refused.
    """

    good: pa.RecordBatch
    rejected: list[Rejected]


def in_batches(records: Iterable[Record | BadRow]) -> Iterator[Batch]:
    """Judge records one by one."""
    good: list[tuple[str, str, int, str]] = []
    rejected: list[Rejected] = []
    letters = 0
    for record in records:
        canonical, reason = judge(record)
        if isinstance(record, Record) and reason is None:
            sequence = canonical.decode("ascii")
            good.append((record.id, record.description, len(sequence), sequence))
            letters += len(sequence)
        else:
            rejected.append(Rejected(record.line, record.id or None, str(reason)))
        if len(good) + len(rejected) == BATCH_ROWS or letters > BATCH_LETTERS:
            yield Batch(_rows(good), rejected)
            good, rejected, letters = [], [], 0
    if good or rejected:
        yield Batch(_rows(good), rejected)


def gathered(batches: Iterable[Batch]) -> Iterator[tuple[pa.Table, list[Rejected]]]:
    """Batches put together until they are worth a row group of a file."""
    good: list[pa.RecordBatch] = []
    rejected: list[Rejected] = []
    rows = size = 0
    for batch in batches:
        good.append(batch.good)
        rejected += batch.rejected
        rows += batch.good.num_rows + len(batch.rejected)
        size += batch.good.nbytes
        if rows >= BATCH_ROWS or size > BATCH_LETTERS:
            yield pa.Table.from_batches(good, GOOD), rejected
            good, rejected, rows, size = [], [], 0, 0
    if rows:
        yield pa.Table.from_batches(good, GOOD), rejected


def _rows(good: list[tuple[str, str, int, str]]) -> pa.RecordBatch:
    columns = zip(*good, strict=True) if good else [()] * len(GOOD)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, GOOD, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=GOOD)
