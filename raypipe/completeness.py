"""The two sums that must add up, read back from disk: nothing is lost silently.

records in = records + rejected          (per ingested source)
sequences  = embedded + failed           (per set of vectors; what failed stands in rejects/)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from index.store import Embedding, Store
from raypipe.plan import Shard, count_failed, read_plan, unfinished


@dataclass(frozen=True)
class Completeness:
    """What stands on disk against what was asked for.

    Attributes:
        missing_shards: numbers of planned shards without a whole file.
        messages: every shortfall in words; empty when both sums add up.
    """

    sequences: int
    embedded: int
    failed: int
    shards: int
    missing_shards: tuple[int, ...]
    messages: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether both sums add up."""
        return not self.messages


def check_sources(store: Store) -> list[str]:
    """Shortfalls of records/ and rejects/ against the manifest's counts, in words."""
    messages = []
    for source in store.sources:
        counts = {
            "sequences": source.seq_hi - source.seq_lo,
            "records": source.records,
            "rejects": source.rejected,
        }
        for kind, expected in counts.items():
            parts = [p for p in store.parts(kind) if p.name.startswith(f"part-{source.ingest:05d}-")]
            found = sum(_rows(part) for part in parts)
            if found != expected:
                messages.append(
                    f"{source.path}: {found} rows in {kind}/ where {expected} were ingested (restore the folder from a "
                    f"copy, or ingest into a new atlas)"
                )
    return messages


def check_embedding(store: Store, embedding: Embedding) -> Completeness:
    """Count what `embedding` holds on disk."""
    shards = read_plan(store, embedding.name)
    missing = unfinished(store, embedding, shards)
    absent = {shard.number for shard in missing}
    folder = store.root / "embeddings" / embedding.name
    done = [folder / shard.file_name for shard in shards if shard.number not in absent]
    embedded = sum(_rows(path) for path in done)
    failed = sum(count_failed(store, embedding, shard) for shard in shards if shard.number not in absent)
    messages = check_sources(store)
    if missing:
        messages.append(f"{len(missing)} of {len(shards)} shards unfinished: {shard_names(missing)}")
    if embedded + failed != store.num_sequences:
        messages.append(f"{embedded} embedded and {failed} failed of {store.num_sequences} sequences")
    numbers = tuple(shard.number for shard in missing)
    return Completeness(store.num_sequences, embedded, failed, len(shards), numbers, tuple(messages))


def shard_names(shards: list[Shard], most: int = 5) -> str:
    """The first of `shards`, by number and by the sequences that they hold."""
    named = [f"{s.number} (seq_id {s.seq_lo} to {s.seq_hi - 1})" for s in sorted(shards, key=lambda s: s.number)[:most]]
    return ", ".join([*named, *(["..."] if len(shards) > most else [])])


def _rows(part: Path) -> int:
    """Rows of a part file; a damaged one has none that can be read."""
    try:
        return pq.read_metadata(part).num_rows
    except (OSError, pa.ArrowException):
        return 0
