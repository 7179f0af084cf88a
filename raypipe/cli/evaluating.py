"""Verbs that measure what a model is worth: eval retrieval, eval mlm, eval structure."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from raypipe.answer_files import check_output
from raypipe.cli.arguments import name_stdin
from raypipe.cli.progress import say
from raypipe.errors import UsageError
from raypipe.evaluation.reports import write_report
from raypipe.evaluation.settings import MlmEvalSettings, RetrievalSettings
from raypipe.evaluation.structure_settings import StructureEvalSettings

eval_app = App(name="eval", help="Measure what the embeddings, letters and structures of a model are worth.")
RETRIEVAL, MLM, STRUCTURE = RetrievalSettings(), MlmEvalSettings(), StructureEvalSettings()


@eval_app.command
def retrieval(
    table: Annotated[str, Parameter(help="Parquet, CSV or TSV of sequences with their family, clan and cluster.")],
    /,
    *,
    settings: RetrievalSettings = RETRIEVAL,
) -> None:
    """Find a sequence's family leaving its cluster out, and its clan leaving its family out.

    By embeddings of any model, layer, pooling and post-processing, against
    BLASTN, MMseqs2 and k-mer profiles.
    """
    from raypipe.evaluation.retrieval import evaluate_retrieval

    check_output(settings.output, [table])
    report = evaluate_retrieval(table, settings, say)
    write_report(report, settings.format, settings.output, settings.model_dump())


@eval_app.command
def mlm(
    *inputs: Annotated[str, Parameter(help="FASTA or FASTQ (plain, gz, xz, zst, bz2), Parquet, CSV, TSV or -.")],
    settings: MlmEvalSettings = MLM,
) -> None:
    """Guess hidden nucleotides: cross entropy, perplexity and accuracy over A, C, G and U, against simple models."""
    from raypipe.evaluation.mlm import evaluate_mlm

    if not inputs:
        raise UsageError("name inputs: raypipe eval mlm INPUT...")
    named = name_stdin(inputs)
    check_output(settings.output, named)
    report = evaluate_mlm(named, settings, say)
    write_report(report, settings.format, settings.output, settings.model_dump())


@eval_app.command
def structure(
    *inputs: Annotated[
        str, Parameter(help="Parquet, CSV or TSV with a structure column; dot-bracket, bpseq or ct files, or folders.")
    ],
    settings: StructureEvalSettings = STRUCTURE,
) -> None:
    """Predict base pairs that are known: precision, recall and F1, against ViennaRNA and two simple rules."""
    from raypipe.evaluation.structure import evaluate_structure

    if not inputs and settings.as_result is None:
        raise UsageError("name inputs: raypipe eval structure INPUT..., or --as RESULT")
    for output in (settings.output, settings.details):
        check_output(output, inputs)
    report = evaluate_structure(inputs, settings, say)
    write_report(report, settings.format, settings.output, settings.model_dump())
