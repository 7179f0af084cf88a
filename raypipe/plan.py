"""Cut the store's sequences into shards: the unit of work, of resume, and of what a kill can cost.

A shard is a range of seq_ids. The plan of one set (of vectors or of predictions) stands beside its files in
`plan.parquet`; it is only ever extended (sequences that were ingested later), so a file made once keeps its meaning.

A run may make several sets. Where their shards hold the same sequences they are one task, and the model runs once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from index import files
from index.parquet import read_parquet
from index.places import Place
from index.sets import ShardedSet
from index.store import Store
from raypipe.errors import RaypipeError
from raypipe.work import MAX_SHARD_PAIRS, sequence_lengths, sequence_tokens, stored_pairs

PLAN_FILE = "plan.parquet"
PLAN = pa.schema([("shard", pa.int32()), ("seq_lo", pa.int64()), ("seq_hi", pa.int64()), ("tokens", pa.int64())])


@dataclass(frozen=True)
class Shard:
    """Sequences [seq_lo, seq_hi) of one set, and the tokens that they cost, special tokens and windows counted."""

    number: int
    seq_lo: int
    seq_hi: int
    tokens: int

    @property
    def file_name(self) -> str:
        """Name of the shard's file, in every folder of its set."""
        return f"part-{self.number:06d}.parquet"

    @property
    def num_sequences(self) -> int:
        """Sequences in the range, whether the model takes them or not."""
        return self.seq_hi - self.seq_lo


@dataclass(frozen=True)
class Task:
    """Sequences [seq_lo, seq_hi) for all sets of a run that have a shard of just these.

    Attributes:
        number: its place in the run; the shards' own number where all sets have the same plan.
        tokens: that one pass over them costs.
        shards: their number in every set of the run, in the run's order; -1 where a set has no such shard.
    """

    number: int
    seq_lo: int
    seq_hi: int
    tokens: int
    shards: tuple[int, ...]

    @property
    def num_sequences(self) -> int:
        """Sequences in the range."""
        return self.seq_hi - self.seq_lo

    def shard(self, place: int) -> Shard | None:
        """Its shard in the run's set number `place`."""
        number = self.shards[place]
        return Shard(number, self.seq_lo, self.seq_hi, self.tokens) if number >= 0 else None

    def own_shards(self, sets: Sequence[ShardedSet]) -> list[tuple[ShardedSet, Shard]]:
        """Its shards, each with its set, in the order of the run's `sets`; there is at least one."""
        return [(made, shard) for place, made in enumerate(sets) if (shard := self.shard(place))]


def make_plans(store: Store, sets: Sequence[ShardedSet], context: int) -> list[list[Shard]]:
    """The shards of every set of a run: those planned before, then new ones for sequences that came since.

    Sets that were planned equally far are extended alike. The caller holds `store.lock()`.

    Args:
        sets: all of one model and one policy for long sequences.
        context: the model's, in nucleotides.
    """
    plans = [read_plan(store, made) for made in sets]
    ends = [plan[-1].seq_hi if plan else 0 for plan in plans]
    for first in sorted(set(ends)):
        if first >= store.num_sequences:
            continue
        alike = [place for place, end in enumerate(ends) if end == first]
        # Several sets in one run cost the same tokens: `raypipe mlm`, which masks, makes one at a time.
        lengths = sequence_lengths(store, first)
        tokens = sequence_tokens(lengths, context, sets[alike[0]])
        pairs = stored_pairs(lengths, context, [sets[place] for place in alike])
        size = min(sets[place].shard_tokens for place in alike)
        for place in alike:
            plans[place] = plans[place] + cut_shards(tokens, pairs, first, len(plans[place]), size)
            _write_plan(store, sets[place], plans[place])
    return plans


def read_plan(store: Store, made: ShardedSet) -> list[Shard]:
    """The shards planned so far, in order; none before the first run."""
    path = _plan_path(store, made)
    if not path.is_file():
        return []
    try:
        table = read_parquet(path, columns=PLAN.names)
    except (OSError, pa.ArrowException) as error:
        raise RaypipeError(f"{path}: damaged ({error}); remove it: finished shards that still fit are kept") from error
    # By columns: rows as dictionaries take half a second for ten thousand shards.
    return [Shard(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def most_pairs(store: Store, planned: ShardedSet, sets: Sequence[ShardedSet], context: int) -> int:
    """The most pairs that one shard of the plan of `planned` can give for `sets`; see `raypipe.work.stored_pairs`."""
    before = np.concatenate([[0], np.cumsum(stored_pairs(sequence_lengths(store, 0), context, sets))])
    shards = read_plan(store, planned)
    # Where files of sequences are lost there are fewer; the run says so at its end.
    spans = np.array([(shard.seq_lo, shard.seq_hi) for shard in shards], np.int64).reshape(-1, 2)
    spans = np.minimum(spans, len(before) - 1)
    return int((before[spans[:, 1]] - before[spans[:, 0]]).max(initial=0))


def begin_plan(store: Store, made: ShardedSet, like: ShardedSet | None) -> None:
    """Let a set that has no finished shard begin with the plan of another one, or with none.

    The caller holds `store.lock()`.
    """
    shards = read_plan(store, like) if like else []
    if shards:
        _write_plan(store, made, shards)
    else:
        _plan_path(store, made).unlink(missing_ok=True)


def merge(plans: Sequence[list[Shard]]) -> list[Task]:
    """The tasks of a run from the plans of its sets, in the order of their sequences."""
    numbers: dict[tuple[int, int, int], list[int]] = {}
    for place, plan in enumerate(plans):
        for shard in plan:
            of_task = numbers.setdefault((shard.seq_lo, shard.seq_hi, shard.tokens), [-1] * len(plans))
            of_task[place] = shard.number
    return [Task(number, *span, tuple(numbers[span])) for number, span in enumerate(sorted(numbers))]


def _write_plan(store: Store, made: ShardedSet, shards: list[Shard]) -> None:
    columns = [[getattr(shard, name) for shard in shards] for name in ("number", "seq_lo", "seq_hi", "tokens")]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, PLAN, strict=True)], schema=PLAN)
    files.write_parquet(_plan_path(store, made), table, store.root)


def _plan_path(store: Store, made: ShardedSet) -> Place:
    return store.root / made.main / made.name / PLAN_FILE


def cut_shards(tokens: np.ndarray, pairs: np.ndarray, first: int, number: int, shard_tokens: int) -> list[Shard]:
    """Consecutive sequences up to `shard_tokens` tokens and MAX_SHARD_PAIRS pairs; one beyond is a shard of its own.

    Args:
        tokens, pairs: what each sequence costs and can give, (N,).
        first: seq_id of the first of them.
        number: of the first shard.
    """
    limits = ((np.append(0, np.cumsum(tokens)), shard_tokens), (np.append(0, np.cumsum(pairs)), MAX_SHARD_PAIRS))
    before = limits[0][0]
    shards: list[Shard] = []
    begin = 0
    while begin < len(tokens):
        fits = min(int(np.searchsorted(sums, sums[begin] + most, side="right")) - 1 for sums, most in limits)
        end = max(fits, begin + 1)
        shards.append(Shard(number + len(shards), first + begin, first + end, int(before[end] - before[begin])))
        begin = end
    return shards
