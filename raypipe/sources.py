"""Read sequence records from files, one at a time, each with the line where it stands.

FASTA and FASTQ are parsed by dnaio, compression is found and undone by xopen, tables are read by pyarrow. Nothing is
held whole in memory. What a record may hold is decided in `raypipe/cleaning.py`.
"""

from __future__ import annotations

import io
import lzma
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from dnaio.exceptions import FileFormatError
from dnaio.readers import FastaReader, FastqReader
from xopen import xopen

from raypipe.errors import InputError

ID_COLUMNS = ("id", "name", "accession", "seq_name", "sequence_id", "urs", "rnacentral_id")
SEQUENCE_COLUMNS = ("sequence", "seq", "rna", "rna_sequence")
DESCRIPTION_COLUMNS = ("description", "desc", "title")

FORMATS_HINT = "give FASTA or FASTQ (plain, .gz, .xz, .zst, .bz2), or Parquet, CSV or TSV with id and sequence columns"
# By content, not by name: files are renamed more often than they are recompressed.
MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zst"}


class Record(NamedTuple):
    """One record as given: `line` is 1-based (of the header; of the row for Parquet)."""

    line: int
    id: str
    description: str
    sequence: str


class BadRow(NamedTuple):
    """A row that is no record; it goes to the rejects."""

    line: int
    id: str | None
    reason: str


@dataclass(frozen=True)
class TableColumns:
    """Columns to read from a table; None: found by their usual names."""

    id: str | None = None
    sequence: str | None = None


def read_records(
    path: str, columns: TableColumns | None = None, stdin: BinaryIO | None = None
) -> Iterator[Record | BadRow]:
    """Read the records of one input.

    Args:
        path: a file, or "-" for standard input.
        columns: names of the id and sequence columns of a table.
        stdin: what "-" reads, standard input by default.

    Raises:
        InputError: the file is missing, empty, damaged or of no known format.
    """
    columns = columns or TableColumns()
    if path != "-" and table_kind(path) == "parquet":
        yield from _read_parquet(path, columns)
        return
    with _open(path, stdin) as file:
        start = file.peek(1 << 16)
        kind = _sniff(path, start)
        if kind == "fasta":
            yield from _read_fasta(path, file)
        elif kind == "fastq":
            yield from _read_fastq(path, file)
        else:
            yield from _read_table(path, file, "\t" if kind == "tsv" else ",", columns)


def table_kind(path: str) -> str | None:
    """ "parquet", "csv" or "tsv" by the file's name, compression endings aside; None for anything else."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    while suffixes and suffixes[-1] in {".gz", ".xz", ".zst", ".bz2"}:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    return {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}.get(last)


@contextmanager
def _open(path: str, stdin: BinaryIO | None) -> Iterator[io.BufferedReader]:
    """Decompressed bytes of `path`; every way in which that fails becomes an InputError."""
    name = "standard input" if path == "-" else path
    try:
        raw = cast(io.BufferedReader, stdin or sys.stdin.buffer) if path == "-" else open(path, "rb")  # noqa: SIM115
        with raw:
            start = raw.peek(8)
            packed = next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None)
            if packed is None:
                yield raw
            else:
                # threads=0: no helper process or thread that would turn a damaged file into a broken pipe.
                with xopen(cast(BinaryIO, raw), "rb", format=packed, threads=0) as unpacked:
                    yield io.BufferedReader(cast(Any, unpacked), 1 << 17)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder; name the files in it") from None
    except PermissionError:
        raise InputError(f"{name}: may not be read; check its permissions") from None
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{name}: damaged or cut short ({error}); copy or download the file again") from error
    except Exception as error:
        # The zstd errors live in different modules before and after Python 3.14.
        if type(error).__name__ == "ZstdError":
            raise InputError(f"{name}: damaged or cut short ({error}); copy or download the file again") from error
        raise


def _sniff(path: str, start: bytes) -> str:
    """ "fasta", "fastq", "csv" or "tsv", from the first bytes and the file's name."""
    name = "standard input" if path == "-" else path
    if not start.strip():
        raise InputError(f"{name}: empty, there are no sequences to read")
    by_name = table_kind(path)
    if by_name in {"csv", "tsv"}:
        return cast(str, by_name)
    if b"\n" not in start and b"\r" in start:
        raise InputError(f"{name}: old Macintosh line ends; convert it with: tr '\\r' '\\n' < OLD > NEW")
    for number, line in enumerate(start.splitlines(), 1):
        line = line.strip()
        if line.startswith((b">", b"@")):
            return "fasta" if line.startswith(b">") else "fastq"
        # dnaio passes over empty lines and those that start with "#", wherever they stand.
        if line and not line.startswith(b"#"):
            shown = line[:40].decode("latin-1")
            raise InputError(f"{name}, line {number}: not FASTA or FASTQ (it reads {shown!r}); {FORMATS_HINT}")
    raise InputError(f"{name}: no record in its first lines; {FORMATS_HINT}")


class _Lines:
    """Text lines of a binary file that remember where FASTA headers stand.

    What is not UTF-8 is read as Latin-1, as old databases wrote it.
    """

    def __init__(self, file: io.BufferedReader):
        self._file = file
        self.closed = False
        self.headers: deque[int] = deque()

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self._file, 1):
            if line.lstrip()[:1] == b">":
                self.headers.append(number)
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                yield line.decode("latin-1")


class _LinedFastaReader(FastaReader):
    """dnaio's FASTA parser over `_Lines`, so that a record knows its line and no byte stops the file."""

    def __init__(self, file: io.BufferedReader):
        super().__init__(cast(BinaryIO, io.BytesIO()), sequence_class=cast(Any, _Raw))
        self._file = cast(Any, _Lines(file))

    def __iter__(self) -> Iterator[Any]:
        headers = self._file.headers
        for raw in super().__iter__():
            yield headers.popleft(), raw


class _Raw(NamedTuple):
    """What dnaio hands over; its own record class refuses letters beyond ASCII, where we reject the one record."""

    name: str
    sequence: str
    qualities: str | None


def _read_fasta(path: str, file: io.BufferedReader) -> Iterator[Record]:
    try:
        for line, raw in _LinedFastaReader(file):
            yield _record(line, raw.name, raw.sequence)
    except FileFormatError as error:
        raise InputError(f"{path}: broken FASTA ({error})") from error


def _read_fastq(path: str, file: io.BufferedReader) -> Iterator[Record]:
    """FASTQ of four lines a record, as dnaio takes it, so that the line follows from the record's number."""
    number = 0
    try:
        for number, raw in enumerate(FastqReader(cast(BinaryIO, file)), 1):
            yield _record(4 * number - 3, raw.name, raw.sequence)
    except (FileFormatError, ValueError) as error:
        raise InputError(
            f"{path}, after record {number}: broken FASTQ ({error}); mend or cut the file there"
        ) from error


def _record(line: int, header: str, sequence: str) -> Record:
    """The id is the header's first word; a blank after ">" is passed over."""
    words = header.split(maxsplit=1)
    return Record(line, words[0] if words else "", words[1].strip() if len(words) > 1 else "", sequence)


def _read_table(path: str, file: io.BufferedReader, delimiter: str, columns: TableColumns) -> Iterator[Record | BadRow]:
    broken: list[BadRow] = []

    def keep(row: Any) -> str:
        reason = f"{row.actual_columns} columns where the header has {row.expected_columns}"
        broken.append(BadRow(row.number or 0, None, reason))
        return "skip"

    try:
        reader = pyarrow.csv.open_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if delimiter == "," else False, invalid_row_handler=keep
            ),
            convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=False),
        )
        names = _find_columns(path, reader.schema.names, columns)
        # Every column as text: a column of ids may look like numbers in the first block only.
        line = 1
        for batch in reader:
            yield from _rows(batch, names, line)
            line += batch.num_rows
            yield from broken
            broken.clear()
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InputError(f"{path}: broken table ({error}); mend the file or save it again as UTF-8") from error


def _read_parquet(path: str, columns: TableColumns) -> Iterator[Record | BadRow]:
    try:
        with pq.ParquetFile(path) as file:
            names = _find_columns(path, file.schema_arrow.names, columns)
            line = 0
            for batch in file.iter_batches(batch_size=8192, columns=[name for name in names if name]):
                yield from _rows(batch, names, line)
                line += batch.num_rows
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: damaged or no Parquet file ({error}); copy or make it again") from error


def _find_columns(path: str, present: list[str], columns: TableColumns) -> tuple[str, str, str | None]:
    """Names of the id, sequence and description columns among `present`."""
    by_lower = {name.lower(): name for name in reversed(present)}

    def find(asked: str | None, usual: tuple[str, ...], what: str) -> str:
        if asked is not None and asked in present:
            return asked
        found = None if asked is not None else next((by_lower[name] for name in usual if name in by_lower), None)
        if found is None:
            missing = asked or " or ".join(usual[:2])
            raise InputError(
                f"{path}: no {what} column {missing!r}; it has: {', '.join(present)}; name it with --{what}-column"
            )
        return found

    description = next((by_lower[name] for name in DESCRIPTION_COLUMNS if name in by_lower), None)
    return (
        find(columns.id, ID_COLUMNS, "id"),
        find(columns.sequence, SEQUENCE_COLUMNS, "sequence"),
        description,
    )


def _rows(batch: pa.RecordBatch, names: tuple[str, str, str | None], before: int) -> Iterator[Record | BadRow]:
    id_name, sequence_name, description_name = names
    ids = batch.column(id_name).cast(pa.string()).to_pylist()
    sequences = batch.column(sequence_name).cast(pa.string()).to_pylist()
    descriptions = batch.column(description_name).cast(pa.string()).to_pylist() if description_name else [""] * len(ids)
    for line, (id_, sequence, description) in enumerate(zip(ids, sequences, descriptions, strict=True), before + 1):
        if id_ is None or sequence is None:
            yield BadRow(line, id_, f"no value in column {(id_name if id_ is None else sequence_name)!r}")
        else:
            yield Record(line, id_.strip(), (description or "").strip(), sequence.strip())
