"""Embed a store: resolve the model, plan, run the shards, and count what stands on disk."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, fields, replace
from typing import Any

from index import files
from index.errors import StoreError
from index.store import Embedding, Store
from raypipe import plan, ray_runtime, resources
from raypipe.actors import EmbedJob, EmbedShards, Receipt
from raypipe.checkpoints import Checkpoint, find_checkpoint
from raypipe.completeness import Completeness, check_embedding, shard_names
from raypipe.errors import IncompleteError, RaypipeError, disk_error
from raypipe.interrupts import interruptible
from raypipe.plan import Shard
from raypipe.settings import EmbedSettings
from raypipe.vectors import describe, has_begun


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


def embed(
    store: Store, settings: EmbedSettings, progress: Progress | None = None, checkpoint: Checkpoint | None = None
) -> EmbedReport:
    """Embed every sequence of `store` that has no vector of this model, layer and pooling yet.

    Args:
        checkpoint: what `find_checkpoint(settings.model)` gave, where the caller has it: finding it hashes its files.

    Raises:
        StoreError: the store holds no sequences, or other vectors under this name; the message names the difference.
        RaypipeError: the model cannot be had, Ray cannot be started, the disk is full.
        IncompleteError: something is missing on disk at the end; the message says what, and what to do.
    """
    progress = progress or Progress()
    if not store.num_sequences:
        raise StoreError(f"{store.root}: holds no sequences yet; run: raypipe ingest INPUT -o {store.root}")
    checkpoint = checkpoint or find_checkpoint(settings.model)
    with interruptible(), store.lock():
        try:
            # A finished run says so without starting Ray.
            finished = _finished(store, settings, checkpoint)
            if finished is not None:
                return finished
            if settings.executor == "inline":
                return _embed(store, settings, checkpoint, None, progress)
            with ray_runtime.session(settings.address) as ray:
                return _embed(store, settings, checkpoint, ray, progress)
        except OSError as error:
            raise disk_error(store.root, error) from error


def _finished(store: Store, settings: EmbedSettings, checkpoint: Checkpoint) -> EmbedReport | None:
    """The report of a set of vectors that lacks nothing, else None."""
    embedding = describe(store, settings, checkpoint, cuda=False)
    if not has_begun(store, embedding.name):
        return None
    shards = _plan(store, embedding, checkpoint)
    if plan.unfinished(store, embedding, shards):
        return None
    return _conclude(store, embedding, checkpoint, [], [], 0.0)


def _embed(store: Store, settings: EmbedSettings, checkpoint: Checkpoint, ray: Any, progress: Progress) -> EmbedReport:
    gpus = resources.gpus_per_worker(settings, ray)
    cuda = gpus > 0 or (ray is None and resources.local_cuda())
    embedding = describe(store, settings, checkpoint, cuda=cuda)
    workers = resources.workers(settings, ray, checkpoint, gpus)
    if not has_begun(store, embedding.name):
        embedding = _begin(store, embedding, checkpoint, workers, cuda=cuda)
    shards = _plan(store, embedding, checkpoint)
    # Longest sequences first: if they do not fit the memory it shows at once, and they are no stragglers at the end.
    todo = sorted(plan.unfinished(store, embedding, shards), key=lambda s: -s.tokens / s.num_sequences)
    workers = max(1, min(workers, len(todo)))
    job = EmbedJob(
        root=str(store.root),
        embedding=embedding,
        compute_dtype=embedding.settings["dtype"],
        device="cuda" if cuda else "cpu",
        threads=max(1, resources.cpus(ray) // workers),
        max_tokens=settings.max_tokens,
    )
    progress.planned(shards, todo, workers)
    begin = time.perf_counter()
    receipts = _run(job, todo, ray, workers, gpus, progress)
    return _conclude(store, embedding, checkpoint, todo, receipts, time.perf_counter() - begin)


def _begin(store: Store, embedding: Embedding, checkpoint: Checkpoint, workers: int, *, cuda: bool) -> Embedding:
    """Enter a set of vectors that has no finished shard into the manifest, its shard size settled."""
    config = checkpoint.config
    folder = store.root / "embeddings" / embedding.name
    if store.embedding_parts(embedding.name):
        raise StoreError(
            f"{folder}: holds vectors that store.json does not know; restore store.json from a copy, or remove the "
            f"folder"
        )
    plan.forget_plan(store, embedding.name)
    if not embedding.shard_tokens:
        tokens = int(plan.sequence_tokens(store, 0, config.context, embedding.on_long).sum())
        size = plan.default_shard_tokens(config, tokens, workers, cuda=cuda, per_token=embedding.per_token)
        embedding = replace(embedding, shard_tokens=size)
    resolved = {**embedding.settings, "shard_tokens": embedding.shard_tokens, "workers": workers, "cuda": cuda}
    files.write_json(folder / "settings.json", resolved, store.root)
    store.put_embedding(embedding)
    return embedding


def _plan(store: Store, embedding: Embedding, checkpoint: Checkpoint) -> list[Shard]:
    """The shards, with nothing else beside them and the manifest's entry up to date."""
    if store.embeddings[embedding.name] != embedding:
        store.put_embedding(embedding)
    shards = plan.make_plan(store, embedding, checkpoint.config.context)
    plan.remove_strays(store, embedding, shards)
    return shards


def _conclude(
    store: Store,
    embedding: Embedding,
    checkpoint: Checkpoint,
    todo: list[Shard],
    receipts: list[Receipt],
    seconds: float,
) -> EmbedReport:
    """Count what stands on disk; the one place that calls a run complete."""
    state = check_embedding(store, embedding)
    if not state.complete:
        again = "; run the same command again to go on" if state.missing_shards else ""
        raise IncompleteError(f"{store.root}: {'; '.join(state.messages)}{_why_incomplete(todo, receipts)}{again}")
    done = [receipt for receipt in receipts if not receipt.error]
    return EmbedReport(
        embedding=embedding,
        checkpoint=checkpoint,
        completeness=state,
        shards_run=len(done),
        sequences_run=sum(receipt.rows for receipt in done),
        tokens=sum(receipt.tokens for receipt in done),
        seconds=seconds,
    )


def _why_incomplete(todo: list[Shard], receipts: list[Receipt]) -> str:
    came = {receipt.shard for receipt in receipts}
    lost = [shard for shard in todo if shard.number not in came]
    first = next((receipt.error for receipt in receipts if receipt.error), "")
    reasons = [f"first error: {first}"] if first else []
    if lost:
        reasons.append(f"every worker died that took shard {shard_names(lost)}; {ray_runtime.DEATH_HINT}")
    return f" ({'; '.join(reasons)})" if reasons else ""


def _run(job: EmbedJob, todo: list[Shard], ray: Any, workers: int, gpus: float, progress: Progress) -> list[Receipt]:
    """Run the shards, here or on Ray; stop at an error that every shard would meet."""
    receipts: list[Receipt] = []
    # Closed here, not when the garbage is collected: Ray Data would start another Ray to clean up.
    with closing(_stream(job, todo, ray, workers, gpus)) as stream:
        for receipt in stream:
            if receipt.fatal:
                raise RaypipeError(f"stopped on {receipt.host}: {receipt.error}")
            receipts.append(receipt)
            progress.finished(receipt)
    return receipts


def _stream(job: EmbedJob, todo: list[Shard], ray: Any, workers: int, gpus: float) -> Generator[Receipt]:
    if ray is None:
        actor = EmbedShards(job)
        for shard in todo:
            yield actor.run(shard)
        return
    cpus = 0.5 if gpus else 1
    with closing(ray_runtime.run_shards(ray, EmbedShards, job, todo, workers=workers, cpus=cpus, gpus=gpus)) as rows:
        for row in rows:
            yield Receipt(**{f.name: row[f.name] for f in fields(Receipt)})
