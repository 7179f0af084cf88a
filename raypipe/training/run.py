"""`raypipe pretrain`: settle the sequences, train, and write what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from index.store import Store
from raypipe import ray_runtime
from raypipe.errors import IncompleteError, UsageError
from raypipe.interrupts import interruptible
from raypipe.training.curve import check_curve
from raypipe.training.folder import RunFolder
from raypipe.training.job import Job, Progress
from raypipe.training.recall import Command, check_model, recall, unknown_settings
from raypipe.training.start import find_start
from raypipe.training.stopping import Stop


def pretrain(
    folder: RunFolder, command: Command, open_store: Callable[[], Store], progress: Progress | None = None
) -> bool:
    """Train, or go on with training, until the last step.

    Args:
        folder: of the run.
        command: what is asked for; a run that goes on has the rest from its beginning.
        open_store: gives the sequences; asked only while the run has no corpus.
        progress: is told.

    Returns:
        False where the run was finished before.

    Raises:
        UsageError: the folder holds another run, or settings do not fit the data, the model or the machine.
        InputError: a file is damaged, or nothing is left to train on.
        RaypipeError: a loss is NaN or infinite, the disk is full, the memory too small, Ray cannot be started.
        IncompleteError: it was stopped; the message says where it goes on.
    """
    tell = progress or Progress()
    stop = Stop(command.settings.max_minutes, tell.say)
    check_curve()
    job, resolved = _settle(folder, command, tell)
    with interruptible(), folder.opened():
        # Another process may have begun it since we looked.
        job, resolved = _settle(folder, command, Progress())
        if folder.finished:
            return False
        if not folder.begun:
            from raypipe.training.corpus import make_corpus

            store = open_store()
            folder.begin(resolved, job.start.config)
            tell.say("laying out the corpus")
            make_corpus(folder.corpus, store, job.settings, job.start.alphabet)
        else:
            folder.begin(resolved, job.start.config)
        try:
            _train(job, tell, stop)
        except KeyboardInterrupt:
            raise IncompleteError(f"stopped; {_how_to_go_on(folder)}") from None
        from raypipe.training.products import finish

        finish(folder)
    return True


def _settle(folder: RunFolder, command: Command, progress: Progress) -> tuple[Job, dict[str, Any]]:
    """What the run is, and what is to stand in its settings.json.

    Raises:
        UsageError: the folder holds another run, or nothing and the command has no inputs.
    """
    folder.check()
    if not folder.begun:
        if not command.inputs:
            raise UsageError(
                f"{folder.root}: no run was begun there; name its inputs: raypipe pretrain INPUT... -o RUN"
            )
        start = find_start(command.settings)
        return Job(folder, command.settings, start), command.resolved(start)
    before = folder.settings()
    unknown = unknown_settings(before)
    if unknown:
        names = ", ".join(unknown)
        progress.say(
            f"{folder.settings_file}: {names} of another version of raypipe counts no more: this one has no "
            f"such setting"
        )
    whole = recall(command, before, folder.root, stepped=folder.last_step > 0)
    start = find_start(whole.settings)
    check_model(start, before, folder.root)
    return Job(folder, whole.settings, start), whole.resolved(start)


def _how_to_go_on(folder: RunFolder) -> str:
    done = folder.last_step
    where = f"goes on after step {done:,}" if done else "begins again, as no state was written yet"
    return f"run the same command again: it {where}"


def _train(job: Job, progress: Progress, stop: Stop) -> None:
    """Until the last step, in this process or on Ray.

    Raises:
        IncompleteError: an end was wanted before.
    """
    from raypipe.training.ray_workers import train_on_ray
    from raypipe.training.worker import describe_beginning, local_device, train

    settings = job.settings
    alone = settings.workers == 1 and settings.address is None
    if alone and settings.shard_weights:
        raise UsageError("--shard-weights: there is nothing to spread over one worker; add --workers")
    device = local_device(settings.gpus_per_worker) if alone else None
    job = describe_beginning(job, progress)
    if device is None:
        with ray_runtime.session(settings.address) as ray, stop.listening():
            train_on_ray(ray, job, progress, stop)
    elif settings.feed == "ray" or (settings.feed is None and device.type == "cuda"):
        from raypipe.training.ray_feed import Source, streamed

        with ray_runtime.session(None), stop.listening():
            train(job, device, progress, feed=partial(streamed, Source(job, 0, 1)), stop=stop)
    else:
        with stop.listening():
            train(job, device, progress, stop=stop)
    if job.folder.last_step < (job.settings.steps or 0):
        raise IncompleteError(f"{stop.why}; {_how_to_go_on(job.folder)}")
