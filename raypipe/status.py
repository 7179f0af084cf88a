"""How far an atlas is, told from what stands in its folder: while a run goes on or after it, without its lock or Ray.

No shard's file is opened: the listing of the folders and the receipts of the writers say it (`raypipe verify` looks
into the files).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from index.lock import Holder, has_lock, read_holder
from index.receipts import ShardReceipt, read_receipts
from index.sets import ShardedSet
from index.store import Store
from raypipe.errors import RaypipeError
from raypipe.plan import Shard, read_plan
from raypipe.shard_files import finished
from raypipe.wording import participle

RATE_SECONDS = 600
"""Rates are those of the last ten minutes."""


@dataclass(frozen=True)
class Failure:
    """A shard that failed, and was not made since.

    Attributes:
        at: seconds since 1970.
    """

    shard: int
    error: str
    host: str
    at: float


@dataclass(frozen=True)
class SetStatus:
    """How far one set is.

    Attributes:
        folder: where its files lie, below the store's root.
        verb: what becomes of its sequences: "embedded", "predicted" or "scored".
        shards, shards_done: of its plan, and those whose files stand.
        unseen: those of `shards_done` that no receipt vouches for: made before there were receipts, copied, or written
            by a run that was killed at that moment. The next run looks at them.
        sequences: of the whole store, of which `planned` are in the plan.
        done, failed: sequences in finished shards, and those of them that stand in rejects/.
        tokens, tokens_done: that the shards cost.
        tokens_per_s, sequences_per_s: over the last ten minutes; 0 where nobody writes, or nothing was finished.
        seconds_left: at that rate; None where nobody writes, nothing is known, or nothing is left.
        failures: shards that failed and are not made, the last one last.
        problem: why nothing more can be told, or "".
    """

    folder: str
    verb: str
    model: str
    shards: int = 0
    shards_done: int = 0
    unseen: int = 0
    sequences: int = 0
    planned: int = 0
    done: int = 0
    failed: int = 0
    tokens: int = 0
    tokens_done: int = 0
    tokens_per_s: float = 0.0
    sequences_per_s: float = 0.0
    seconds_left: float | None = None
    failures: tuple[Failure, ...] = ()
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether the files of all sequences stand."""
        return not self.problem and self.done == self.sequences


@dataclass(frozen=True)
class AtlasStatus:
    """How far an atlas is.

    Attributes:
        writer: who writes to it now, or did last; None if nobody ever did, or where that cannot be told.
        has_lock: whether it can: in an object store there is none.
    """

    path: str
    sources: int
    records: int
    rejected: int
    sequences: int
    writer: Holder | None
    sets: tuple[SetStatus, ...]
    has_lock: bool = True

    @property
    def complete(self) -> bool:
        """Whether there are sets, all whole, and nobody is about to change that."""
        writing = self.writer is not None and bool(self.writer.writing)
        return bool(self.sets) and all(made.complete for made in self.sets) and not writing


def atlas_status(path: str | os.PathLike[str], now: float | None = None) -> AtlasStatus:
    """How far the atlas at `path` is.

    Args:
        now: seconds since 1970, for which the rates are told.

    Raises:
        StoreError: it is none, or its manifest is damaged.
    """
    store = Store.open(path)
    writer = read_holder(store.root)
    # A writer on another machine cannot be seen from here; that it finished something lately tells.
    locked = has_lock(store.root)
    may_write = not locked or (writer is not None and writer.writing is not False)
    made = [*store.embeddings.values(), *store.predictions.values()]
    return AtlasStatus(
        path=str(store.root),
        sources=len(store.sources),
        records=store.num_records,
        rejected=sum(source.rejected for source in store.sources),
        sequences=store.num_sequences,
        writer=writer,
        sets=tuple(_set_status(store, one, time.time() if now is None else now, may_write) for one in made),
        has_lock=locked,
    )


def _set_status(store: Store, made: ShardedSet, now: float, may_write: bool) -> SetStatus:
    about: dict[str, Any] = {"folder": f"{made.main}/{made.name}", "verb": participle(made), "model": made.model}
    try:
        shards = read_plan(store, made)
    except RaypipeError as error:
        return SetStatus(**about, sequences=store.num_sequences, problem=str(error))
    receipts = read_receipts(store.root, made)
    found = finished(store, made, shards, look=False)
    done = [shard for shard in shards if shard.number in found]
    tokens = sum(shard.tokens for shard in shards)
    tokens_done = sum(shard.tokens for shard in done)
    token_rate, sequence_rate = _rates(receipts, now) if may_write else (0.0, 0.0)
    left = tokens - tokens_done
    return SetStatus(
        **about,
        shards=len(shards),
        shards_done=len(done),
        unseen=sum(found[shard.number].receipt is None for shard in done),
        sequences=store.num_sequences,
        planned=shards[-1].seq_hi if shards else 0,
        done=sum(shard.num_sequences for shard in done),
        failed=sum(state.failed for state in found.values()),
        tokens=tokens,
        tokens_done=tokens_done,
        tokens_per_s=token_rate,
        sequences_per_s=sequence_rate,
        seconds_left=left / token_rate if may_write and left and token_rate else None,
        failures=_failures(receipts, done),
    )


def _rates(receipts: Sequence[ShardReceipt], now: float) -> tuple[float, float]:
    """Tokens and sequences a second, of all workers together, over the last RATE_SECONDS."""
    lately = [one for one in receipts if not one.error and one.seconds and one.finished_at > now - RATE_SECONDS]
    if not lately:
        return 0.0, 0.0
    # From the start of the first of these shards: before that, nothing is known (models may have been loading).
    begin = max(now - RATE_SECONDS, min(one.finished_at - one.seconds for one in lately))
    span = max(now - begin, 1e-3)
    return sum(one.tokens for one in lately) / span, sum(one.rows + one.failed for one in lately) / span


def _failures(receipts: Sequence[ShardReceipt], done: Sequence[Shard]) -> tuple[Failure, ...]:
    made = {shard.number for shard in done}
    # The last one of every shard, in the order in which they came.
    last = {one.shard: one for one in receipts if one.error and one.shard not in made}
    failed = sorted(last.values(), key=lambda one: one.finished_at)
    return tuple(Failure(one.shard, one.error, one.host, one.finished_at) for one in failed)
