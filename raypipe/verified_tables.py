"""Are sequences/, records/ and rejects/ whole? What was ingested cannot be made again, so every id is looked at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from index import removals
from index.parquet import open_parquet, read_parquet
from index.places import Place
from index.schema import RECORDS, REJECTS, SEQUENCES
from index.store import Store
from raypipe.cleaning import clean, md5

BATCH_ROWS = 65_536
SCHEMAS = {"sequences": SEQUENCES, "records": RECORDS, "rejects": REJECTS}
RESTORE = "restore it from a copy, or ingest into a new atlas"


def check_tables(store: Store, deep: bool) -> Iterator[str]:
    """What is wrong with the files of committed sources, each in words with its remedy.

    Args:
        deep: decode all columns, and compare every sequence with its md5 and length.
    """
    number = store.num_sequences
    times = np.zeros(number, np.uint8)
    recorded = np.zeros(number, bool)
    readable = True
    for kind in SCHEMAS:
        for path in store.parts(kind):
            if kind == "rejects" and not path.name.split("-")[1].isdigit():
                continue  # of a set, which looks at it itself
            try:
                for ids, batch in _batches(path, kind, deep):
                    if kind == "rejects":
                        continue
                    if len(ids) and (ids.min() < 0 or ids.max() >= number):
                        raise ValueError(f"seq_ids beyond the {number} that were ingested")
                    if kind == "records":
                        recorded[ids] = True
                        continue
                    unique, counts = np.unique(ids, return_counts=True)
                    times[unique] = np.minimum(times[unique] + counts, 2)
                    if deep and (wrong := _wrong_sequence(batch)):
                        raise ValueError(wrong)
            except (OSError, pa.ArrowException, ValueError, KeyError) as error:
                readable = False
                yield f"{path}: damaged ({' '.join(str(error).split())[:200]}); {RESTORE}"
    yield from _check_removals(store)
    if not readable:
        return  # what lies in those files is missing, of course
    for wrong, where, what in (
        (times == 0, "sequences", "missing"),
        (times > 1, "sequences", "there twice"),
        (~recorded, "records", "without a record"),
    ):
        if wrong.any():
            first = int(np.argmax(wrong))
            many = f"{int(wrong.sum()):,} sequences are {what}, the first is seq_id {first}"
            yield f"{store.root / where}: {many}; {RESTORE}"


def _check_removals(store: Store) -> Iterator[str]:
    """Tombstones: as many as the manifest says, of sequences that there are."""
    for name, count in store.removals.items():
        path = store.root / "removed" / name
        try:
            ids = read_parquet(path, schema=removals.SCHEMA)["seq_id"].to_numpy()
            if len(ids) != count or (len(ids) and not 0 <= ids.min() <= ids.max() < store.num_sequences):
                raise ValueError(f"{len(ids)} records where {count} were removed, or seq_ids that there are not")
        except (OSError, pa.ArrowException, ValueError) as error:
            what = " ".join(str(error).split())[:200]
            yield f"{path}: damaged ({what}); restore it from a copy: without it removed records are found again"


def _batches(path: Place, kind: str, deep: bool) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """seq_ids, (N,) int64 (none of rejects), and the rows, all their columns if `deep`."""
    schema = SCHEMAS[kind]
    with open_parquet(path) as file:
        for column in schema.names:
            if column not in file.schema_arrow.names:
                raise ValueError(f"has no column {column!r}")
        for batch in file.iter_batches(BATCH_ROWS, columns=schema.names if deep else ["seq_id"]):
            ids = np.zeros(0, np.int64) if kind == "rejects" else batch.column("seq_id").to_numpy(zero_copy_only=False)
            yield ids, batch


def _wrong_sequence(batch: pa.RecordBatch) -> str | None:
    """The first sequence that is not what its own row says of it."""
    columns = [batch.column(name).to_pylist() for name in ("seq_id", "md5", "length", "sequence")]
    for seq_id, digest, length, sequence in zip(*columns, strict=True):
        canonical, reason = clean(sequence)
        if reason or canonical != sequence.encode() or len(sequence) != length or md5(canonical) != digest:
            return f"sequence {seq_id} does not fit its own md5 and length"
    return None
