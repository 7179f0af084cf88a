"""The batches of one worker made by Ray Data on the CPUs of a cluster, ahead of the worker that computes.

The rows of the dataset are stretches of steps; an actor turns a stretch into one row per step. Rows come in the order
of the steps, and hold the same batches as those that a worker makes itself.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypipe.errors import RaypipeError
from raypipe.ray_runtime import STALL_SECONDS, data_log_in_file_only
from raypipe.training.batches import Packed
from raypipe.training.corpus import open_corpus
from raypipe.training.feed import StepMaker
from raypipe.training.job import Job

STRETCH = 64
"""Steps of one task at least: Ray takes some milliseconds for each."""

TASKS = 2_000
BLOCK_BYTES = 4 << 20
"""Batches that travel together."""

AHEAD = 2
"""Tasks that wait at the actor, so that it never does."""


@dataclass(frozen=True)
class Source:
    """What an actor makes batches from.

    Attributes:
        job: the run.
        rank, world: whose batches.
    """

    job: Job
    rank: int
    world: int


class _Maker:
    """Ray Data actor: stretches of steps -> batches, one row for each step."""

    def __init__(self, source: Source) -> None:
        job, start = source.job, source.job.start
        corpus = open_corpus(job.folder.corpus)
        self._maker = StepMaker(corpus, start.alphabet, job.settings, start.config.context, source.rank, source.world)

    def __call__(self, stretches: dict[str, np.ndarray]) -> Iterator[dict[str, list[Any]]]:
        for first, stop in zip(stretches["first"], stretches["stop"], strict=True):
            for step in range(int(first), int(stop)):
                yield {"step": [step], "batches": [pickle.dumps(self._maker.make(step))]}


def streamed(source: Source, first: int, steps: int) -> Iterator[list[Packed]]:
    """The batches of step `first` and all after it.

    Args:
        source: what they are made from.
        first: the first step that is read.
        steps: of the whole run.
    """
    import ray.data as rd

    length = max(STRETCH, -(-(steps - first) // TASKS))
    stretches = [{"first": begin, "stop": min(begin + length, steps)} for begin in range(first, steps, length)]
    batches = rd.from_items(stretches, override_num_blocks=len(stretches)).map_batches(
        _Maker,
        fn_constructor_args=(source,),
        batch_size=1,
        compute=rd.ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=AHEAD),
        # The workers have reserved the CPUs: what makes their batches takes little, and must start.
        num_cpus=0,
    )
    context = batches.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = BLOCK_BYTES
    # A worker that validates, or waits for the others, asks for no batches.
    context.execution_no_progress_timeout_s = STALL_SECONDS
    with data_log_in_file_only():
        for expected, row in enumerate(batches.iter_rows(), first):
            if row["step"] != expected:
                raise RaypipeError(f"Ray Data gave step {row['step']} where {expected} was due; run the command again")
            yield pickle.loads(row["batches"])
