"""The two sums that must add up, read back from disk: nothing is lost silently.

records in = records + rejected          (per ingested source)
sequences  = made + failed               (per set of vectors or predictions; what failed stands in rejects/)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from index.parts import fitting_parts
from index.sets import ShardedSet
from index.store import Store
from raypipe.errors import RaypipeError
from raypipe.plan import Shard, Task, read_plan
from raypipe.shard_files import count_rows, finished
from raypipe.wording import participle


@dataclass(frozen=True)
class Completeness:
    """What stands on disk of one set against what was asked for.

    Attributes:
        made, failed: sequences that the set holds, and that stand in rejects/.
        missing_shards: numbers of planned shards without whole files.
        messages: every shortfall in words; empty when the sum adds up.
    """

    sequences: int
    made: int
    failed: int
    shards: int
    missing_shards: tuple[int, ...]
    messages: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the sum adds up."""
        return not self.messages


def check_sources(store: Store) -> list[str]:
    """Shortfalls of sequences/, records/ and rejects/ against the manifest's counts, in words."""
    messages = []
    listed = {kind: store.parts(kind) for kind in ("sequences", "records", "rejects")}
    for source in store.sources:
        counts = {
            "sequences": source.seq_hi - source.seq_lo,
            "records": source.records,
            "rejects": source.rejected,
        }
        for kind, expected in counts.items():
            parts = [p for p in listed[kind] if p.name.startswith(f"part-{source.ingest:05d}-")]
            found = sum(count_rows(part) for part in parts)
            if found != expected:
                messages.append(
                    f"{source.path}: {found} rows in {kind}/ where {expected} were ingested (restore the folder from a "
                    f"copy, or ingest into a new atlas)"
                )
    return messages


def check_set(store: Store, made: ShardedSet, reread: Collection[int] = ()) -> Completeness:
    """Count what one set holds on disk; where its plan is damaged, all its files that can be read.

    Args:
        reread: numbers of shards whose own files are asked, though receipts may vouch for them.
    """
    try:
        shards = read_plan(store, made)
    except RaypipeError as error:
        rows = sum(count_rows(path) for path in fitting_parts(store, made))
        own = re.compile(rf"part-{made.run}-{re.escape(made.name)}-\d+\.parquet")
        rejects = (store.root / "rejects").glob(f"part-{made.run}-*.parquet")
        failed = sum(count_rows(path) for path in rejects if own.fullmatch(path.name))
        return Completeness(store.num_sequences, rows, failed, 0, (), (str(error),))
    found = finished(store, made, shards, reread)
    missing = [shard for shard in shards if shard.number not in found]
    absent = tuple(shard.number for shard in missing)
    rows = sum(state.rows for state in found.values())
    failed = sum(state.failed for state in found.values())
    messages = []
    if missing:
        messages.append(f"{len(missing)} of {len(shards)} shards unfinished: {shard_names(missing)}")
    if rows + failed != store.num_sequences:
        messages.append(f"{rows} {participle(made)} and {failed} failed of {store.num_sequences} sequences")
    return Completeness(store.num_sequences, rows, failed, len(shards), absent, tuple(messages))


def shard_names(shards: Sequence[Shard] | Sequence[Task], most: int = 5) -> str:
    """The first of `shards`, by number and by the sequences that they hold."""
    named = [f"{s.number} (seq_id {s.seq_lo} to {s.seq_hi - 1})" for s in sorted(shards, key=lambda s: s.number)[:most]]
    return ", ".join([*named, *(["..."] if len(shards) > most else [])])
