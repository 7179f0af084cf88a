"""What makes figures worth less than they look, said before anything is computed; and labels that teach nothing."""

from __future__ import annotations

import numpy as np

from raypipe.errors import InputError, UsageError
from raypipe.finetuning.examples import Examples
from raypipe.finetuning.settings import FinetuneSettings
from raypipe.finetuning.spaces import IGNORE, shown

FEW = 30
"""Sequences below which figures of a part are mostly chance."""


def split_by(settings: FinetuneSettings) -> str:
    """What the parts go by, in words."""
    if settings.split_column:
        return f"the column {settings.split_column}"
    kept = [", then ".join(settings.group_column)] if settings.group_column else []
    kept += [f"clusters of sequences alike to {settings.cluster:g}"] if settings.cluster else []
    tested = [f"test where {settings.test_where}"] if settings.test_where else []
    return "; ".join([*tested, " and ".join(kept) or "sequence"])


def cautions(examples: Examples, settings: FinetuneSettings, context: int) -> list[str]:
    """What to think of before the figures are believed, a line each.

    Args:
        examples: that are taught and measured.
        settings: of the run.
        context: nucleotides that the model reads at a time.
    """
    held = {part: len(examples.part(part)) for part in ("valid", "test") if len(examples.part(part))}
    lines: list[str] = []
    if held and not (settings.split_column or settings.group_column or settings.cluster):
        lines.append(
            f"split by {split_by(settings)}: relatives of what is trained on may be measured, which makes figures "
            "better than they are for new families; see --cluster and --group-column"
        )
    for part, number in held.items():
        if number < FEW:
            what = "chosen" if part == "valid" and settings.epochs else "measured"
            many = f"{number} sequence{'s' if number > 1 else ''}"
            lines.append(f"{part} has {many} only: what is {what} on so few is mostly chance; give it more")
    if examples.space.problem == "multilabel" and settings.epochs:
        yes, known = _yes_and_known(examples)
        for word, without in (("yes", yes == 0), ("no", yes == known)):
            names = [name for name, lacks in zip(examples.space.names, without.tolist(), strict=True) if lacks]
            if names:
                lines.append(f"no {word} in train, so nothing to learn: {shown(names)}")
    longest = int(examples.lengths.max(initial=0))
    if settings.method != "frozen" and longest > max(context, 4 * settings.tokens):
        lines.append(
            f"the longest sequence has {longest:,} nt, which go through the trunk in one pass, with their gradients; "
            "see --max-length and --checkpoint-activations"
        )
    return lines


def check_taught(examples: Examples, columns: tuple[str, ...]) -> None:
    """Refuse labels of which there is only one in train; of classes `spaces.settle` does.

    Raises:
        InputError: yes or no alone, or one value; of several values one that is never known.
    """
    train, space = examples.part("train"), examples.space
    if space.problem not in ("binary", "regression") or space.task in ("contact", "structure"):
        return
    if space.num_labels > 1:
        known = (~np.isnan(examples.labels_of(train).reshape(-1, space.num_labels))).sum(0)
        names = [name for name, count in zip(space.names, known.tolist(), strict=True) if not count]
        if names:
            raise InputError(
                f"column {', '.join(columns)}: no value of {shown(names)} in what is trained on ({len(train):,} "
                "sequences); leave it out"
            )
        return
    labels = np.ravel(examples.labels_of(train))
    values = np.unique(labels[~np.isnan(labels) if space.problem == "regression" else labels != IGNORE])
    if len(values) < 2:
        names = ("no", "yes") if space.problem == "binary" else ()
        only = [names[int(value)] if names else f"{value:g}" for value in values.tolist()]
        raise InputError(
            f"column {', '.join(columns)}: {f'{only[0]} only' if only else 'no label at all'} in what is trained on "
            f"({len(train):,} sequences); there is nothing to learn"
        )


def check_threshold(settings: FinetuneSettings, examples: Examples) -> None:
    """Refuse a threshold that nothing is compared with, or that cannot be found.

    Raises:
        UsageError: with what to change.
    """
    if settings.threshold is None:
        return
    if examples.space.problem not in ("binary", "multilabel"):
        raise UsageError(f"--threshold: is for yes or no, and the labels are {examples.space.problem}; leave it out")
    if settings.threshold == "auto" and not len(examples.part("valid")):
        raise UsageError("--threshold auto: there is no valid part to find it on; give a number")


def _yes_and_known(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Of each output (C,) how often it is yes in train, and how often it is labelled."""
    labels = examples.labels_of(examples.part("train")).reshape(-1, examples.space.num_labels)
    return (labels > 0.5).sum(0), (labels != IGNORE).sum(0)
