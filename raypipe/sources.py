"""Read sequence records from files, one at a time, each with the line where it stands.

FASTA and FASTQ are parsed by dnaio; compression is undone in `raypipe/unpacking.py`, tables are read in
`raypipe/tables.py`. Nothing is held whole in memory. What a record may hold is decided in `raypipe/cleaning.py`.
"""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, NamedTuple, cast

from dnaio.exceptions import FileFormatError
from dnaio.readers import FastaReader, FastqReader

from raypipe.batches import Batch, in_batches
from raypipe.errors import InputError
from raypipe.fasta_blocks import clean_blocks, read_blocks
from raypipe.records import BadRow, Record, TableColumns
from raypipe.tables import read_delimited, read_parquet, table_kind
from raypipe.unpacking import BUFFER, open_unpacked, shown

__all__ = ["BadRow", "Record", "TableColumns", "read_batches", "read_records"]

FORMATS_HINT = (
    "give FASTA or FASTQ (plain, .gz, .xz, .zst, .bz2), or a table with id and sequence columns whose name ends in "
    ".csv, .tsv or .parquet"
)
PARQUET = b"PAR1"
BOM = b"\xef\xbb\xbf"

# What people give by mistake: how it begins, what it is, what to do.
FOREIGN = (
    (b"PK\x03\x04", "a zip archive or an Office document", "unpack it, or save it as plain text in FASTA form"),
    (b"\xd0\xcf\x11\xe0", "an Office document", "save it as plain text in FASTA form"),
    (b"{\\rtf", "formatted text", "save it as plain text in FASTA form"),
    (b"%PDF", "a PDF document", "get its sequences as plain text in FASTA form"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
    (b"LOCUS ", "a GenBank file", "export its sequences as FASTA"),
    (b"ID   ", "an EMBL file", "export its sequences as FASTA"),
    (b"# STOCKHOLM", "a Stockholm alignment", "convert it with: esl-reformat fasta FILE"),
    (b"CLUSTAL", "a Clustal alignment", "convert it with: esl-reformat fasta FILE"),
    (b"BAM\x01", "a BAM file", "convert it with: samtools fasta FILE"),
)


def read_records(
    path: str, columns: TableColumns | None = None, stream: BinaryIO | None = None
) -> Iterator[Record | BadRow]:
    """Read the records of one input.

    Args:
        path: a file, or "-" for standard input.
        columns: names of the id and sequence columns of a table.
        stream: what to read in place of opening `path`; it is left open.

    Raises:
        InputError: the file is missing, empty, damaged or of no known format.
    """
    with _opened(path, stream) as (kind, file):
        yield from _records(path, kind, file, columns)


def read_batches(path: str, columns: TableColumns | None = None, stream: BinaryIO | None = None) -> Iterator[Batch]:
    """The same records, cleaned and judged, in batches; for FASTA many times faster than one by one.

    Args, Raises: as `read_records`.
    """
    with _opened(path, stream) as (kind, file):
        if kind == "fasta":
            yield from clean_blocks(read_blocks(file), partial(_read_fasta, shown(path)))
        else:
            yield from in_batches(_records(path, kind, file, columns))


@contextmanager
def _opened(path: str, stream: BinaryIO | None) -> Iterator[tuple[str, io.BufferedReader]]:
    """The kind of an input ("fasta", "fastq", "csv", "tsv" or "parquet"), and its content unpacked, a BOM left out."""
    if path == "-" and stream is None:
        stream = sys.stdin.buffer
    with open_unpacked(path, stream) as file:
        start = file.peek(BUFFER)
        if start.startswith(PARQUET) or table_kind(path) == "parquet":
            if stream is not None:
                raise InputError(f"{shown(path)}: Parquet cannot be read from a pipe; name the file itself")
            yield "parquet", file
            return
        kind = _sniff(path, start)
        if start.startswith(BOM):
            file.read(len(BOM))
        yield kind, file


def _records(path: str, kind: str, file: io.BufferedReader, columns: TableColumns | None) -> Iterator[Record | BadRow]:
    columns, name = columns or TableColumns(), shown(path)
    if kind == "fasta":
        yield from _read_fasta(name, file)
    elif kind == "fastq":
        yield from _read_fastq(name, file)
    elif kind == "parquet":
        yield from read_parquet(path, columns)
    else:
        yield from read_delimited(name, iter(_Lines(file, 1)), kind, columns)


def _sniff(path: str, start: bytes) -> str:
    """ "fasta", "fastq", "csv" or "tsv", from the first bytes and the file's name."""
    name = shown(path)
    start = start.removeprefix(BOM)
    if not start.strip():
        raise InputError(f"{name}: empty, there are no sequences to read")
    for magic, what, remedy in FOREIGN:
        if start.startswith(magic):
            raise InputError(f"{name}: is {what}, no sequence file; {remedy}")
    if start[257:262] == b"ustar":
        raise InputError(f"{name}: is a tar archive, no sequence file; unpack it with: tar -xf FILE")
    by_name = table_kind(path)
    marked = start.lstrip().startswith((b">", b"@", b"#"))
    binary = b"\0" in start
    if binary and not marked:  # else it is for the one record to be refused
        raise InputError(f"{name}: is binary, no sequence file; {FORMATS_HINT}")
    # In what is no text the one byte is as common as the other.
    text = not binary and (marked or by_name is not None)
    if text and start.rstrip(b"\r").replace(b"\r\n", b"").count(b"\r") > start.count(b"\n"):
        raise InputError(f"{name}: old Macintosh line ends; convert it with: tr '\\r' '\\n' < OLD > NEW")
    if by_name in {"csv", "tsv"}:
        return cast(str, by_name)
    for number, line in enumerate(start.splitlines(), 1):
        line = line.strip()
        if line.startswith((b">", b"@")):
            return "fasta" if line.startswith(b">") else "fastq"
        # dnaio passes over empty lines and those that start with "#", wherever they stand.
        if line and not line.startswith(b"#"):
            text = line[:40].decode("latin-1")
            raise InputError(f"{name}, line {number}: not FASTA or FASTQ (it reads {text!r}); {FORMATS_HINT}")
    raise InputError(f"{name}: no record in its first lines; {FORMATS_HINT}")


class _Lines:
    """Text lines of a binary file that remember where FASTA headers stand.

    What is not UTF-8 is read as Latin-1, as old databases wrote it.
    """

    def __init__(self, file: io.BufferedReader, first: int):
        self._file = file
        self._first = first
        self.closed = False
        self.headers: deque[int] = deque()

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self._file, self._first):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                text = line.decode("latin-1")
            # Files that were joined keep their byte order marks.
            text = text.removeprefix("\ufeff")
            if text.lstrip()[:1] == ">":
                self.headers.append(number)
            yield text


class _LinedFastaReader(FastaReader):
    """dnaio's FASTA parser over `_Lines`, so that a record knows its line and no byte stops the file."""

    def __init__(self, file: io.BufferedReader, first: int):
        super().__init__(cast(BinaryIO, io.BytesIO()), sequence_class=cast(Any, _Raw))
        self._file = cast(Any, _Lines(file, first))

    def __iter__(self) -> Iterator[Any]:
        headers = self._file.headers
        for raw in super().__iter__():
            yield headers.popleft(), raw


class _Raw(NamedTuple):
    """What dnaio hands over; its own record class refuses letters beyond ASCII, where we reject the one record."""

    name: str
    sequence: str
    qualities: str | None


def _read_fasta(name: str, file: io.BufferedReader, first: int = 1) -> Iterator[Record]:
    """Records of FASTA that begins with the line `first` of its file."""
    try:
        for line, raw in _LinedFastaReader(file, first):
            yield _record(line, raw.name, raw.sequence)
    except FileFormatError as error:
        raise InputError(f"{name}: broken FASTA ({error})") from error


class _Ascii(io.RawIOBase):
    """FASTQ text; what is not ASCII is refused with its line, which dnaio does not tell."""

    def __init__(self, name: str, file: io.BufferedReader):
        self._name = name
        self._file = file
        self._lines = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        if not data.isascii():
            place = next(place for place, letter in enumerate(data) if letter > 127)
            line = self._lines + data.count(b"\n", 0, place) + 1
            raise InputError(
                f"{self._name}, line {line}: a letter beyond ASCII, which FASTQ does not hold; mend the line, or the "
                f"whole file with: iconv -f latin1 -t ascii//TRANSLIT OLD > NEW"
            )
        self._lines += data.count(b"\n")
        buffer[: len(data)] = data
        return len(data)


def _read_fastq(name: str, file: io.BufferedReader) -> Iterator[Record]:
    """FASTQ of four lines a record, as dnaio takes it, so that the line follows from the record's number."""
    number = 0
    try:
        for number, raw in enumerate(FastqReader(cast(BinaryIO, _Ascii(name, file))), 1):
            yield _record(4 * number - 3, raw.name, raw.sequence)
    except (FileFormatError, ValueError) as error:
        raise InputError(
            f"{name}, after record {number}: broken FASTQ ({error}); mend or cut the file there"
        ) from error


def _record(line: int, header: str, sequence: str) -> Record:
    """The id is the header's first word; a blank after ">" is passed over."""
    words = header.split(maxsplit=1)
    return Record(line, words[0] if words else "", words[1].strip() if len(words) > 1 else "", sequence)
