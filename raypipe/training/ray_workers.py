"""Several workers, or one on a cluster: Ray Train starts them, and we start them again where one died."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from raypipe import ray_runtime
from raypipe.errors import IncompleteError, RaypipeError
from raypipe.training import metrics
from raypipe.training.job import Job, Progress

RESTARTS = 3
"""Times in a row that the workers are started again, each time from the last state, without a new state."""

_STOP = "stop"
_LOOK_EVERY_S = 0.5
DEATH_HINT = "most likely the memory does not suffice: try a smaller --batch-tokens with a larger --accumulate"


def train_on_ray(ray: Any, job: Job, progress: Progress, stop: Callable[[], bool]) -> None:
    """Train until the last step, or an end that is wanted before.

    Raises:
        RaypipeError: the cluster has not what the run asks for, or a worker's own error.
        IncompleteError: workers died again and again.
    """
    from ray.train.v2.api.exceptions import TrainingFailedError

    gpus = gpus_per_worker(ray, job)
    follower = metrics.Follower(job.folder.metrics)
    failures, done = 0, job.folder.last_step
    while True:
        try:
            _follow(job, progress, follower, lambda: _fit(ray, job, gpus), stop)
            return
        except TrainingFailedError as error:
            if stop():
                return
            last = job.folder.last_step
            failures, done = (1 if last > done else failures + 1), last
            if failures > RESTARTS:
                raise IncompleteError(
                    f"stopped: workers failed {failures} times since step {done:,} ({_reason(error)}); run the same "
                    f"command again to go on"
                ) from error


def _reason(error: Exception) -> str:
    """Why workers failed, and what helps, where that is known."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    failures = [getattr(each, "health_check_failure", each) for each in getattr(error, "worker_failures", {}).values()]
    died = any(isinstance(each, RayActorError | OutOfMemoryError) for each in failures)
    # The last line of one of them: what the others say is that they have lost it.
    return ray_runtime.root_cause(error) + (f"; {DEATH_HINT}" if died else "")


def gpus_per_worker(ray: Any, job: Job) -> float:
    """GPUs of one worker; the preflight of what the cluster has.

    Raises:
        RaypipeError: not enough.
    """
    asked, workers = job.settings.gpus_per_worker, job.settings.workers
    present = ray_runtime.cluster_gpus(ray)
    gpus = asked if asked is not None else float(present > 0)
    if gpus * workers > present:
        raise RaypipeError(
            f"--workers {workers} with {gpus:g} GPUs each: the cluster has {present}; ask for fewer, or for "
            f"--gpus-per-worker 0 to train on CPUs"
        )
    if not gpus and workers > ray_runtime.cluster_cpus(ray):
        raise RaypipeError(
            f"--workers {workers}: the cluster has {ray_runtime.cluster_cpus(ray)} CPUs; ask for fewer, or they never "
            f"start"
        )
    return gpus


def _fit(ray: Any, job: Job, gpus: float) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    workers = job.settings.workers
    cpus = 1 if gpus else max(1, ray_runtime.cluster_cpus(ray) // workers)
    # What Ray Train keeps is of no use to us: the state is in the run's folder, and decides where a run goes on.
    storage = job.folder.temporary / f"ray-{uuid.uuid4().hex[:8]}"
    storage.parent.mkdir(exist_ok=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job, "gpus": gpus},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpus > 0, resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        ),
        run_config=RunConfig(
            name=storage.name,
            storage_path=str(storage.parent),
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        # An error of ours comes again however often the workers are started.
        own = [each for each in getattr(error, "worker_failures", {}).values() if isinstance(each, RaypipeError)]
        if own:
            raise own[0] from None
        raise
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _worker(config: dict[str, Any]) -> None:
    """What Ray Train runs in every worker.

    Raises:
        RaypipeError: any error of ours; the others are left to Ray.
    """
    import torch
    from ray import train
    from ray.train.torch import get_device

    from index.errors import StoreError
    from model.errors import ModelError
    from raypipe.training.parallel import joined
    from raypipe.training.ray_feed import Source, streamed
    from raypipe.training.worker import train as train_worker

    job: Job = config["job"]
    if not job.folder.begun:
        raise RaypipeError(
            f"{job.folder.root}: is not there on {socket.gethostname()}, where a worker runs; name a folder with -o "
            f"that every node of the cluster has under the same path"
        )
    device = get_device() if config["gpus"] else torch.device("cpu")
    if device.type == "cuda":
        # Where NCCL exchanges what is no tensor of ours.
        torch.cuda.set_device(device)
    team = joined(job.settings)
    feed = None if job.settings.feed == "inline" else partial(streamed, Source(job, team.rank, team.world))
    stop = job.folder.temporary / _STOP
    try:
        train_worker(job, device, Progress(), team=team, feed=feed, report=train.report, stop=stop.exists)
    except (StoreError, ModelError) as error:
        raise RaypipeError(str(error)) from error


def _follow(
    job: Job, progress: Progress, follower: metrics.Follower, fit: Callable[[], None], stop: Callable[[], bool]
) -> None:
    """Run `fit` in a thread, tell what the workers write to the file of metrics, and tell them to stop.

    Not in this thread: Ray Train would take Ctrl-C for itself.
    """
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            fit()
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_EVERY_S)
        if stop():
            job.folder.temporary.mkdir(exist_ok=True)
            (job.folder.temporary / _STOP).touch()
        for line in follower.new():
            progress.line(line)
    for line in follower.new():
        progress.line(line)
    if ended[0] is not None:
        raise ended[0]
