"""Verbs that make an atlas: ingest, embed, index, annotate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from index.store import Store
from raypipe.checkpoints import find_checkpoint
from raypipe.cleaning import clean
from raypipe.cli.arguments import is_atlas, literal_fasta, named_files, refuse_option
from raypipe.cli.progress import EmbedProgress, say
from raypipe.completeness import check_embedding
from raypipe.errors import IncompleteError, UsageError
from raypipe.ingest import IngestReport
from raypipe.ingest import ingest as ingest_source
from raypipe.pipeline import EmbedReport
from raypipe.pipeline import embed as embed_store
from raypipe.settings import EmbedSettings, IngestSettings
from raypipe.sources import TableColumns
from raypipe.unpacking import shown, unreadable

# What may be "-", standard input.
MAYBE_STDIN = Parameter(allow_leading_hyphen=True, validator=refuse_option)
Inputs = Annotated[
    str, MAYBE_STDIN, Parameter(help="FASTA or FASTQ (plain, gz, xz, zst, bz2), Parquet, CSV, TSV, - or sequences.")
]
Output = Annotated[
    Path | None, Parameter(name=["--output", "-o"], help="Folder of the atlas; made where it is missing.")
]
READING, EMBEDDING = IngestSettings(), EmbedSettings()
AtlasPath = Annotated[Path, Parameter(help="Folder of the atlas.")]


def ingest(*inputs: Inputs, output: Output = None, settings: IngestSettings = READING) -> None:
    """Read sequences into an atlas: distinct ones once, records as given, rejects with a reason."""
    if not inputs or output is None:
        raise UsageError("name the inputs and the atlas: raypipe ingest INPUT... -o ATLAS")
    refuse_missing(inputs)
    ingest_all(Store.open_or_create(output), inputs, settings)


def embed(
    *inputs: Annotated[str, MAYBE_STDIN, Parameter(help="An atlas, or inputs to ingest first (then with -o).")],
    output: Output = None,
    settings: EmbedSettings = EMBEDDING,
    reading: IngestSettings = READING,
) -> None:
    """Embed every sequence of an atlas that has no vector yet; goes on where a killed run stopped."""
    if not inputs:
        raise UsageError("name an atlas, or inputs and -o ATLAS")
    first = inputs[0]
    atlases = [path for path in inputs if is_atlas(path)]
    if atlases and (len(inputs) > 1 or output is not None):
        raise UsageError(f"{atlases[0]}: is an atlas; embed it alone, or name inputs and -o ATLAS")
    if not atlases and output is None:
        raise UsageError(f"{first}: is no atlas; to ingest it first, name the atlas to make: -o ATLAS")
    # A wrong name is said before hours of reading, not after.
    if not atlases:
        refuse_missing(inputs)
    checkpoint = find_checkpoint(settings.model)
    if not checkpoint.trained:
        say(f"warning: {checkpoint.name} is untrained (random weights): good to try raypipe, not for conclusions")
    if atlases:
        store = Store.open(atlases[0])
    else:
        store = Store.open_or_create(output or "")
        ingest_all(store, inputs, reading)
    with closing(EmbedProgress()) as progress:
        report = embed_store(store, settings, progress)
    say(embed_summary(store, report))


def refuse_missing(inputs: Sequence[str]) -> None:
    """Look at every input before the first one is read, and before an atlas is made.

    Raises:
        InputError: one is neither a file nor standard input nor a sequence.
    """
    for text in inputs:
        if os.path.isdir(text):
            raise unreadable(text, IsADirectoryError())
        if text != "-" and not os.path.exists(text) and not _is_literal(text):
            raise unreadable(text, FileNotFoundError())


def ingest_all(store: Store, inputs: Sequence[str], settings: IngestSettings) -> list[IngestReport]:
    """Ingest files, standard input and literal sequences, and say what each gave."""
    columns = TableColumns(settings.id_column, settings.sequence_column)
    files = [text for text in inputs if text == "-" or os.path.exists(text) or not _is_literal(text)]
    literals = [text for text in inputs if text not in files]
    streams: list[tuple[str, Any]] = [(text, None) for text in files]
    if literals:
        streams.append(("-", literal_fasta(literals)))
    reports = []
    with store.lock():
        for path, stream in streams:
            report = ingest_source(store, path, columns=columns, accept_changed=settings.accept_changed, stdin=stream)
            say(ingest_summary(shown(path) if stream is None else "sequences of the command line", report))
            reports.append(report)
    return reports


def _is_literal(text: str) -> bool:
    return clean(text)[1] is None


def ingest_summary(path: str, report: IngestReport) -> str:
    """One line: what was read, what was new, what was refused and why."""
    source = report.source
    if report.unchanged:
        return f"{path}: ingested before, nothing to do ({source.records:,} records)"
    line = f"{path}: {source.records:,} records, {source.seq_hi - source.seq_lo:,} new distinct sequences"
    if not source.rejected:
        return line
    return f"{line}; {source.rejected:,} rejected, see rejects/ (the first: {report.first_reason})"


def embed_summary(store: Store, report: EmbedReport) -> str:
    """What the run did, and the two sums read back from disk."""
    state = report.completeness
    rejected = sum(source.rejected for source in store.sources)
    lines = []
    if report.shards_run:
        rate = report.tokens / max(report.seconds, 1e-9)
        lines.append(
            f"embedded {report.sequences_run:,} sequences, {report.tokens:,} tokens (padding 0) in "
            f"{report.seconds:.1f} s: {rate:,.0f} tokens/s"
        )
    else:
        lines.append("nothing to embed: every sequence has its vector")
    lines.append(
        f"complete: {store.num_records:,} records and {rejected:,} rejects; {state.sequences:,} distinct sequences = "
        f"{state.embedded:,} embedded + {state.failed:,} failed, in embeddings/{report.embedding.name}"
    )
    return "\n".join(lines)


def index(
    atlas: AtlasPath,
    *,
    type: Annotated[str, Parameter(help="flat (exact), auto (by size), or a FAISS factory string.")] = "auto",
    name: Annotated[str | None, Parameter(help="Set of vectors; by default the only or first one.")] = None,
) -> None:
    """Build the nearest-neighbour index of an atlas and publish it."""
    from index.build import build_index

    store = Store.open(atlas)
    with store.lock():
        # An index over a part of the sequences would look whole to everyone who searches it.
        state = check_embedding(store, store.embedding(name))
        if not state.complete:
            raise IncompleteError(
                f"{store.root}: not all is embedded ({'; '.join(state.messages)}); run raypipe embed {store.root} with "
                f"its options again, then index"
            )
        info = build_index(store, name, kind=type)
    if info.unchanged:
        say(f"index {info.version}: up to date ({info.type}, {info.rows:,} vectors of {info.embeddings})")
        return
    measured = f"; measured {info.operating}" if info.operating else "; exact"
    say(f"index {info.version}: {info.type}, {info.rows:,} vectors of {info.embeddings}{measured}")


def annotate(
    atlas: AtlasPath,
    *tables: Annotated[str, Parameter(help="NAME=FILE: TSV, CSV or Parquet, also gzipped.")],
    key: Annotated[str | None, Parameter(help="Column with the record ids; found by itself if not given.")] = None,
) -> None:
    """Add or replace annotation tables, joined to the records by id."""
    from index.annotations import annotate as annotate_store

    store = Store.open(atlas)
    with store.lock():
        reports = annotate_store(store, named_files(tables), key=key)
    for report in reports:
        state = "unchanged, " if report.unchanged else ""
        line = (
            f"{report.name}: {state}{report.matched_rows:,} of {report.rows:,} rows belong to "
            f"{report.matched_sequences:,} sequences (key {report.key}, {report.rule})"
        )
        if report.unmatched_rows:
            examples = ", ".join(report.unmatched_examples)
            line += f"; {report.unmatched_rows:,} rows match no record and are left out, e.g. {examples}"
        say(line)
