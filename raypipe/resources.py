"""How many actors, on which devices: asked for, or by what the machine or cluster has. Refused before anything starts."""

from __future__ import annotations

import os
from typing import Any

from raypipe import ray_runtime
from raypipe.checkpoints import Checkpoint
from raypipe.errors import RaypipeError
from raypipe.settings import EmbedSettings

# Of a worker's memory on CPU: weights, once more while they are loaded, and the activations of a batch.
WORKER_BYTES_PER_WEIGHT = 12
WORKER_BASE_BYTES = 1 << 30


def cpus(ray: Any) -> int:
    return len(os.sched_getaffinity(0)) if ray is None else ray_runtime.cluster_cpus(ray)


def gpus_per_worker(settings: EmbedSettings, ray: Any) -> float:
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


def workers(settings: EmbedSettings, ray: Any, checkpoint: Checkpoint, gpus: float) -> int:
    if ray is None:
        return 1
    if gpus:
        most = int(ray_runtime.cluster_gpus(ray) / gpus)
    else:
        config = checkpoint.config
        weights = config.num_layers * (4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size)
        memory = ray.cluster_resources().get("memory", 0)
        by_memory = int(memory / (WORKER_BYTES_PER_WEIGHT * weights + WORKER_BASE_BYTES))
        most = max(1, min(ray_runtime.cluster_cpus(ray), by_memory))
    if settings.workers and settings.workers > (most if gpus else ray_runtime.cluster_cpus(ray)):
        what = "GPUs" if gpus else "CPUs"
        raise RaypipeError(
            f"--workers {settings.workers}: the cluster has {what} for {most}; ask for fewer, or they would never start"
        )
    return settings.workers or most
