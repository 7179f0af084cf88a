"""Embed a store: resolve the model, plan, run the shards, and count what stands on disk."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

from index import files
from index.errors import StoreError
from index.store import Embedding, Store
from raypipe import plan, ray_runtime, resources
from raypipe.actors import EmbedJob, EmbedShards, Receipt
from raypipe.checkpoints import Checkpoint, find_checkpoint
from raypipe.completeness import Completeness, check_embedding
from raypipe.errors import IncompleteError, RaypipeError
from raypipe.ingest import disk_error
from raypipe.plan import Shard
from raypipe.settings import EmbedSettings
from raypipe.vectors import describe


@dataclass(frozen=True)
class EmbedReport:
    """What a run did and what stands on disk after it.

    Attributes:
        shards_run, tokens, seconds: of this run; the rest counts the whole set of vectors.
    """

    embedding: Embedding
    checkpoint: Checkpoint
    completeness: Completeness
    shards_run: int
    sequences_run: int
    tokens: int
    seconds: float


class Progress:
    """What `embed` tells of its run; the command line draws it, the default keeps silent."""

    def planned(self, shards: list[Shard], todo: list[Shard], workers: int) -> None:
        """Before the first shard."""

    def finished(self, receipt: Receipt) -> None:
        """After every shard."""


def embed(store: Store, settings: EmbedSettings, progress: Progress | None = None) -> EmbedReport:
    """Embed every sequence of `store` that has no vector of this model, layer and pooling yet.

    Raises:
        StoreError: the store holds no sequences, or other vectors under this name; the message names the difference.
        RaypipeError: the model cannot be had, Ray cannot be started, the disk is full.
        IncompleteError: shards are left over; the same command goes on from there.
    """
    progress = progress or Progress()
    if not store.num_sequences:
        raise StoreError(f"{store.root}: holds no sequences yet; run: raypipe ingest INPUT -o {store.root}")
    checkpoint = find_checkpoint(settings.model)
    inline = settings.executor == "inline"
    with (
        _interruptible(),
        store.lock(),
        nullcontext() if inline else ray_runtime.session(settings.address) as ray,
    ):
        try:
            return _embed(store, settings, checkpoint, ray, progress)
        except OSError as error:
            raise disk_error(store.root, error) from error


def _embed(store: Store, settings: EmbedSettings, checkpoint: Checkpoint, ray: Any, progress: Progress) -> EmbedReport:
    gpus = resources.gpus_per_worker(settings, ray)
    embedding, compute_dtype = describe(store, settings, checkpoint, cuda=gpus > 0)
    known = store.embeddings.get(embedding.name)
    workers = resources.workers(settings, ray, checkpoint, gpus)
    if known is None:
        if not embedding.shard_tokens:
            tokens = plan.sequence_tokens(store, 0, checkpoint.config.context, embedding.on_long)
            size = plan.default_shard_tokens(
                checkpoint.config, int(tokens.sum()), workers, cuda=gpus > 0, per_token=embedding.per_token
            )
            embedding = replace(embedding, shard_tokens=size)
        store.put_embedding(embedding)
        settings_file = store.root / "embeddings" / embedding.name / "settings.json"
        files.write_json(settings_file, embedding.settings, store.root)
    shards = plan.make_plan(store, embedding, checkpoint.config.context)
    # Longest sequences first: if they do not fit the memory it shows at once, and they are no stragglers at the end.
    todo = sorted(plan.unfinished(store, embedding, shards), key=lambda s: -s.tokens / s.num_sequences)
    workers = max(1, min(workers, len(todo)))
    job = EmbedJob(
        root=str(store.root),
        embedding=embedding,
        compute_dtype=compute_dtype,
        device="cuda" if gpus > 0 else ("auto" if ray is None else "cpu"),
        threads=max(1, resources.cpus(ray) // workers),
        max_tokens=settings.max_tokens,
    )
    progress.planned(shards, todo, workers)
    begin = time.perf_counter()
    receipts = [] if not todo else _run(job, todo, ray, workers, gpus, progress)
    seconds = time.perf_counter() - begin
    completeness = check_embedding(store, embedding)
    report = EmbedReport(
        embedding=embedding,
        checkpoint=checkpoint,
        completeness=completeness,
        shards_run=sum(not receipt.error for receipt in receipts),
        sequences_run=sum(receipt.rows for receipt in receipts),
        tokens=sum(receipt.tokens for receipt in receipts if not receipt.error),
        seconds=seconds,
    )
    if not completeness.complete:
        first = next((receipt.error for receipt in receipts if receipt.error), "")
        reason = f" (first error: {first})" if first else ""
        raise IncompleteError(
            f"{store.root}: {'; '.join(completeness.messages)}{reason}; run the same command again to go on"
        )
    return report


def _run(job: EmbedJob, todo: list[Shard], ray: Any, workers: int, gpus: float, progress: Progress) -> list[Receipt]:
    """Run the shards, here or on Ray; stop at an error that every shard would meet."""
    receipts: list[Receipt] = []
    if ray is None:
        actor = EmbedShards(job)
        stream: Iterator[Receipt] = (actor.run(shard) for shard in todo)
    else:
        cpus = 0.5 if gpus else 1
        rows = ray_runtime.run_shards(ray, EmbedShards, job, todo, workers=workers, cpus=cpus, gpus=gpus)
        stream = (Receipt(**{f.name: row[f.name] for f in fields(Receipt)}) for row in rows)
    for receipt in stream:
        receipts.append(receipt)
        progress.finished(receipt)
        if receipt.fatal:
            raise RaypipeError(
                f"{job.root}: {receipt.error} (on {receipt.host}); mend that and run the same command again: it goes on where it stopped"
            )
    return receipts


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM stops a run as Ctrl-C does: by an exception, so that locks, files and Ray are put away."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # only the main thread may set handlers; elsewhere the application owns them
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
