"""How many actors, on which devices; what the machine or cluster does not have is refused before anything starts."""

from __future__ import annotations

import os
from typing import Any

from raypipe import ray_runtime
from raypipe.checkpoints import Checkpoint
from raypipe.errors import RaypipeError
from raypipe.settings import RunSettings
from raypipe.work import encoder_weights

# Of a worker's memory on CPU: weights, once more while they are loaded, and the activations of a batch.
WORKER_BYTES_PER_WEIGHT = 12
WORKER_BASE_BYTES = 1 << 30


def cpus(ray: Any) -> int:
    """CPUs that the actors share: the cluster's, or those that this process may use."""
    return len(os.sched_getaffinity(0)) if ray is None else ray_runtime.cluster_cpus(ray)


def local_cuda() -> bool:
    """Whether this process sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def gpus_per_worker(settings: RunSettings, ray: Any) -> float:
    """GPUs of one actor; the preflight of what the cluster has."""
    if ray is None:
        return 0.0
    present = ray_runtime.cluster_gpus(ray)
    wanted = settings.gpus_per_worker if settings.gpus_per_worker is not None else float(present > 0)
    if wanted > present:
        raise RaypipeError(
            f"--gpus-per-worker {wanted:g}: the cluster has {present} GPUs; ask for fewer, or 0 to run on CPUs"
        )
    return wanted


def workers(settings: RunSettings, ray: Any, checkpoint: Checkpoint, gpus: float) -> int:
    """Number of actors; the preflight of what was asked for."""
    if ray is None:
        return 1
    what = "GPUs" if gpus else "CPUs"
    most = int(ray_runtime.cluster_gpus(ray) / gpus) if gpus else ray_runtime.cluster_cpus(ray)
    if settings.workers is not None:
        if settings.workers > most:
            raise RaypipeError(
                f"--workers {settings.workers}: the cluster has {what} for {most}; ask for fewer, or they never start"
            )
        return settings.workers
    if gpus:
        return most
    memory = ray.cluster_resources().get("memory", 0)
    return max(
        1, min(most, int(memory / (WORKER_BYTES_PER_WEIGHT * encoder_weights(checkpoint.config) + WORKER_BASE_BYTES)))
    )


def pool(settings: RunSettings, ray: Any, workers: int, gpus: float, tasks: int) -> ray_runtime.Pool:
    """The workers of a run of so many tasks.

    Where the user did not say how many, and all of a cluster is in use, those of nodes that are added later are too;
    not where it is memory that limits them, which Ray does not count.
    """
    in_use = gpus > 0 or (ray is not None and workers == ray_runtime.cluster_cpus(ray))
    grows = settings.workers is None and ray is not None and in_use and ray_runtime.may_grow(ray, settings.address)
    begin = max(1, min(workers, tasks))
    return ray_runtime.Pool(begin, max(begin, tasks) if grows else begin, 0.5 if gpus else 1, gpus)
