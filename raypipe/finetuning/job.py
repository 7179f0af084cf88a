"""A fine-tuning from its settings to its result.

Everything that computes is imported in functions, so that a command that is refused costs no time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model import head_files
from raypipe.checkpoints import Checkpoint, find_checkpoint
from raypipe.errors import IncompleteError, InputError, RaypipeError, UsageError
from raypipe.finetuning.cautions import cautions
from raypipe.finetuning.examples import Examples
from raypipe.finetuning.folder import REJECTS, ResultFolder
from raypipe.finetuning.metrics import check_installed, check_metric, choose_metric
from raypipe.finetuning.report import Report, read_report
from raypipe.finetuning.rows import Rejects
from raypipe.finetuning.selection import describe, prepare
from raypipe.finetuning.settings import FinetuneSettings, check

if TYPE_CHECKING:
    from raypipe.finetuning.state import Standing

Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """What is taught, once the data are read.

    Attributes:
        settings: of the run.
        checkpoint: whose trunk is read.
        folder: of the result.
        examples: labelled sequences.
        columns: their label columns.
        name: of the head.
        metric: what the best epoch is chosen by.
        start: head to go on from, or None.
        cautions: what to think of before the figures are believed.
        say: takes a line for the person who waits.
    """

    settings: FinetuneSettings
    checkpoint: Checkpoint
    folder: ResultFolder
    examples: Examples
    columns: tuple[str, ...]
    name: str
    metric: str
    start: head_files.HeadFile | None
    cautions: list[str]
    say: Say


def finetune(settings: FinetuneSettings, say: Say) -> Report:
    """Teach a head, or go on with it; does nothing where it is finished.

    Args:
        settings: what to do.
        say: takes a line for the person who waits.

    Raises:
        UsageError: the settings do not fit each other, the data or the folder.
        RaypipeError: data that cannot be used, or a training that cannot go on.
        IncompleteError: stopped; the same command goes on.
    """
    check(settings)
    check_installed()
    checkpoint = find_checkpoint(settings.model)
    start = None if settings.start is None else _start(settings, checkpoint)
    assert settings.output is not None
    folder = ResultFolder(settings.output)
    folder.check(settings)
    if folder.finished:
        examples, _, _ = _prepare(settings, checkpoint, start, Rejects())
        report = read_report(folder.root)
        folder.compare(report.inputs, _inputs(examples, checkpoint, start))
        say(f"{folder.root}: is finished; nothing to do")
        return report
    if settings.finish and not folder.begun and start is None:
        raise UsageError(f"--finish: {folder.root} holds no finished epoch, so there is no head to write; leave it out")
    with folder.opened(settings):
        rejects = Rejects()
        try:
            examples, columns, total = _prepare(settings, checkpoint, start, rejects)
        except InputError as error:
            if not rejects.rows:
                raise
            rejects.write(folder.root / REJECTS)
            raise InputError(f"{error} (all rows that are not used: {folder.root / REJECTS})") from None
        task = Task(
            settings,
            checkpoint,
            folder,
            examples,
            columns,
            _name(settings, columns),
            choose_metric(settings.metric, examples.space),
            start,
            cautions(examples, settings, checkpoint.config.context),
            say,
        )
        for line in (*describe(examples, columns, total, rejects), *task.cautions):
            say(line)
        valid = examples.part("valid")
        if len(valid) and settings.epochs and not settings.pairs:
            check_metric(task.metric, examples.space, examples.labels_of(valid))
        folder.begin(settings, _inputs(examples, checkpoint, start))
        rejects.write(folder.root / REJECTS)
        report = _teach(task)
        folder.clean()
    return report


def _prepare(
    settings: FinetuneSettings, checkpoint: Checkpoint, start: head_files.HeadFile | None, rejects: Rejects
) -> tuple[Examples, tuple[str, ...], int]:
    return prepare(settings, checkpoint.config.context, rejects, None if start is None else start.config)


def _inputs(examples: Examples, checkpoint: Checkpoint, start: head_files.HeadFile | None) -> dict[str, str]:
    """Fingerprints of what is read, by the option that names it."""
    found = {"--data": examples.fingerprint, "--model": checkpoint.fingerprint}
    return found if start is None else {**found, "--start": start.fingerprint}


def _teach(task: Task) -> Report:
    """Train and write the result."""
    import torch

    from raypipe.finetuning.result import write_result
    from raypipe.finetuning.workshop import Workshop

    standing: Standing | None = None
    try:
        workshop = Workshop(task)
        standing = workshop.train()
        report = write_result(task, workshop, standing)
    except KeyboardInterrupt:
        raise IncompleteError(
            f"stopped; {task.folder.root} keeps the epochs that are finished: run the same command again to go on, or "
            "with --finish to take the best of them"
        ) from None
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise RaypipeError(
            f"too little memory ({str(error).partition('.')[0]}); give a smaller --batch-tokens (with --accumulate), a "
            "--max-length, or --checkpoint-activations; remove the folder of the result first"
        ) from error
    return report


def _start(settings: FinetuneSettings, checkpoint: Checkpoint) -> head_files.HeadFile:
    """The head to go on from.

    Raises:
        UsageError: it is of another kind.
        RaypipeError: it belongs to another checkpoint.
    """
    assert settings.start is not None
    found = head_files.read_head_file(settings.start)
    if found.config.kind != settings.task:
        raise UsageError(f"--start {settings.start}: is a {found.config.kind} head, not a {settings.task} head")
    if found.trunk != checkpoint.fingerprint:
        raise RaypipeError(
            f"{settings.start}: was trained on another model than {checkpoint.asked} (fingerprint {found.trunk[:12]}, "
            f"here {checkpoint.fingerprint[:12]}); give its own with --model"
        )
    return found


def _name(settings: FinetuneSettings, columns: tuple[str, ...]) -> str:
    """The name of the head; the checkpoint may have one of that name, since this one is named by its file.

    Raises:
        CheckpointError: it cannot name a head.
    """
    usual = columns[0] if len(columns) == 1 and settings.task != "structure" else settings.kind
    name = settings.name or re.sub(r"[^A-Za-z0-9._-]+", "_", usual).strip("._-") or settings.kind
    head_files.check_name(name, "--name")
    return name
