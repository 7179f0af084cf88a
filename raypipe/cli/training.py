"""Verbs that teach a model: pretrain."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from index.store import Store
from raypipe.cli.arguments import is_atlas, name_stdin, named_files
from raypipe.cli.making import ingest_all, refuse_missing
from raypipe.cli.progress import say
from raypipe.errors import UsageError
from raypipe.settings import IngestSettings
from raypipe.training.folder import RunFolder
from raypipe.training.job import Progress
from raypipe.training.recall import Command
from raypipe.training.run import pretrain as run_pretraining
from raypipe.training.settings import PretrainSettings

PRETRAINING, READING = PretrainSettings(), IngestSettings()


def pretrain(
    *inputs: Annotated[str, Parameter(help="An atlas; or FASTA, FASTQ, Parquet, CSV, TSV or -, ingested into RUN.")],
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="Folder of the run.")] = None,
    annotations: Annotated[
        list[str] | None, Parameter(help="NAME=FILE: annotations of inputs that are no atlas; may be repeated.")
    ] = None,
    export: Annotated[
        Path | None, Parameter(help="Only write the newest state of the run as a checkpoint into this new folder.")
    ] = None,
    settings: PretrainSettings = PRETRAINING,
    reading: IngestSettings = READING,
) -> None:
    """Train a model on RNA: masked nucleotides, and on request contrastive learning; goes on where it was killed.

    Begins with fresh weights or with a checkpoint (--model). The run's folder
    gets metrics.jsonl, states to go on from, and at the end the checkpoint,
    its model card and the learning curve.
    """
    if output is None:
        raise UsageError("name the inputs and the run's folder: raypipe pretrain INPUT... -o RUN")
    folder = RunFolder(output)
    named = name_stdin(inputs)
    tables = named_files(annotations) if annotations else {}
    command = Command(
        settings,
        [_absolute(text) for text in named],
        [f"{name}={file.absolute()}" for name, file in tables.items()],
        reading,
    )
    if export is not None:
        from raypipe.training.products import export as export_state

        say(f"{export}: the model after step {export_state(folder, export, command):,}; use it with --model {export}")
        return
    atlas = next((path for path in named if is_atlas(path)), None)
    if atlas is not None and len(named) > 1:
        raise UsageError(f"{atlas}: is an atlas; train on it alone, or name inputs that are none")
    if atlas is not None and tables:
        raise UsageError(f"{atlas}: is an atlas and has its own annotations; add more with: raypipe annotate {atlas}")

    if atlas is not None and reading.model_fields_set:
        option = "--" + min(reading.model_fields_set).replace("_", "-")
        raise UsageError(f"{option} says how files are read, and {atlas} is an atlas; leave it out")

    def open_store() -> Store:
        return Store.open(atlas) if atlas is not None else _ingest(folder.atlas, named, tables, reading)

    done = run_pretraining(folder, command, open_store, TrainingProgress())
    say(f"{'finished' if done else 'finished before'}: {folder.checkpoint}; use it with --model {folder.checkpoint}")


def _absolute(text: str) -> str:
    return os.path.abspath(text) if os.path.exists(text) else text


def _ingest(atlas: Path, inputs: Sequence[str], tables: dict[str, Path], settings: IngestSettings) -> Store:
    """The inputs as an atlas inside of the run's folder.

    Raises:
        UsageError: an earlier attempt put other inputs there.
    """
    from index.annotations import annotate

    refuse_missing(inputs)
    store = ingest_all(atlas, inputs, settings)
    named = [text for text in inputs if text == "-" or os.path.exists(text)]
    others = sorted({source.path for source in store.sources} - set(named) - {"-"})
    if others:
        raise UsageError(
            f"{atlas}: holds {others[0]} too, of an earlier attempt; remove it, or name a new folder with -o"
        )
    if tables:
        with store.lock():
            for report in annotate(store, tables):
                say(f"{report.name}: {report.matched_rows:,} of {report.rows:,} rows belong to a sequence")
    return store


class TrainingProgress(Progress):
    """Lines on standard error."""

    def say(self, message: str) -> None:
        say(message)

    def begun(self, about: Mapping[str, Any], parameters: int, step: int, steps: int) -> None:
        say(
            f"training {parameters:,} weights on {about['trained_on']:,} sequences (validating on "
            f"{about['validated_on']:,}, {about['left_out']:,} left out), {steps:,} steps"
            + (f"; going on after step {step:,}" if step else "")
        )

    def line(self, line: dict[str, Any]) -> None:
        if "note" in line:
            say(line["note"])
            return
        valid = line.get("valid")
        if valid is not None:
            say(f"step {line['step']:,}, validation: {_figures(valid) or 'nothing to validate on'}")
            return
        left = _duration(line["seconds_left"])
        epoch = f", epoch {line['epoch']:.2f}" if "epoch" in line else ""
        say(
            f"step {line['step']:,} of {line['steps']:,}{epoch}: {_figures(line)}; learning rate "
            f"{line['learning_rate']:.2e}, {line['tokens_per_second']:,.0f} tokens/s, {left} left"
        )


def _figures(line: dict[str, Any]) -> str:
    names = {
        "mlm_loss": "masked-LM loss {:.3f}",
        "masked_accuracy": "accuracy {:.3f}",
        "contrastive_loss": "contrastive loss {:.3f}",
        "nearest_in_family": "nearest in family {:.3f}",
    }
    return ", ".join(text.format(line[name]) for name, text in names.items() if name in line)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
