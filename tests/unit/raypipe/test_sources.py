"""FASTA and FASTQ as they come in the wild, and what is neither."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from raypipe.errors import InputError
from raypipe.sources import Record, read_records

FASTA = b">a one two\nACGU\nGG\n\n>b\nUU\n"
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list]:
    """Writes bytes into a file of that name, and reads its records."""

    def write_and_read(data: bytes, name: str = "in.fa") -> list:
        path = tmp_path / name
        path.write_bytes(data)
        return list(read_records(str(path)))

    return write_and_read


@pytest.mark.parametrize(
    "data",
    [
        FASTA,
        FASTA.rstrip(b"\n"),
        FASTA.replace(b"\n", b"\r\n"),
        FASTA.replace(b"\n", b" \t\n"),
        BOM + FASTA,
        FASTA.replace(b">", b"> "),
        FASTA.replace(b">", b" >"),
        FASTA.replace(b"one two", b"\tone two   "),
    ],
    ids=["plain", "no final newline", "CRLF", "trailing blanks", "BOM", "> blank", "blank >", "tab"],
)
def test_fasta_in_all_its_clothes(read: Callable[..., list], data: bytes) -> None:
    assert read(data) == [Record(1, "a", "one two", "ACGUGG"), Record(5, "b", "", "UU")]


def test_lines_count_comments_and_empty_lines(read: Callable[..., list]) -> None:
    records = read(b"\n# a comment\n\n>a\nAC\n\n# in between\nGU\n\n>b\n>c\nA")
    assert records == [Record(4, "a", "", "ACGU"), Record(10, "b", "", ""), Record(11, "c", "", "A")]


def test_bars_and_tabs_in_headers(read: Callable[..., list]) -> None:
    assert read(b">gb|X1.2|v\tE. coli\tx y\nAC\n")[0][:3] == (1, "gb|X1.2|v", "E. coli\tx y")


def test_duplicate_ids_are_kept(read: Callable[..., list]) -> None:
    assert [record.sequence for record in read(b">a\nAC\n>a\nGU\n")] == ["AC", "GU"]


def test_blanks_inside_a_line_stay_for_the_cleaning_to_refuse(read: Callable[..., list]) -> None:
    assert read(b">a\n1 AC GU\n")[0].sequence == "1 AC GU"


def test_latin1_is_read_line_by_line(read: Callable[..., list]) -> None:
    records = read("\u2192".encode().join([b">a ", b"\nAC\n"]) + b">b caf\xe9\nA\xe9\n")
    assert [(record.description, record.sequence) for record in records] == [("\u2192", "AC"), ("caf\u00e9", "A\u00e9")]


@pytest.mark.parametrize("blank", [b"\xa0", b"\x85", b"\x1c", b"\x0b"])
def test_odd_blanks_before_a_header_do_not_upset_the_lines(read: Callable[..., list], blank: bytes) -> None:
    assert [record[:2] for record in read(b">a\nAC\n" + blank + b">b\nGU\n>c\nA\n")] == [(1, "a"), (3, "b"), (5, "c")]


def test_byte_order_marks_of_joined_files(read: Callable[..., list]) -> None:
    assert [record[:2] for record in read(BOM + b">a\nAC\n" + BOM + b">b\nGU\n")] == [(1, "a"), (3, "b")]


FASTQ = b"@a one\nACGU\n+\nIIII\n@b\nGG\n+b\nI>"


@pytest.mark.parametrize("data", [FASTQ, FASTQ + b"\n", FASTQ.replace(b"\n", b"\r\n"), BOM + FASTQ])
def test_fastq(read: Callable[..., list], data: bytes) -> None:
    assert read(data) == [Record(1, "a", "one", "ACGU"), Record(5, "b", "", "GG")]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"@a\nAC\n+\nII\n@b\nGG\n+\nI\n", ["after record 1", "line 8", "Length of sequence and qualities differ"]),
        (b"@a\nAC\n+\nII\n@b\nGG\n", ["after record 1", "Premature end of file"]),
        (b"@a\nAC\nGG\n+\nIIII\n", ["after record 0", "line 3"]),
        (b"@a\nAC\n+\nII\n@b caf\xe9\nGG\n+\nII\n", ["line 5", "beyond ASCII", "iconv"]),
    ],
    ids=["qualities", "cut", "wrapped", "latin-1"],
)
def test_broken_fastq_says_where(read: Callable[..., list], data: bytes, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read(data, "reads.fq")
    assert all(word in str(caught.value) for word in ["reads.fq", *words])


def _tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("x.fa")
        member.size = len(FASTA)
        archive.addfile(member, io.BytesIO(FASTA))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty, there are no sequences"),
        (b" \n\r\n\t\n", "empty, there are no sequences"),
        (BOM, "empty, there are no sequences"),
        (b"# only\n# comments\n", "no record in its first lines"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is binary, no sequence file; give FASTA or FASTQ"),
        (b"\x91\r\x07\r\0\xfe", "is binary, no sequence file"),
        (b"\x91\r\x07\r\xfe", "line 1: not FASTA or FASTQ"),
        (b"\nhello >a\nACGU\n", "line 2: not FASTA or FASTQ (it reads 'hello >a')"),
        (b"ACGUACGU\n", "not FASTA or FASTQ (it reads 'ACGUACGU')"),
        (b"LOCUS       NC_1  100 bp\nORIGIN\n", "GenBank file, no sequence file; export its sequences as FASTA"),
        (b"ID   X56734; SV 1; linear\n", "EMBL"),
        (b"# STOCKHOLM 1.0\n\nx AC\n//\n", "Stockholm alignment"),
        (b"CLUSTAL W\n", "Clustal alignment"),
        (b"PK\x03\x04\x14\0\x06\0word/document.xml", "zip archive or an Office document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "Office document"),
        (b"{\\rtf1\\ansi >a ACGU}", "save it as plain text"),
        (b"%PDF-1.7\n", "PDF"),
        (FASTA.decode().encode("utf-16"), "UTF-16, no sequence file; save it as UTF-8"),
        (_tar(), "tar archive"),
        (FASTA.replace(b"\n", b"\r"), "old Macintosh line ends; convert it with: tr"),
        (FASTA.replace(b"\n", b"\r") + b"\n", "old Macintosh line ends"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_what_is_no_sequence_file_is_called_by_its_name(read: Callable[..., list], data: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read(data)
    assert "in.fa" in str(caught.value)
    assert words in str(caught.value)


def test_the_hint_lists_what_can_be_read(read: Callable[..., list]) -> None:
    with pytest.raises(InputError, match=r"give FASTA or FASTQ .*\.gz.*\.csv, \.tsv or \.parquet"):
        read(b"hello\n")


def test_standard_input_is_called_so() -> None:
    with pytest.raises(InputError, match="standard input: empty"):
        list(read_records("-", stream=io.BytesIO(b"")))
    assert list(read_records("-", stream=io.BytesIO(b">a\nAC\n"))) == [Record(1, "a", "", "AC")]
