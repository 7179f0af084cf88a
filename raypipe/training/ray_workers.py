"""Several workers, or one on a cluster: Ray Train starts them, and starts them again where one died."""

from __future__ import annotations

import json
import logging
import shutil
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
"""Times that the workers are started again, each time from the last state, after one of them died."""

_FAILURE = "failure.json"
_LOOK_EVERY_S = 0.5
DEATH_HINT = "most likely the memory does not suffice: try a smaller --batch-tokens with a larger --accumulate"


def train_on_ray(ray: Any, job: Job, progress: Progress) -> None:
    """Train until the last step.

    Raises:
        RaypipeError: the cluster has not what the run asks for, or a worker's own error.
        IncompleteError: workers died again and again.
    """
    gpus = gpus_per_worker(ray, job)
    _follow(job, progress, lambda: _fit(ray, job, gpus))


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
    failure = job.folder.temporary / _FAILURE
    failure.parent.mkdir(exist_ok=True)
    failure.unlink(missing_ok=True)
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
            failure_config=FailureConfig(max_failures=RESTARTS),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        if not failure.exists():
            raise IncompleteError(
                f"stopped: workers died more than {RESTARTS} times ({ray_runtime.root_cause(error)}); {DEATH_HINT}; "
                f"run the same command again to go on"
            ) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    if failure.exists():
        raise RaypipeError(json.loads(failure.read_text(encoding="utf-8"))["message"])


def _worker(config: dict[str, Any]) -> None:
    """What Ray Train runs in every worker."""
    import torch
    from ray import train
    from ray.train.torch import get_device

    from index.errors import StoreError
    from model.errors import ModelError
    from raypipe.training.parallel import joined
    from raypipe.training.ray_feed import Source, streamed
    from raypipe.training.worker import train as train_worker

    job: Job = config["job"]
    failure = job.folder.temporary / _FAILURE
    if failure.exists():
        # An error of ours comes again however often Ray Train starts us.
        return
    device = get_device() if config["gpus"] else torch.device("cpu")
    if device.type == "cuda":
        # Where NCCL exchanges what is no tensor of ours.
        torch.cuda.set_device(device)
    team = joined(shard_weights=job.settings.shard_weights)
    feed = None if job.settings.feed == "inline" else partial(streamed, Source(job, team.rank, team.world))
    try:
        train_worker(job, device, Progress(), team=team, feed=feed, report=train.report)
    except (RaypipeError, StoreError, ModelError) as error:
        failure.write_text(json.dumps({"message": str(error)}), encoding="utf-8")
        raise


def _follow(job: Job, progress: Progress, fit: Callable[[], None]) -> None:
    """Run `fit` in a thread, and tell what the workers write to the file of metrics.

    Not in this thread: Ray Train would take Ctrl-C for itself.
    """
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            fit()
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    follower = metrics.Follower(job.folder.metrics)
    thread = threading.Thread(target=run, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_EVERY_S)
        for line in follower.new():
            progress.line(line)
    if ended[0] is not None:
        raise ended[0]
