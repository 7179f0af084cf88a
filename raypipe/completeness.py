"""The two sums that must add up, read back from disk: nothing is lost silently.

records in = records + rejected          (per ingested source)
sequences  = embedded + failed           (per set of vectors; what failed stands in rejects/)
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from index.store import Embedding, Store
from raypipe.plan import Shard, read_plan, unfinished


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
        return not self.messages


def check_sources(store: Store) -> list[str]:
    """Shortfalls of records/ and rejects/ against the manifest's counts, in words."""
    messages = []
    for source in store.sources:
        for kind, expected in (("records", source.records), ("rejects", source.rejected)):
            parts = [p for p in store.parts(kind) if p.name.startswith(f"part-{source.ingest:05d}-")]
            found = sum(pq.read_metadata(part).num_rows for part in parts)
            if found != expected:
                messages.append(f"{source.path}: {found} rows in {kind}/ where {expected} were ingested")
    return messages


def check_embedding(store: Store, embedding: Embedding) -> Completeness:
    """Count what `embedding` holds on disk."""
    shards = read_plan(store, embedding.name)
    missing = unfinished(store, embedding, shards)
    absent = {shard.number for shard in missing}
    folder = store.root / "embeddings" / embedding.name
    done = [folder / shard.file_name for shard in shards if shard.number not in absent]
    embedded = sum(pq.read_metadata(path).num_rows for path in done)
    failed = _count_failed(store, embedding)
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


def _count_failed(store: Store, embedding: Embedding) -> int:
    parts = [str(path) for path in (store.root / "rejects").glob(f"part-embed-{embedding.name}-*.parquet")]
    if not parts:
        return 0
    ours = ds.field("source") == f"embeddings/{embedding.name}"
    return ds.dataset(parts).count_rows(filter=ours)
