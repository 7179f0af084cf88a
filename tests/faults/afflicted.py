"""`raypipe`, with a model that some sequences, or too many tokens at once, do harm to.

KILLER: letters; a sequence that holds them kills the process that computes it. HANGS: a path; who first computes
something and finds nothing there makes it, and stands still. LOST: likewise, but its GPU is lost. MEMORY: tokens of one
forward pass above which there is no memory. DEADLY: numbers of shards, separated by commas, whose sequences
cannot be read without dying, or `all`: the model cannot be loaded without dying.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raypipe import actors, cli, pipeline
from raypipe.plan import Task

# Read here, by the driver: what a cluster's workers find in their environment is the cluster's.
KILLER, HANGS, LOST = (os.environ.get(name) for name in ("KILLER", "HANGS", "LOST"))
DEADLY = os.environ.get("DEADLY", "").split(",")
MEMORY = int(os.environ.get("MEMORY", 0))


class Afflicted:
    """The real model, but for its afflictions."""

    def __init__(self, model: Any):
        self._model = model
        if MEMORY:
            model.module.embedding.register_forward_pre_hook(lambda _, inputs: refuse(len(inputs[0])))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def features(self, sequences: Sequence[str], **options: Any) -> Any:
        """As the model's."""
        if KILLER and any(KILLER in sequence for sequence in sequences):
            # The trunk begins its first batch, and dies as the kernel kills a process when the memory is used up.
            self._model.module.embedding.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        if LOST and not os.path.exists(LOST):
            Path(LOST).touch()
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if HANGS and not os.path.exists(HANGS):
            Path(HANGS).touch()
            re.match(r"(a+)+$", 100 * "a" + "b")  # for longer than anybody waits, and with Python's lock
        return self._model.features(sequences, **options)


def refuse(tokens: int) -> None:
    """As CUDA does it."""
    if tokens > MEMORY:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has")


class AfflictedActor(actors.ShardActor):
    """The real actor with such a model."""

    def _prepare(self) -> None:
        if DEADLY == ["all"]:
            os.kill(os.getpid(), signal.SIGKILL)
        was_ready = self._ready
        super()._prepare()
        if not was_ready:
            self.model = Afflicted(self.model)  # type: ignore[assignment]

    def _make(self, task: Task, *rest: Any) -> Any:
        if str(task.number) in DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._make(task, *rest)


if __name__ == "__main__":
    pipeline.ShardActor = AfflictedActor
    sys.exit(cli.run(sys.argv[1:]))
