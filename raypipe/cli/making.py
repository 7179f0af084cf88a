"""Verbs that make an atlas: ingest, embed, index, annotate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from index.errors import StoreError
from index.lock import LOCK_FILE
from index.places import is_uri, place
from index.predictions import check_name
from index.store import MANIFEST, Store, is_store
from raypipe import is_server
from raypipe.checkpoints import find_checkpoint, find_heads
from raypipe.cleaning import clean
from raypipe.cli.arguments import is_atlas, literal_fasta, name_stdin, named_files, split_list
from raypipe.cli.progress import ReadingProgress, RunProgress, say, warn_untrained
from raypipe.errors import InputError, RaypipeError, UsageError
from raypipe.ingest import ingest as ingest_source
from raypipe.ingest import staging_folder
from raypipe.pipeline import embed as embed_store
from raypipe.reports import ingest_summary, run_summary
from raypipe.settings import EmbedSettings, IngestSettings
from raypipe.sources import TableColumns
from raypipe.staging import Staged, staged_ahead
from raypipe.unpacking import shown, unreadable

Inputs = Annotated[str, Parameter(help="FASTA or FASTQ (plain, gz, xz, zst, bz2), Parquet, CSV, TSV, - or sequences.")]
Output = Annotated[
    str | None,
    Parameter(name=["--output", "-o"], help="Folder of the atlas, or its URI (s3://...); made where it is missing."),
]
READING, EMBEDDING = IngestSettings(), EmbedSettings()


def _no_server(_: object, atlas: str) -> None:
    if is_server(atlas):
        raise ValueError("It is a server, and this needs the atlas itself: give its folder or URI")


AtlasPath = Annotated[str, Parameter(help="Folder of the atlas, or its URI (s3://bucket/atlas).", validator=_no_server)]


def ingest(*inputs: Inputs, output: Output = None, settings: IngestSettings = READING) -> None:
    """Read sequences into an atlas: distinct ones once, records as given, rejects with a reason."""
    if not inputs or output is None:
        raise UsageError("name the inputs and the atlas: raypipe ingest INPUT... -o ATLAS")
    ingest_all(output, inputs, settings)


def embed(
    *inputs: Annotated[str, Parameter(help="An atlas, or inputs to ingest first (then with -o).")],
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
    checkpoint = find_checkpoint(settings.model)
    heads = find_heads(checkpoint, settings.heads)
    standing = next((path for path in [*atlases, output or ""] if is_atlas(path)), None)
    known = Store.open(standing) if standing else None
    for head in heads:
        check_name(known, head.name)
    if not checkpoint.trained:
        warn_untrained(checkpoint.name)
    store = Store.open(atlases[0]) if atlases else ingest_all(output or "", inputs, reading)
    with closing(RunProgress()) as progress:
        report = embed_store(store, settings, progress, checkpoint)
    say(run_summary(store, report))


def refuse_missing(inputs: Sequence[str]) -> None:
    """Look at every input before the first one is read, and before an atlas is made.

    Raises:
        InputError: one is neither a file nor standard input nor a sequence.
    """
    for text in inputs:
        if is_uri(text):
            where = place(text)
            if not where.is_file():
                raise unreadable(text, IsADirectoryError() if where.exists() else FileNotFoundError())
            continue
        if os.path.isdir(text):
            raise unreadable(text, IsADirectoryError())
        if text != "-" and not os.path.exists(text) and not _is_literal(text):
            raise unreadable(text, FileNotFoundError())


def ingest_all(atlas: str | Path, inputs: Sequence[str], settings: IngestSettings) -> Store:
    """Ingest files, standard input and literal sequences into `atlas`, made where it is missing; say what each gave.

    Raises:
        InputError: an input cannot be used; the others are ingested all the same. If there are none, an atlas that was
            made for them is taken away again.
    """
    inputs = name_stdin(inputs)
    refuse_missing(inputs)
    root = place(atlas)
    there, made = root.exists(), not is_store(root)
    store = Store.open_or_create(root)
    try:
        _ingest_into(store, inputs, settings)
    except RaypipeError:
        if made:
            _take_away(store, folder=not there)
        raise
    return store


def _ingest_into(store: Store, inputs: Sequence[str], settings: IngestSettings) -> None:
    columns = TableColumns(settings.id_column, settings.sequence_column)
    files = [text for text in inputs if text == "-" or os.path.exists(text) or not _is_literal(text)]
    literals = [text for text in inputs if text not in files]
    streams: list[tuple[str, Any]] = [(text, None) for text in files]
    if literals:
        streams.append(("-", literal_fasta(literals)))
    failures = []
    with store.lock(), _staged(store, files, columns) as ahead:
        for path, stream in streams:
            name = shown(path) if stream is None else "sequences of the command line"
            try:
                report = ingest_source(
                    store,
                    path,
                    columns=columns,
                    accept_changed=settings.accept_changed,
                    progress=ReadingProgress(name),
                    stdin=stream,
                    ahead=ahead.pop(path, None),
                )
            except InputError as error:
                failures.append(str(error))
            else:
                say(ingest_summary(name, report))
    if failures:
        others = f" ({len(failures)} of {len(streams)} inputs; the others are ingested)" if len(streams) > 1 else ""
        raise InputError("; ".join(failures) + others)


def _take_away(store: Store, folder: bool) -> None:
    """Remove a store that has no source yet, and its folder; not if anybody else put something there, or is about to.

    Args:
        folder: whether the folder goes too.
    """
    with suppress(StoreError, OSError), store.lock():
        if store.sources or [entry.name for entry in store.root.iterdir() if entry.name[0] != "."] != [MANIFEST]:
            return
        (store.root / MANIFEST).unlink()
        if isinstance(store.root, Path):
            (store.root / LOCK_FILE).unlink()
            if folder:
                store.root.rmdir()


def _staged(
    store: Store, files: Sequence[str], columns: TableColumns
) -> AbstractContextManager[dict[str, Future[Staged]]]:
    """The files that `store` has not read yet, being read in processes of their own. Call under `store.lock()`."""
    seen = {source.path for source in store.sources}
    known = {source.sha256 for source in store.sources}
    return staged_ahead([path for path in files if path not in seen], staging_folder(store), columns, known)


def _is_literal(text: str) -> bool:
    return clean(text)[1] is None


def annotate(
    atlas: AtlasPath,
    *tables: Annotated[str, Parameter(help="NAME=FILE: TSV, CSV, GFF3, BED, Rfam.seed or Parquet, also gzipped.")],
    key: Annotated[str | None, Parameter(help="Column with the record ids; found by itself if not given.")] = None,
    on: Annotated[
        str | None, Parameter(help="TABLE.COLUMN of another table whose values the key has, such as rfam.rfam_acc.")
    ] = None,
    memory_limit: Annotated[
        str | None, Parameter(help="What DuckDB may take, such as 4GB; beyond it goes to the disk.")
    ] = None,
) -> None:
    """Add or replace annotation tables, joined to the records by id, or to another table (--on)."""
    from index.annotations import annotate as annotate_store

    store = Store.open(atlas)
    with store.lock():
        reports = annotate_store(store, named_files(tables), key=key, on=on, memory_limit=memory_limit)
    for report in reports:
        state = "unchanged, " if report.unchanged else "joined again, " if report.joined_again else ""
        line = (
            f"{report.name}: {state}{report.matched_rows:,} of {report.rows:,} rows belong to "
            f"{report.matched_sequences:,} sequences (key {report.key}, {report.rule})"
        )
        if report.unmatched_rows:
            examples = ", ".join(report.unmatched_examples)
            what = "record" if on is None and not report.joined_again else "row there"
            line += f"; {report.unmatched_rows:,} rows match no {what} and are left out"
            line += f", e.g. {examples}" if examples else ""
        if report.rejected_rows:
            first = "; ".join(report.rejected_examples)
            line += f"; {report.rejected_rows:,} rows cannot be read and stand in `rejects`, e.g. {first}"
        if report.coordinates:
            line += f"; {report.coordinates}"
        say(line)


def remove(
    atlas: AtlasPath,
    *,
    ids: Annotated[list[str] | None, Parameter(consume_multiple=True, help="Ids of records.")] = None,
    ids_from: Annotated[Path | None, Parameter(help="File with an id in each line.")] = None,
) -> None:
    """Take records out of an atlas: they, and sequences that have no other record, are found no more.

    Their source counts as ingested still, so that it does not bring them back; a later one with the same ids does.
    """
    from index.removals import remove_records

    wanted = split_list(ids) or []
    if ids_from is not None:
        try:
            wanted += [line.strip() for line in ids_from.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{ids_from}: cannot be read ({error})") from error
    if not wanted:
        raise UsageError("name the records to remove: --ids ID[,ID...] or --ids-from FILE")
    store = Store.open(atlas)
    with store.lock():
        done = remove_records(store, wanted)
    say(f"removed {done.records:,} records; {done.sequences:,} sequences have no other and are found no more")
    if done.unknown:
        more = ", ..." if len(done.unknown) > 5 else ""
        say(f"{len(done.unknown):,} ids are not there: {', '.join(done.unknown[:5])}{more}")
