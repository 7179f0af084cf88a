"""BED of an atlas: the places in genomes of its sequences, from an annotation table that has their coordinates.

BED counts from 0 and leaves the end out; GFF and most tables count from 1 and include it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from index import duck
from index.annotation_tables import AnnotationTable, list_tables
from index.store import Store
from raypipe.errors import UsageError
from raypipe.exporting.tables import answers, condition, joined, named_tables, write_rows

# By what the columns are called, whatever the case; the first that is there.
CHROMOSOME = ("chromosome", "chrom", "chr", "seqname", "seqnames", "seq_region_name", "seq_region", "contig")
START = (
    "bed_start",
    "chromstart",
    "chrom_start",
    "gff_start",
    "start",
    "region_start",
    "seq_region_start",
    "seq_start",
)
END = ("bed_end", "chromend", "chrom_end", "gff_end", "end", "stop", "region_stop", "region_end", "seq_region_end")
END = (*END, "seq_end")
STRAND = ("strand", "seq_region_strand")
FROM_ZERO = ("bed_start", "chromstart", "chrom_start")
NEEDED = (
    "a chromosome (chromosome, chrom, chr, seqname, contig), a start (start, gff_start, bed_start, chromStart), an "
    "end (end, stop, gff_end, bed_end, chromEnd) and, if it is known, a strand"
)


class Coordinates(NamedTuple):
    """Where a table has its coordinates: names of columns, and whether they count from 0, without the end."""

    table: AnnotationTable
    chromosome: str
    start: str
    end: str
    strand: str | None
    from_zero: bool


def find_coordinates(store: Store, names: Sequence[str] | None, from_zero: bool | None) -> Coordinates:
    """The annotation table with coordinates: the one that is named, else the only one that has some.

    Args:
        from_zero: how they count; None: from 0 where they are called as in BED (bed_start, chromStart), else from 1.

    Raises:
        UsageError: no such table, or several.
        QuestionError: no table of that name.
    """
    if names is not None and len(names) != 1:
        raise UsageError(f"--table: BED is made of one table, and there are {len(names)}")
    tables = named_tables(store, names) if names is not None else list_tables(store)
    found = [made for table in tables if (made := _coordinates(table, from_zero)) is not None]
    if not found:
        what = f"the annotation table {tables[0].name!r} has no" if names else "no annotation table has"
        held = "; ".join(f"{table.name}: {', '.join(table.columns)}" for table in tables) or "nothing is annotated"
        raise UsageError(f"{what} coordinates: BED needs columns with {NEEDED}. There are: {held}")
    if len(found) > 1:
        raise UsageError(f"--table: name the one to use of {', '.join(made.table.name for made in found)}")
    return found[0]


def bed_of_annotations(store: Store, at: Coordinates, where: str | None) -> Iterator[pa.Table]:
    """BED6 of the rows of a table, sorted: the name is that of the record, the score 0."""
    source, _ = joined([at.table])
    owner = duck.identifier(at.table.name)
    return answers(store, f"{_select(at, f'{owner}.id', '0')} FROM {source}{condition(where)} ORDER BY ALL", {})


def bed_of_hits(store: Store, at: Coordinates, hits: pa.Table) -> Iterator[pa.Table]:
    """BED6 of hits, at every place that their sequence has: the name is that of the hit, the score 1000 times its own.

    Args:
        hits: with the columns seq_id, id and score.
    """
    owner = duck.identifier(at.table.name)
    score = "greatest(0, least(1000, round(1000 * found_hits.score)))::INTEGER"
    source = f"found_hits JOIN {owner} ON {owner}.seq_id = found_hits.seq_id"
    return answers(store, f"{_select(at, 'found_hits.id', score)} FROM {source} ORDER BY ALL", {"found_hits": hits})


def write_bed(output: Path, batches: Iterator[pa.Table], tell: Callable[[str], None]) -> int:
    """Write rows, but those without a place, which are counted and told; returns the number of lines."""
    left_out = 0

    def placed() -> Iterator[pa.Table]:
        nonlocal left_out
        for table in batches:
            good = table.drop_null()
            left_out += table.num_rows - good.num_rows
            yield good

    lines = write_rows(output, "tsv", placed(), header=False)
    if left_out:
        tell(f"{left_out:,} rows have no chromosome, or no start before their end; they are left out")
    return lines


def _coordinates(table: AnnotationTable, from_zero: bool | None) -> Coordinates | None:
    held = {column.lower(): column for column in table.columns}

    def first(names: Sequence[str]) -> str | None:
        return next((held[name] for name in names if name in held), None)

    chromosome, start, end = first(CHROMOSOME), first(START), first(END)
    if chromosome is None or start is None or end is None:
        return None
    counted = start.lower() in FROM_ZERO if from_zero is None else from_zero
    return Coordinates(table, chromosome, start, end, first(STRAND), counted)


def _select(at: Coordinates, name: str, score: str) -> str:
    """A place is NULL as a whole where a part of it is not there, or it has no length."""
    owner = duck.identifier(at.table.name)
    chromosome, start, end = (f"{owner}.{duck.identifier(column)}" for column in (at.chromosome, at.start, at.end))
    begin = f"TRY_CAST({start} AS BIGINT)" if at.from_zero else f"TRY_CAST({start} AS BIGINT) - 1"
    stop = f"TRY_CAST({end} AS BIGINT)"
    strand = f"{owner}.{duck.identifier(at.strand)}::VARCHAR" if at.strand else "NULL"
    sign = f"CASE WHEN {strand} IN ('+', '1', '+1') THEN '+' WHEN {strand} IN ('-', '-1') THEN '-' ELSE '.' END"
    good = f"CASE WHEN {begin} >= 0 AND {stop} > {begin} THEN {chromosome}::VARCHAR END"
    return (
        f"SELECT {good} AS chrom, {begin} AS start, {stop} AS stop, {name} AS name, {score} AS score, {sign} AS strand"
    )
