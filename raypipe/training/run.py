"""`raypipe pretrain`: settle the sequences, train, and write what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from index.store import Store
from raypipe import ray_runtime
from raypipe.errors import IncompleteError, UsageError
from raypipe.interrupts import interruptible
from raypipe.training.curve import check_curve
from raypipe.training.folder import FROM_INPUTS, RunFolder
from raypipe.training.job import Job, Progress
from raypipe.training.settings import PretrainSettings
from raypipe.training.start import find_start


def pretrain(
    folder: RunFolder,
    settings: PretrainSettings,
    open_store: Callable[[], Store],
    *,
    inputs: Sequence[str] = (),
    annotations: Sequence[str] = (),
    progress: Progress | None = None,
) -> bool:
    """Train, or go on with training, until the last step.

    Args:
        folder: of the run.
        settings: the recipe.
        open_store: gives the sequences; asked only while the run has no corpus.
        inputs, annotations: where they come from, to be compared when the run goes on; of a run with a corpus the
            inputs may be left out.
        progress: is told.

    Returns:
        False where the run was finished before.

    Raises:
        UsageError: the folder holds another run, or settings do not fit the data, the model or the machine.
        InputError: a file is damaged, or nothing is left to train on.
        RaypipeError: a loss is NaN or infinite, the disk is full, Ray cannot be started.
        IncompleteError: it was interrupted; the message says where it goes on.
    """
    tell = progress or Progress()
    check_curve()
    start = find_start(settings)
    resolved = settings.resolved(start.settled) | {FROM_INPUTS: list(inputs), "annotations": list(annotations)}
    if start.checkpoint is not None:
        resolved |= {"model": start.checkpoint.asked, "model_fingerprint": start.checkpoint.fingerprint}
    folder.check(resolved)
    if not folder.begun and not inputs:
        raise UsageError(f"{folder.root}: no run was begun there; name its inputs: raypipe pretrain INPUT... -o RUN")
    job = Job(folder, settings, start)
    with interruptible(), folder.opened():
        # Another process may have begun it since we looked.
        folder.check(resolved)
        if folder.finished:
            return False
        if not folder.begun:
            from raypipe.training.corpus import make_corpus

            store = open_store()
            folder.begin(resolved, start.config)
            tell.say("laying out the corpus")
            make_corpus(folder.corpus, store, settings, start.alphabet)
        else:
            folder.begin(resolved, start.config)
        try:
            _train(job, tell)
        except KeyboardInterrupt:
            done = folder.last_step
            where = f"goes on after step {done:,}" if done else "begins again, as no state was written yet"
            raise IncompleteError(f"stopped; run the same command again: it {where}") from None
        from raypipe.training.products import finish

        finish(folder)
    return True


def _train(job: Job, progress: Progress) -> None:
    """Until the last step, in this process or on Ray."""
    from raypipe.training.ray_workers import train_on_ray
    from raypipe.training.worker import describe_beginning, local_device, train

    settings = job.settings
    if settings.workers > 1 or settings.address is not None:
        describe_beginning(job, progress)
        with ray_runtime.session(settings.address) as ray:
            train_on_ray(ray, job, progress)
        return
    if settings.shard_weights:
        raise UsageError("--shard-weights: there is nothing to spread over one worker; add --workers")
    device = local_device(settings.gpus_per_worker)
    describe_beginning(job, progress)
    if settings.feed == "ray" or (settings.feed is None and device.type == "cuda"):
        from raypipe.training.ray_feed import Source, streamed

        with ray_runtime.session(None):
            train(job, device, progress, feed=partial(streamed, Source(job, 0, 1)))
        return
    train(job, device, progress)
