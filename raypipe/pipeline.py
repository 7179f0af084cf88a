"""Make sets of vectors and predictions of a store: plan, run the shards, and count what stands on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from typing import Any

from index.errors import StoreError, UnreachableError
from index.receipts import ReceiptWriter, ShardReceipt, Stamp
from index.sets import ShardedSet
from index.store import Store
from raypipe import attempts, plan, ray_runtime, resources
from raypipe.actors import Job, Receipt, ShardActor
from raypipe.checkpoints import Checkpoint, find_checkpoint, find_heads
from raypipe.completeness import Completeness, check_set, check_sources, shard_names
from raypipe.cost import refuse_small_disk
from raypipe.disk_errors import disk_error
from raypipe.errors import IncompleteError, RaypipeError, UsageError, debugging
from raypipe.interrupts import check, interruptible
from raypipe.outputs import Ask
from raypipe.plan import Shard, Task
from raypipe.predictions import describe_heads, describe_mlm
from raypipe.sets import begin, has_begun, put, settle
from raypipe.settings import EmbedSettings, MlmSettings, PredictSettings, RunSettings
from raypipe.shard_files import finished, remove_strays, vouch
from raypipe.vectors import describe_vectors


@dataclass(frozen=True)
class RunReport:
    """What a run did and what stands on disk after it.

    Attributes:
        sets: all that was asked for.
        states: of each of `sets`, the whole of it.
        worked_on: those of `sets` that lacked something when the run began.
        shards_run, sequences_run, tokens, seconds: of this run.
    """

    sets: tuple[ShardedSet, ...]
    states: tuple[Completeness, ...]
    worked_on: tuple[ShardedSet, ...]
    checkpoint: Checkpoint
    shards_run: int
    sequences_run: int
    tokens: int
    seconds: float


class Progress:
    """What a run tells while it goes on; the command line draws it, the default keeps silent."""

    def planned(self, sets: Sequence[ShardedSet], tasks: Sequence[Task], todo: Sequence[Task], workers: int) -> None:
        """Before the first shard: the sets that lack something, all tasks, and those with something to do."""

    def finished(self, receipt: Receipt) -> None:
        """After every shard."""


def embed(
    store: Store, settings: EmbedSettings, progress: Progress | None = None, checkpoint: Checkpoint | None = None
) -> RunReport:
    """Embed every sequence of `store` that has no vector of this model, layer and pooling yet.

    With `settings.heads` their predictions are made in the same pass of the model.

    Args:
        checkpoint: what `find_checkpoint(settings.model)` gave, where the caller has it: finding it hashes its files.

    Raises:
        StoreError: the store holds no sequences, or other vectors or predictions under a name; the message names the
            difference.
        RaypipeError: the model or a head cannot be had, Ray cannot be started, the disk is full.
        IncompleteError: something is missing on disk at the end; the message says what, and what to do.
    """
    _refuse_empty(store)
    checkpoint = checkpoint or find_checkpoint(settings.model)
    heads = find_heads(checkpoint, settings.heads)
    asked = [describe_vectors(settings, checkpoint), *describe_heads(settings, checkpoint, heads)]
    ask = Ask(settings.on_long, settings.max_tokens)
    return _Run(store, settings, checkpoint, asked, ask, progress or Progress()).make()


def predict(
    store: Store, settings: PredictSettings, progress: Progress | None = None, checkpoint: Checkpoint | None = None
) -> RunReport:
    """Predict by heads for every sequence of `store` that has no prediction of them yet.

    Args, Raises: as `embed`; besides
        UsageError: no head is named, or an option that has no use.
    """
    _refuse_empty(store)
    checkpoint = checkpoint or find_checkpoint(settings.model)
    heads = find_heads(checkpoint, settings.heads)
    if not heads:
        raise UsageError("name the heads that shall predict: --heads NAME[,NAME]")
    about = {"name": settings.name, "threshold": settings.threshold, "pseudoknots": settings.pseudoknots}
    asked = describe_heads(settings, checkpoint, heads, **about)
    ask = Ask(settings.on_long, settings.max_tokens, settings.threshold, settings.pseudoknots)
    return _Run(store, settings, checkpoint, asked, ask, progress or Progress()).make()


def mlm(
    store: Store, settings: MlmSettings, progress: Progress | None = None, checkpoint: Checkpoint | None = None
) -> RunReport:
    """Let the masked language model score every sequence of `store` that it has not scored yet.

    Args, Raises: as `embed`; besides
        RaypipeError: the checkpoint has no masked-LM head.
    """
    _refuse_empty(store)
    checkpoint = checkpoint or find_checkpoint(settings.model)
    asked = [describe_mlm(settings, checkpoint)]
    ask = Ask(settings.on_long, settings.max_tokens)
    return _Run(store, settings, checkpoint, asked, ask, progress or Progress()).make()


def _refuse_empty(store: Store) -> None:
    if not store.num_sequences:
        raise StoreError(f"{store.root}: holds no sequences yet; run: raypipe ingest INPUT -o {store.root}")


@dataclass(frozen=True)
class _Work:
    """What a run has to do.

    Attributes:
        sets: those that lack something.
        tasks: all of the plan.
        todo: tasks of which something is missing. Longest sequences first: if they do not fit the memory it shows at
            once, and they are no stragglers at the end.
        lacking: for every set of the run, its shards that are to be made.
    """

    sets: Sequence[ShardedSet]
    tasks: Sequence[Task]
    todo: Sequence[Task]
    lacking: Sequence[Sequence[Shard]]


@dataclass(frozen=True)
class _Run:
    """One run: what is asked for, and with what."""

    store: Store
    settings: RunSettings
    checkpoint: Checkpoint
    asked: Sequence[ShardedSet]
    ask: Ask
    progress: Progress

    def make(self) -> RunReport:
        with interruptible(), self.store.lock():
            try:
                # A finished run says so without starting Ray.
                finished = self._finished()
                if finished is not None:
                    return finished
                if self.settings.executor == "inline":
                    return self._make(None)
                with ray_runtime.session(self.settings.address) as ray:
                    return self._make(ray)
            except UnreachableError as error:
                raise IncompleteError(f"stopped: {error}") from error
            except OSError as error:
                raise disk_error(self.store.root, error) from error

    def _finished(self) -> RunReport | None:
        """The report of a run that has nothing to do, else None."""
        sets = settle(self.store, self.asked, cuda=False)
        if not all(has_begun(self.store, made) for made in sets):
            return None
        work = self._plan(sets)
        return None if work.todo else self._conclude(sets, work, [], 0.0)

    def _make(self, ray: Any) -> RunReport:
        gpus = resources.gpus_per_worker(self.settings, ray)
        cuda = gpus > 0 or (ray is None and resources.local_cuda())
        sets = settle(self.store, self.asked, cuda=cuda)
        workers = resources.workers(self.settings, ray, self.checkpoint, gpus)
        sets = begin(self.store, sets, self.checkpoint.config, workers, cuda=cuda)
        work = self._plan(sets)
        refuse_small_disk(self.store, sets, work.lacking, self.checkpoint.config.context)
        pool = resources.pool(self.settings, ray, workers, gpus, len(work.todo))
        job = Job(
            root=str(self.store.root),
            sets=tuple(sets),
            compute_dtype=sets[0].settings["dtype"],
            device="cuda" if cuda else "cpu",
            threads=max(1, resources.cpus(ray) // pool.workers),
            ask=self.ask,
            stall_seconds=0.0 if ray is None else 60 * self.settings.stall_minutes,
            replaceable=ray is not None,
            debug=debugging(),
        )
        self.progress.planned(work.sets, work.tasks, work.todo, pool.workers)
        begun = time.perf_counter()
        receipts = self._receipts(job, work, ray, pool)
        return self._conclude(sets, work, receipts, time.perf_counter() - begun)

    def _plan(self, sets: Sequence[ShardedSet]) -> _Work:
        """What there is to do; nothing else stands beside the sets' files."""
        for made in sets:
            put(self.store, made)
        plans = plan.make_plans(self.store, sets, self.checkpoint.config.context)
        missing: set[tuple[int, int]] = set()
        lacking: list[list[Shard]] = []
        for made, shards in zip(sets, plans, strict=True):
            remove_strays(self.store, made, shards)
            found = finished(self.store, made, shards)
            vouch(self.store, made, shards, found)
            lacks = [shard for shard in shards if shard.number not in found]
            missing |= {(shard.seq_lo, shard.seq_hi) for shard in lacks}
            lacking.append(lacks)
        tasks = plan.merge(plans)
        todo = [task for task in tasks if (task.seq_lo, task.seq_hi) in missing]
        todo = sorted(todo, key=lambda task: -task.tokens / task.num_sequences)
        return _Work([made for made, lacks in zip(sets, lacking, strict=True) if lacks], tasks, todo, lacking)

    def _receipts(self, job: Job, work: _Work, ray: Any, pool: ray_runtime.Pool) -> list[Receipt]:
        """Run the tasks, here or on Ray; stop at an error that every one of them would meet."""
        receipts: list[Receipt] = []
        tasks = {task.number: task for task in work.todo}
        writers = [ReceiptWriter(self.store.root, made) for made in job.sets]
        try:
            # Closed here, not when the garbage is collected: Ray Data would start another Ray to clean up.
            with closing(_stream(job, work.todo, ray, pool)) as stream:
                for receipt in stream:
                    # What ended the run (a full disk) may keep this from being written too; a store that does not
                    # answer now is asked again with the next receipt.
                    with suppress(OSError, StoreError) if receipt.fatal else suppress(UnreachableError):
                        self._note(job.sets, writers, tasks[receipt.shard], receipt)
                    if receipt.fatal:
                        stopped = IncompleteError if receipt.unreachable else RaypipeError
                        raise stopped(f"stopped on {receipt.host}: {receipt.error}")
                    receipts.append(receipt)
                    self.progress.finished(receipt)
                    check()
        finally:
            for writer in writers:
                with suppress(OSError, StoreError):  # a lost line costs a look at a footer
                    writer.close()
        return receipts

    def _note(self, sets: Sequence[ShardedSet], writers: Sequence[ReceiptWriter], task: Task, receipt: Receipt) -> None:
        """Write what a worker says beside the sets' files: who comes later need not open them."""
        written = {one["set"]: one for one in json.loads(receipt.made)}
        about = {name: getattr(receipt, name) for name in ("tokens", "seconds", "host", "pid", "error")}
        for place, made in enumerate(sets):
            shard = task.shard(place)
            # A set may have had the shard before: then nothing was made, and nothing failed.
            if shard is None or (place not in written and not receipt.error):
                continue
            one = written.get(place, {"rows": 0, "failed": 0, "files": {}})
            files = {folder: Stamp(**stamp) for folder, stamp in one["files"].items()}
            span = (shard.number, shard.seq_lo, shard.seq_hi, made.fingerprint)
            entry = ShardReceipt(*span, one["rows"], one["failed"], files, finished_at=time.time(), **about)
            writers[place].add([entry])

    def _conclude(
        self, sets: Sequence[ShardedSet], work: _Work, receipts: Sequence[Receipt], seconds: float
    ) -> RunReport:
        """Count what stands on disk; the one place that calls a run complete."""
        # What this run wrote is read back; for older shards their receipts suffice.
        ran = {receipt.shard for receipt in receipts}
        tasks = [task for task in work.todo if task.number in ran]
        states = [
            check_set(self.store, made, {task.shards[place] for task in tasks}) for place, made in enumerate(sets)
        ]
        attempts.sweep(self.store.root, sets, work.todo)
        messages = check_sources(self.store)
        for made, state in zip(sets, states, strict=True):
            which = f"{made.main}/{made.name}: " if len(sets) > 1 else ""
            messages += [which + message for message in state.messages]
        if messages:
            again = "; run the same command again to go on" if any(state.missing_shards for state in states) else ""
            why = _why_incomplete(work.todo, receipts)
            raise IncompleteError(f"{self.store.root}: {'; '.join(messages)}{why}{again}")
        done = [receipt for receipt in receipts if not receipt.error]
        return RunReport(
            sets=tuple(sets),
            states=tuple(states),
            worked_on=tuple(work.sets),
            checkpoint=self.checkpoint,
            shards_run=len(done),
            sequences_run=sum(receipt.rows for receipt in done),
            tokens=sum(receipt.tokens for receipt in done),
            seconds=seconds,
        )


def _why_incomplete(todo: Sequence[Task], receipts: Sequence[Receipt]) -> str:
    came = {receipt.shard for receipt in receipts}
    lost = [task for task in todo if task.number not in came]
    first = next((receipt.error for receipt in receipts if receipt.error), "")
    reasons = [f"first error: {first}"] if first else []
    if lost:
        reasons.append(f"every worker died that took shard {shard_names(lost)}; {ray_runtime.DEATH_HINT}")
    return f" ({'; '.join(reasons)})" if reasons else ""


def _stream(job: Job, todo: Sequence[Task], ray: Any, pool: ray_runtime.Pool) -> Generator[Receipt]:
    if ray is None:
        actor = ShardActor(job)
        for task in todo:
            yield actor.run(task)
        return
    with closing(ray_runtime.run_shards(ray, ShardActor, job, todo, pool)) as rows:
        for row in rows:
            yield Receipt(**{f.name: row[f.name] for f in fields(Receipt)})
