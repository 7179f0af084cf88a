"""One worker's part of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from model.encoder import count_parameters
from raypipe.errors import InputError, RaypipeError
from raypipe.training import metrics
from raypipe.training.batches import Packed
from raypipe.training.corpus import Corpus, open_corpus
from raypipe.training.feed import StepMaker
from raypipe.training.hardware import all_hardware, describe
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
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train until the last step, or an end that is wanted before.

    Args:
        job: the run.
        device: of this worker.
        progress: is told by the first worker.
        team: the workers that train together.
        feed: gives the batches from a step on, of so many in all; by default this process makes them itself.
        report: called with every line of metrics, in every worker.
        stop: asked after every step in the first worker, and holds for all.

    Raises:
        As `raypipe.training.run.pretrain`.
    """
    team = team or Team()
    first = team.rank == 0
    here = describe(device, team.world)
    folder = job.folder
    corpus = open_corpus(folder.corpus)

    def tell(line: dict[str, Any]) -> None:
        if first:
            metrics.append(folder.metrics, line)
            progress.line(line)
        report(line)

    try:
        trainer = _trainer(job, corpus, device, team, feed, here)
        about = trainer.resume()
        if first:
            metrics.cut(folder.metrics, trainer.step)
        before = all_hardware(about or {})[-1:]
        if before and before != [here]:
            tell({"step": trainer.step, "note": f"goes on on {here}, after {before[0]}: as before but for rounding"})
        trainer.run(tell, stop=stop if first else lambda: False)
    except (torch.OutOfMemoryError, MemoryError) as error:
        other = "begin in another folder with" if folder.last_step else "with"
        why = str(error).partition(".")[0] or type(error).__name__
        raise RaypipeError(
            f"too little memory ({why}); go on with --checkpoint-activations, or {other} a "
            f"smaller --batch-tokens and a larger --accumulate"
        ) from error


def _trainer(job: Job, corpus: Corpus, device: torch.device, team: Team, feed: Feed | None, hardware: str) -> Trainer:
    settings, start = job.settings, job.start
    encoder = build(start, settings, to_be_loaded=job.folder.last_step > 0).to(device)
    maker = StepMaker(corpus, start.alphabet, settings, start.config.context, team.rank, team.world)
    return Trainer(
        job.folder.root,
        encoder,
        start.alphabet,
        maker,
        settings,
        team=team,
        feed=None if feed is None else lambda step: feed(step, maker.steps),
        hardware=hardware,
    )


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


def describe_beginning(job: Job, progress: Progress) -> Job:
    """Say what is about to be trained, and on what; what cannot be trained is refused here.

    Returns:
        The job with the steps of the whole run, which not every worker needs to count again: for that all epochs are
        planned.

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
    if maker.steps <= job.settings.warmup_steps:
        progress.say(
            f"warning: the learning rate never gets to its peak: --warmup-steps {job.settings.warmup_steps:,} of "
            f"{maker.steps:,} steps in all"
        )
    return replace(job, settings=job.settings.model_copy(update={"steps": maker.steps}))
