"""The verb export: vectors, hits and annotations of an atlas as files for other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from cyclopts import Parameter, validators

from index.store import Store
from raypipe.answer_files import check_output
from raypipe.atlas import Atlas
from raypipe.cli.arguments import read_queries, split_list
from raypipe.cli.making import AtlasPath
from raypipe.cli.progress import say
from raypipe.errors import UsageError
from raypipe.exporting import bed, tables, vectors
from raypipe.searching import Question

What = Literal["embeddings", "hits", "annotations"]
Format = Literal["npy", "csv", "tsv", "jsonl", "parquet", "h5ad", "bed"]
FITTING: dict[str, Sequence[str]] = {
    "embeddings": vectors.FORMATS,
    "hits": (*tables.FORMATS, "bed"),
    "annotations": (*tables.FORMATS, "bed"),
}
# Options that have a use with some of what can be exported only.
USES = {
    "--name": ("embeddings",),
    "--ids": ("hits",),
    "QUERIES": ("hits",),
    "-k": ("hits",),
    "--min-score": ("hits",),
    "--table": ("annotations", "bed"),
    "--count-from": ("bed",),
}
QUERIES_AT_ONCE = 256
IN_BED = ["seq_id", "id", "score"]


def export(
    atlas: AtlasPath,
    *queries: Annotated[str, Parameter(help="Of hits: sequences, FASTA files, or - for standard input.")],
    what: Annotated[
        What,
        Parameter(
            help="embeddings: the stored vector of every sequence. hits: the neighbours of every sequence, from the "
            "graph of raypipe neighbors; or those of queries or --ids. annotations: rows of annotation tables."
        ),
    ],
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="File to write, whole or not at all.")],
    format: Annotated[
        Format | None,
        Parameter(
            help="By default what the file's name ends in. npy: the vectors alone, of the type that is stored; what "
            "stands in their rows is in a second file, FILE.ids.tsv for FILE.npy. csv, tsv: columns v0, v1, ... behind "
            "id and seq_id. parquet: one column of lists. h5ad: X (float32), obs (--columns, or all annotations), uns "
            "(the model). bed: six columns; see --table."
        ),
    ] = None,
    where: Annotated[
        str | None,
        Parameter(
            help="SQL condition on the sequences that are exported or found, as for raypipe search; with annotations "
            "on their rows."
        ),
    ] = None,
    columns: Annotated[list[str] | None, Parameter(help="Columns, separated by commas, as those of a hit.")] = None,
    name: Annotated[str | None, Parameter(help="Set of vectors; by default the one that is indexed.")] = None,
    ids: Annotated[list[str] | None, Parameter(consume_multiple=True, help="Records whose hits to write.")] = None,
    k: Annotated[
        int | None,
        Parameter(name=["-k", "--k"], validator=validators.Number(gte=1), help="Hits of each; by default 10, or all."),
    ] = None,
    min_score: Annotated[float | None, Parameter(help="Leave out hits that score less.")] = None,
    table: Annotated[
        list[str] | None,
        Parameter(
            help="Annotation table; with several the others are joined to the first by sequence. For BED one with "
            "columns of a chromosome, a start, an end and perhaps a strand, found by their names; by default the only "
            "such table."
        ),
    ] = None,
    count_from: Annotated[
        Literal[0, 1] | None,
        Parameter(
            help="What the first nucleotide of a chromosome is called in the table: 0 as in BED (the end is left out), "
            "1 as in GFF (the end is included). By default 0 where the start is called bed_start or chromStart, else 1."
        ),
    ] = None,
    header: Annotated[bool, Parameter(negative="--no-header", help="Column names first, in TSV and CSV.")] = True,
) -> None:
    """Write vectors, hits or annotations of an atlas into a file for other programs."""
    form = format or _by_name(output)
    if form not in FITTING[what]:
        raise UsageError(f"--what {what} --format {form}: do not fit; with {what} go: {', '.join(FITTING[what])}")
    given = {"--name": name, "--ids": ids, "QUERIES": queries, "-k": k, "--min-score": min_score}
    given |= {"--table": table, "--count-from": count_from}
    for option, value in given.items():
        if value not in (None, ()) and not {what, form} & set(USES[option]):
            raise UsageError(f"{option}: has a use with {' and '.join(USES[option])} only; leave it out")
    if not header and (what == "embeddings" or form not in ("csv", "tsv")):
        raise UsageError("--no-header: is for CSV and TSV of hits and annotations; leave it out")
    if form == "bed" and columns is not None:
        raise UsageError("--columns: BED has columns of its own; leave it out")
    if ids and queries:
        raise UsageError("name queries (sequences or FASTA files) or --ids, one of the two")
    check_output(output, queries)
    chosen, store = split_list(columns), Store.open(atlas)
    if what == "embeddings":
        made, rows = vectors.export_vectors(store, output, form, name=name, where=where, columns=chosen)
        beside = f", their ids in {vectors.ids_file(output)}" if form == "npy" else ""
        say(f"{output}: {rows:,} vectors of {made.dimension} values ({made.name}){beside}")
    elif what == "hits":
        asked: dict[str, Any] = {"k": k, "where": where, "min_score": min_score}
        _export_hits(atlas, store, output, form, queries, ids, split_list(table), count_from, chosen, asked, header)
    elif form == "bed":
        at = _coordinates(store, table, count_from)
        say(f"{output}: {bed.write_bed(output, bed.bed_of_annotations(store, at, where), say):,} lines")
    else:
        found = tables.annotation_rows(store, split_list(table), where, chosen)
        say(f"{output}: {tables.write_rows(output, form, found, header):,} rows")


def _export_hits(
    atlas: str,
    store: Store,
    output: Path,
    format: str,
    queries: Sequence[str],
    ids: Sequence[str] | None,
    table: Sequence[str] | None,
    count_from: int | None,
    columns: Sequence[str] | None,
    asked: dict[str, Any],
    header: bool,
) -> None:
    if not ids and not queries:
        if format == "bed":
            raise UsageError("--format bed: name the queries, or records by --ids, whose hits to write")
        found = tables.graph_hits(store, asked["k"], asked["min_score"], asked["where"], columns)
        say(f"{output}: {tables.write_rows(output, format, found, header):,} hits")
        return
    at = _coordinates(store, table, count_from) if format == "bed" else None
    names, sequences = (None, None) if ids else read_queries(queries)
    question = Question(
        sequences=sequences,
        ids=ids or None,
        names=names,
        columns=IN_BED if at else columns,
        **{**asked, "k": asked["k"] or 10},
    )
    with Atlas(atlas) as opened:
        found = _hits(opened.search_for, question)
        if at is None:
            say(f"{output}: {tables.write_rows(output, format, found, header):,} hits")
        else:
            hits = pa.concat_tables(list(found))
            say(f"{output}: {bed.write_bed(output, bed.bed_of_hits(store, at, hits), say):,} lines")


def _hits(ask: Callable[[Question], Any], question: Question) -> Iterator[pa.Table]:
    for start in range(0, len(question), QUERIES_AT_ONCE):
        yield ask(question.part(start, start + QUERIES_AT_ONCE)).to_arrow()


def _coordinates(store: Store, table: Sequence[str] | None, count_from: int | None) -> bed.Coordinates:
    found = bed.find_coordinates(store, split_list(table), None if count_from is None else count_from == 0)
    how = "from 0, the end left out" if found.from_zero else "from 1, the end included"
    columns = ", ".join(name for name in (found.chromosome, found.start, found.end, found.strand) if name)
    say(f"coordinates: {columns} of {found.table.name}, which count {how}")
    return found


def _by_name(output: Path) -> str:
    suffix = output.suffix.lower().removeprefix(".")
    known = {"npy", "csv", "tsv", "jsonl", "parquet", "h5ad", "bed"}
    if suffix not in known:
        raise UsageError(f"{output}: its name tells no format; give one by --format {'|'.join(sorted(known))}")
    return suffix
