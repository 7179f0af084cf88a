"""The verb that teaches heads: finetune."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from cyclopts import Parameter

from raypipe.cli.progress import say, warn_untrained
from raypipe.finetuning.settings import FinetuneSettings

FINETUNING = FinetuneSettings()


def finetune(
    *,
    settings: FinetuneSettings = FINETUNING,
    format: Annotated[Literal["text", "json"], Parameter(help="Of the figures on standard output.")] = "text",
) -> None:
    """Teach a head on labelled sequences: frozen trunk, LoRA, or all weights.

    The folder of the result holds the head, its figures and what it says of the
    sequences that were held out. A run that was stopped goes on by the same command.
    It is one process on one device, whatever the size of the cluster.
    """
    from raypipe.checkpoints import find_checkpoint
    from raypipe.finetuning.job import finetune as teach
    from raypipe.finetuning.settings import check

    check(settings)
    checkpoint = find_checkpoint(settings.model)
    if not checkpoint.trained:
        warn_untrained(checkpoint.name)
    report = teach(settings, say)
    print(json.dumps(report.metrics, indent=2) if format == "json" else report.table(), end="\n" * (format == "json"))
    say(f"{report.root} is whole; use the head with: {report.predict}")
