"""Segments of an index, made as Ray tasks on the machines of a cluster."""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from index import files
from index.build import Runner
from index.errors import StoreError
from index.info import Segment
from index.segments import SegmentJob, make_segment
from index.store import is_store
from raypipe.disk_errors import gone
from raypipe.errors import IncompleteError, RaypipeError
from raypipe.ray_runtime import DEATH_HINT, reachable, root_cause, session

# A machine where so many tasks died is asked no more.
MOST_DEATHS = 3
# So often it is looked for machines that came.
LOOK_SECONDS = 5.0
END_SECONDS = 10.0
GRACE_SECONDS = 1.0


def on_cluster(address: str) -> Runner:
    """Makes segments on the Ray cluster at `address`, one at a time on each machine: it takes all cores, and memory.

    The machines have to see the store under the same path. A segment whose worker or machine dies is made again.

    Raises:
        RaypipeError: nothing listens there.
    """
    reachable(address)  # before minutes go by until there are segments to make

    def run(jobs: Sequence[SegmentJob], done: Callable[[int], None]) -> Iterable[Segment]:
        if not jobs:
            return []
        with session(address) as ray:
            return _made(ray, jobs, done)

    return run


def _made(ray: Any, jobs: Sequence[SegmentJob], done: Callable[[int], None]) -> list[Segment]:
    """The segments, in the order of `jobs`.

    Raises:
        StoreError, OSError: as `make_segment`.
        RaypipeError: a machine does not see the store.
        IncompleteError: tasks died on every machine, or something else went wrong in one.
    """
    from ray.exceptions import RayError, RayTaskError

    todo, made = deque(jobs), dict[str, Segment]()
    at_work: dict[Any, tuple[str, SegmentJob]] = {}
    gpus = int(any(job.nearest is not None and job.nearest.on_gpu for job in jobs))
    deaths, last = Counter[str](), f"the cluster has no machine with a {'GPU' if gpus else 'CPU'}"
    try:
        while todo or at_work:
            busy = {machine for machine, _ in at_work.values()}
            machines = {name: cpus for name, cpus in _machines(ray, gpus).items() if deaths[name] < MOST_DEATHS}
            for machine in [name for name in machines if name not in busy][: len(todo)]:
                job = todo.popleft()
                at_work[_started(ray, job, machine, machines[machine], gpus)] = machine, job
            if not at_work:
                raise _stopped(last)
            for ref in ray.wait(list(at_work), timeout=LOOK_SECONDS)[0]:
                machine, job = at_work.pop(ref)
                try:
                    made[job.name] = ray.get(ref)
                except RayTaskError as error:
                    if isinstance(error.cause, (StoreError, RaypipeError, OSError)):
                        raise error.cause from None
                    raise _stopped(root_cause(error)) from error
                except RayError as error:
                    deaths[machine] += 1
                    last = f"workers died over segments ({root_cause(error)}); {DEATH_HINT}"
                    _clear(job)
                    todo.append(job)
                else:
                    done(job.rows)
    finally:
        _ended(ray, list(at_work))
    return [made[job.name] for job in jobs]


def _started(ray: Any, job: SegmentJob, machine: str, cpus: float, gpus: int) -> Any:
    """The task that makes a segment on one machine."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # One CPU is enough to be let in where others are at work; the threads are as many as there are.
    task = ray.remote(_make).options(
        num_cpus=1,
        num_gpus=gpus,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(machine, soft=False),
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(int(cpus))}},
    )
    return task.remote(job)


def _make(job: SegmentJob) -> Segment:
    """A segment, on a machine of the cluster."""
    if not is_store(job.store.root):
        # Its temporary files would be written where a disk is to be mounted.
        raise RaypipeError(gone(str(job.store.root)))
    return make_segment(job)


def _clear(job: SegmentJob) -> None:
    """Remove what a dead worker left of a segment; in an object store's case it lies on the worker's own machine, where
    the next one sweeps."""
    for left in files.scratch(job.store.root).glob(f"{job.name}-*"):
        shutil.rmtree(left, ignore_errors=True)


def _machines(ray: Any, gpus: int) -> dict[str, float]:
    """CPUs of each living machine that has any, and GPUs if so many are asked for, by its id in Ray."""
    held = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    return {name: each["CPU"] for name, each in held.items() if each.get("CPU", 0) >= 1 and each.get("GPU", 0) >= gpus}


def _stopped(why: str) -> IncompleteError:
    return IncompleteError(f"stopped: {why}; run the same command again to go on")


def _ended(ray: Any, refs: list[Any]) -> None:
    """End tasks before the lock of the store is given back: they are asked to, and killed where they do not hear.

    Not at once: a task that is on its way to its worker, or its answer back, when it is cancelled brings Ray down, and
    this process with it.
    """
    if refs:
        _, refs = ray.wait(refs, num_returns=len(refs), timeout=GRACE_SECONDS)
    for force in (False, True):
        for ref in refs:
            ray.cancel(ref, force=force)
        if refs:
            _, refs = ray.wait(refs, num_returns=len(refs), timeout=END_SECONDS)
