"""Read sequence records from tables: CSV, TSV and Parquet with an id and a sequence column."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from index.parquet import open_parquet
from index.places import place
from raypipe.errors import InputError
from raypipe.records import BadRow, Record, TableColumns

ID_COLUMNS = ("id", "name", "accession", "seq_name", "sequence_id", "urs", "rnacentral_id")
SEQUENCE_COLUMNS = ("sequence", "seq", "rna", "rna_sequence")
DESCRIPTION_COLUMNS = ("description", "desc", "title")

ROWS = 8192
# One field may be a whole chromosome, but a quotation mark without its partner must not swallow a whole file.
LONGEST_FIELD = 64 << 20


def table_kind(path: str) -> str | None:
    """ "parquet", "csv" or "tsv" by the file's name, compression endings aside; None for anything else."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    while suffixes and suffixes[-1] in {".gz", ".xz", ".zst", ".bz2"}:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    return {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}.get(last)


def read_delimited(name: str, lines: Iterator[str], kind: str, columns: TableColumns) -> Iterator[Record | BadRow]:
    """Read the rows of a CSV or TSV file; every value is text, as it stands.

    Args:
        name: of the file, for messages.
        lines: with their line ends.
        kind: "csv" (separated by the first of comma, semicolon and tab in the header) or "tsv".
        columns: names of the id and sequence columns.

    Raises:
        InputError: a column is missing, or a quotation mark has no partner.
    """
    header = next(lines)
    delimiter = "\t" if kind == "tsv" else next((mark for mark in ",;\t" if mark in header), ",")
    # In TSV a quotation mark is a character (5" end), unless its writer has quoted the header too, as R does.
    quoting = csv.QUOTE_NONE if delimiter == "\t" and not header.startswith('"') else csv.QUOTE_MINIMAL
    csv.field_size_limit(LONGEST_FIELD)
    names = [field.strip() for field in next(csv.reader([header], delimiter=delimiter, quoting=quoting))]
    chosen = _find_columns(name, names, columns)
    places = [None if column is None else names.index(column) for column in chosen]
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    line = 2
    try:
        for row in reader:
            # The line where the row begins: a quoted value may hold line breaks, and empty lines are passed over.
            begin, line = line, reader.line_num + 2
            if len(row) == len(names):
                id_, sequence, description = (None if place is None else row[place] for place in places)
                yield _record(begin, id_, sequence, description, chosen)
            elif row:
                yield BadRow(begin, None, f"{len(row)} columns where the header has {len(names)}")
    except csv.Error as error:
        raise InputError(
            f"{name}, line {line}: broken table ({error}); look for a quotation mark without its partner"
        ) from error


def read_parquet(path: str, columns: TableColumns) -> Iterator[Record | BadRow]:
    """Read the rows of a Parquet file; `line` is the row's number.

    Raises:
        InputError: a column is missing or holds no text, or the file is damaged.
    """
    try:
        with open_parquet(place(path)) as file:
            chosen = _find_columns(path, file.schema_arrow.names, columns)
            before = 0
            for batch in file.iter_batches(batch_size=ROWS, columns=[name for name in chosen if name]):
                values = [_texts(path, batch, name) for name in chosen]
                for row, (id_, sequence, description) in enumerate(zip(*values, strict=True), before + 1):
                    yield _record(row, id_, sequence, description, chosen)
                before += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged or no Parquet file ({error}); copy or make it again") from error


def _texts(path: str, batch: pa.RecordBatch, name: str | None) -> list[str | None]:
    if name is None:
        return [None] * batch.num_rows
    column = batch.column(name)
    try:
        return column.cast(pa.string()).to_pylist()
    except pa.ArrowException as error:
        raise InputError(f"{path}: column {name!r} holds {column.type}, not text; write it again as strings") from error


def _record(
    line: int, id_: str | None, sequence: str | None, description: str | None, names: tuple[str, str, str | None]
) -> Record | BadRow:
    id_, sequence = (id_ or "").strip(), (sequence or "").strip()
    if not id_ or not sequence:
        return BadRow(line, id_ or None, f"no value in column {names[1 if id_ else 0]!r}")
    return Record(line, id_, (description or "").strip(), sequence)


def _find_columns(path: str, present: list[str], columns: TableColumns) -> tuple[str, str, str | None]:
    """Names of the id, sequence and description columns among `present`."""
    by_lower = {name.lower(): name for name in reversed(present)}

    def find(asked: str | None, usual: tuple[str, ...], what: str) -> str:
        if asked is not None:
            found = asked if asked in present else None
        else:
            found = next((by_lower[name] for name in usual if name in by_lower), None)
        if found is None:
            missing = repr(asked) if asked else " or ".join(map(repr, usual[:2]))
            raise InputError(
                f"{path}: no {what} column {missing}; it has: {', '.join(present)}; name it with --{what}-column"
            )
        if present.count(found) > 1:
            raise InputError(f"{path}: {present.count(found)} columns are called {found!r}; rename all but one")
        return found

    description = next((by_lower[name] for name in DESCRIPTION_COLUMNS if name in by_lower), None)
    return (
        find(columns.id, ID_COLUMNS, "id"),
        find(columns.sequence, SEQUENCE_COLUMNS, "sequence"),
        description if description is not None and present.count(description) == 1 else None,
    )
