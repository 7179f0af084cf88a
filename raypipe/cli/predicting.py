"""Verbs that ask heads of the model: predict, mlm. Of an atlas into it, of anything else to standard output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, Group, Parameter
from pydantic import BaseModel, ConfigDict, Field

from index.sets import Prediction
from index.store import Store
from model.identity import checkpoint_folder, read_alphabet
from raypipe import heatmap as pictures
from raypipe import pipeline
from raypipe.answer_files import check_output, opened, same_file
from raypipe.answering import Answerer
from raypipe.checkpoints import Checkpoint, find_checkpoint, find_heads, model_of_results
from raypipe.cli.arguments import is_atlas, name_stdin
from raypipe.cli.making import refuse_missing
from raypipe.cli.progress import LINE_EVERY_S, RunProgress, say, warn_untrained
from raypipe.errors import IncompleteError, UsageError
from raypipe.mlm_text import MlmFormat, mlm_form
from raypipe.outputs import Ask
from raypipe.prediction_text import PredictionFormat, prediction_form
from raypipe.predictions import describe_heads, describe_mlm
from raypipe.reports import run_summary
from raypipe.settings import MlmSettings, PredictSettings, RunSettings
from raypipe.sources import TableColumns
from raypipe.streaming import Answer, Query, Reader, answer
from raypipe.text_forms import Form

TEXT_GROUP = Parameter(group=Group("Without an atlas", sort_key=5))
# Settings that speak of what is stored, or of many workers.
OF_ATLASES = ("name", "store_dtype", "shard_tokens", "workers", "gpus_per_worker", "address", "executor")
_STORED = "an atlas stores everything itself; read it with: raypipe sql {atlas}"
_READ = "an atlas has read its tables; name their columns at: raypipe ingest"
# Options that speak of reading or answering a stream, and why an atlas has no use for them.
OF_STREAMS = {
    **dict.fromkeys(("format", "heatmap", "output", "header"), _STORED),
    **dict.fromkeys(("id_column", "sequence_column"), _READ),
    "device": "workers take the GPUs that the cluster has; see --gpus-per-worker, which may be 0",
}


@Parameter(name="*")
class TextSettings(BaseModel):
    """How inputs that are no atlas are read and answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Annotated[Path | None, Parameter(name=["--output", "-o"]), TEXT_GROUP] = Field(
        default=None, description="File to write; by default standard output."
    )
    header: Annotated[bool, Parameter(negative="--no-header"), TEXT_GROUP] = Field(
        default=True, description="Column names first, in TSV."
    )
    device: Annotated[str | None, TEXT_GROUP] = Field(
        default=None, description="cpu, cuda, cuda:1, ...; by default CUDA where there is one."
    )
    id_column: Annotated[str | None, TEXT_GROUP] = Field(
        default=None, description="Id column of a table; by default id, name or accession."
    )
    sequence_column: Annotated[str | None, TEXT_GROUP] = Field(
        default=None, description="Sequence column of a table; by default sequence or seq."
    )


TEXT, PREDICTING, SCORING = TextSettings(), PredictSettings(), MlmSettings()
Inputs = Annotated[
    str, Parameter(help="An atlas; or FASTA or FASTQ (plain, gz, xz, zst, bz2), Parquet, CSV, TSV, - or sequences.")
]


def predict(
    *inputs: Inputs,
    format: Annotated[
        PredictionFormat | None,
        Parameter(help="By default dbn (dot-bracket) of one head that gives structures, else tsv."),
        TEXT_GROUP,
    ] = None,
    text: TextSettings = TEXT,
    settings: PredictSettings = PREDICTING,
) -> None:
    """Predict structures, classes and values with the heads of a model.

    Of an atlas, those of every sequence are stored in it; a killed run goes on.
    Anything else is read as a stream and answered in its order on standard
    output; positions count from 1.
    """
    if not inputs or not settings.heads:
        raise UsageError("name inputs and heads: raypipe predict INPUT... --heads structure")
    atlas = _atlas(inputs, text, format=format)
    if atlas is None:
        inputs = _stream_inputs(inputs, text, settings)
    checkpoint = find_checkpoint(settings.model)
    if "model" not in settings.model_fields_set and (model := model_of_results(checkpoint, settings.heads)) is not None:
        settings, checkpoint = settings.model_copy(update={"model": model}), find_checkpoint(model)
    heads = find_heads(checkpoint, settings.heads)
    if atlas is not None:
        _run(pipeline.predict, atlas, settings, checkpoint)
        return
    form = prediction_form({head.name: head.config for head in heads}, format, text.header)
    sets = describe_heads(settings, checkpoint, heads, threshold=settings.threshold, pseudoknots=settings.pseudoknots)
    ask = Ask(settings.on_long, settings.max_tokens, settings.threshold, settings.pseudoknots)
    _answer(inputs, settings, text, checkpoint, sets, ask, form)


def mlm(
    *inputs: Inputs,
    format: Annotated[MlmFormat | None, Parameter(help="By default tsv."), TEXT_GROUP] = None,
    heatmap: Annotated[
        Path | None, Parameter(help="Also draw the variants of one sequence: .png, .svg or .pdf."), TEXT_GROUP
    ] = None,
    text: TextSettings = TEXT,
    settings: MlmSettings = SCORING,
) -> None:
    """Score sequences, their letters and their variants with the masked language model.

    Of an atlas, those of every sequence are stored in it; a killed run goes on.
    Anything else is read as a stream and answered in its order on standard
    output; positions count from 1.
    """
    if not inputs:
        raise UsageError("name inputs: raypipe mlm INPUT... --what pll")
    atlas = _atlas(inputs, text, format=format, heatmap=heatmap)
    if atlas is None:
        inputs = _stream_inputs(inputs, text, settings)
    if heatmap is not None:
        if settings.what != "variants":
            raise UsageError(f"--heatmap draws variants, not {settings.what}; add --what variants")
        pictures.check_heatmap(heatmap)
        check_output(heatmap, inputs, "--heatmap")
        if text.output is not None and same_file(heatmap, text.output):
            raise UsageError(f"{heatmap}: is the file of the table; name another one with --heatmap")
    checkpoint = find_checkpoint(settings.model)
    if atlas is not None:
        _run(pipeline.mlm, atlas, settings, checkpoint)
        return
    made = replace(describe_mlm(settings, checkpoint), dtype="float32")
    tokens = read_alphabet(checkpoint_folder(checkpoint.path)).tokens
    form = mlm_form(settings.what, format or "tsv", tokens, text.header)
    _answer(inputs, settings, text, checkpoint, [made], Ask(settings.on_long, settings.max_tokens), form, heatmap)


def pass_over(_: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Forget settings of the file and the environment that this input has no use for, so that both serve any input.

    The last of cyclopts's sources of settings. What was typed stays, and is refused by the verbs.
    """
    if commands not in (("predict",), ("mlm",)):
        return
    given = {argument.field_info.name: argument for argument in arguments}
    inputs = [token.value for token in given["inputs"].tokens]
    useless = set(OF_STREAMS if any(map(is_atlas, inputs)) else OF_ATLASES)
    if commands == ("mlm",):
        what = next((token.value for token in given["what"].tokens), MlmSettings().what)
        useless.add("method" if what == "logits" else "store_dtype")
    for name in useless & set(given):
        if all(token.source != "cli" for token in given[name].tokens):
            given[name].tokens.clear()


def _atlas(inputs: Sequence[str], text: TextSettings, **options: object) -> str | None:
    """The atlas among the inputs, if there is one.

    Raises:
        UsageError: it is not alone, or an option is given that says how to answer on standard output.
    """
    atlas = next((path for path in inputs if is_atlas(path)), None)
    if atlas is None:
        return None
    if len(inputs) > 1:
        raise UsageError(f"{atlas}: is an atlas; give it alone, or inputs that are none")
    given = [*sorted(text.model_fields_set), *(name for name, value in options.items() if value is not None)]
    if given:
        raise UsageError(f"{_option(given[0])}: has no use here: {OF_STREAMS[given[0]].format(atlas=atlas)}")
    return atlas


def _stream_inputs(inputs: Sequence[str], text: TextSettings, settings: RunSettings) -> tuple[str, ...]:
    """Inputs that are no atlas, each of which is there.

    Raises:
        UsageError: a setting is given that has a meaning for atlases only.
        InputError: an input is neither a file nor standard input nor a sequence.
        RaypipeError: the output cannot be written.
    """
    given = sorted(settings.model_fields_set.intersection(OF_ATLASES))
    if given:
        raise UsageError(
            f"{_option(given[0])}: has a use with an atlas only; leave it out, or ingest first: "
            f"raypipe ingest INPUT... -o ATLAS"
        )
    named = tuple(name_stdin(inputs))
    refuse_missing(named)
    check_output(text.output, named)
    return named


def _option(field: str) -> str:
    return "--no-header" if field == "header" else f"--{field.replace('_', '-')}"


def _run(verb: Callable[..., pipeline.RunReport], atlas: str, settings: RunSettings, checkpoint: Checkpoint) -> None:
    if not checkpoint.trained:
        warn_untrained(checkpoint.name)
    store = Store.open(atlas)
    with closing(RunProgress()) as progress:
        report = verb(store, settings, progress, checkpoint)
    say(run_summary(store, report))


def _answer(
    inputs: Sequence[str],
    settings: RunSettings,
    text: TextSettings,
    checkpoint: Checkpoint,
    sets: Sequence[Prediction],
    ask: Ask,
    form: Form,
    heatmap: Path | None = None,
) -> None:
    if not checkpoint.trained:
        warn_untrained(checkpoint.name)
    columns = TableColumns(text.id_column, text.sequence_column)
    context = checkpoint.config.context
    reader = Reader(inputs, context=context, on_long=settings.on_long, columns=columns, say=say)
    queries = reader if heatmap is None else _only(reader)
    drawn: list[Any] = []
    try:
        answerer = Answerer(checkpoint, sets, ask, device=text.device, dtype=settings.dtype)
        tell = _Teller(reader)

        def answers(sequences: list[str]) -> list[Answer]:
            found = answerer(sequences)
            if heatmap is not None:
                drawn.extend(rows for rows, reason in found if reason is None)
            return found

        with opened(text.output) as stream:
            answer(reader, queries, answers, form, stream, cost=answerer.cost, budget=answerer.budget, after=tell)
        if heatmap is not None and drawn:
            (query,) = queries
            pictures.write_heatmap(drawn[0]["variants"], heatmap, f"{query.id}, {checkpoint.name}")
    except KeyboardInterrupt:
        raise IncompleteError("stopped; without an atlas there is nothing to go on from: begin again") from None
    if reader.cut:
        say(f"cut to their first {context:,} nt (--on-long truncate): {reader.cut:,} of {reader.records:,} records")
    reader.check()


class _Teller:
    """Says now and then how many records were read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._said = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            say(f"records read: {self._reader.records:,}")


def _only(reader: Reader) -> Iterable[Query]:
    """The one sequence of a picture, read before the model is loaded.

    Raises:
        UsageError: there are several, or none, or it is too long for a picture.
    """
    queries = list(islice(reader, 2))
    if not queries:
        reader.check()
    if len(queries) != 1:
        raise UsageError(f"--heatmap draws one sequence, and there are {'several' if queries else 'none'}")
    if (length := len(queries[0].sequence)) > pictures.LONGEST:
        raise UsageError(f"--heatmap draws {pictures.LONGEST:,} nucleotides at most, and there are {length:,}")
    return queries
