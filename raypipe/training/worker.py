"""One worker's part of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from model.encoder import count_parameters
from raypipe.errors import InputError, RaypipeError
from raypipe.training import metrics
from raypipe.training.batches import Packed
from raypipe.training.corpus import open_corpus
from raypipe.training.feed import StepMaker
from raypipe.training.hardware import describe
from raypipe.training.job import Job, Progress
from raypipe.training.loop import Report, Trainer
from raypipe.training.parallel import Team
from raypipe.training.start import build, fresh_head

Feed = Callable[[int, int], Iterator[list[Packed]]]


def train(
    job: Job,
    device: torch.device,
    progress: Progress,
    *,
    team: Team | None = None,
    feed: Feed | None = None,
    report: Report = lambda _: None,
) -> None:
    """Train until the last step.

    Args:
        job: the run.
        device: of this worker.
        progress: is told by the first worker.
        team: the workers that train together.
        feed: gives the batches from a step on, of so many in all; by default this process makes them itself.
        report: called with every line of metrics, in every worker.

    Raises:
        As `raypipe.training.run.pretrain`.
    """
    team = team or Team()
    first = team.rank == 0
    settings, start, folder = job.settings, job.start, job.folder
    corpus = open_corpus(folder.corpus)
    encoder = build(start, settings).to(device)
    maker = StepMaker(corpus, start.alphabet, settings, start.config.context, team.rank, team.world)
    trainer = Trainer(
        folder.root,
        encoder,
        start.alphabet,
        maker,
        settings,
        team=team,
        feed=None if feed is None else lambda step: feed(step, maker.steps),
        hardware=describe(device, team.world),
    )
    trainer.resume()
    if first:
        metrics.cut(folder.metrics, trainer.step)

    def tell(line: dict[str, Any]) -> None:
        if first:
            metrics.append(folder.metrics, line)
            progress.line(line)
        report(line)

    trainer.run(tell)


def local_device(gpus: float | None) -> torch.device:
    """Where a single worker in this process computes.

    Args:
        gpus: that it shall have; None for one where there is one.

    Raises:
        RaypipeError: there is none.
    """
    there = torch.cuda.is_available()
    if gpus and not there:
        raise RaypipeError(
            f"--gpus-per-worker {gpus:g}: there is no GPU here; leave it out, or name a cluster's --address"
        )
    return torch.device("cuda" if there and gpus != 0 else "cpu")


def describe_beginning(job: Job, progress: Progress) -> None:
    """Say what is about to be trained, and on what; what cannot be trained is refused here.

    Raises:
        As `train`.
    """
    corpus = open_corpus(job.folder.corpus)
    if tuple(corpus.about["vocabulary"]) != job.start.alphabet.tokens:
        raise InputError(f"{job.folder.corpus}: was made for another vocabulary; begin again in another folder")
    maker = StepMaker(corpus, job.start.alphabet, job.settings, job.start.config.context, 0, job.settings.workers)
    done = job.folder.last_step
    # Not what a killed run wrote after its last state.
    metrics.cut(job.folder.metrics, done)
    masked = job.settings.mlm_weight > 0
    parameters = count_parameters(job.start.config)["masked_lm" if masked else "encoder"]
    if fresh_head(job.start, job.settings):
        progress.say("the checkpoint has no masked-LM head: a fresh one is trained with it")
    progress.begun(corpus.about, parameters, done, maker.steps)
