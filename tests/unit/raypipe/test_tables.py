"""CSV, TSV and Parquet: values as they stand, rows at their lines, and which column is missing."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.errors import InputError
from raypipe.sources import BadRow, Record, TableColumns, read_records


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list]:
    """Writes text, bytes or a table into a file of that name, and reads its records."""

    def write_and_read(data: Any, name: str = "in.csv", **columns: str) -> list:
        path = tmp_path / name
        if isinstance(data, dict):
            pq.write_table(pa.table(data), path)
        else:
            path.write_bytes(data.encode() if isinstance(data, str) else data)
        return list(read_records(str(path), TableColumns(**columns)))

    return write_and_read


def test_values_are_text_as_they_stand(read: Callable[..., list]) -> None:
    records = read("id,sequence,description\n007,ACGU,1.50\n1e5,GG,NA\nNULL,CC,true\n+1,UU,\n")
    assert [record[1:3] for record in records] == [("007", "1.50"), ("1e5", "NA"), ("NULL", "true"), ("+1", "")]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("id,sequence\na,AC\n", "in.csv"),
        ("id,sequence\r\na,AC\r\n", "in.csv"),
        ("\ufeffid,sequence\na,AC", "in.csv"),
        ("id;sequence\na;AC\n", "in.csv"),
        ("id\tsequence\na\tAC\n", "in.tsv"),
        ("id\tsequence\na\tAC\n", "in.tab"),
        ('"id"\t"sequence"\n"a"\t"AC"\n', "in.tsv"),
        ("Accession,foo,SEQ\na,x,AC\n", "in.csv"),
        (" id , sequence \n a , AC \n", "in.csv"),
        (gzip.compress(b"id,sequence\na,AC\n", mtime=0), "in.csv.gz"),
        ({"id": ["a"], "sequence": ["AC"]}, "in.parquet"),
        ({"id": ["a"], "sequence": ["AC"]}, "renamed.dat"),
        ({"id": ["a"], "seq": pa.array(["AC"]).dictionary_encode()}, "in.parquet"),
        ({"id": ["a"], "seq": pa.array(["AC"], pa.large_string())}, "in.pq"),
    ],
)
def test_usual_tables(read: Callable[..., list], data: Any, name: str) -> None:
    line = 1 if isinstance(data, dict) else 2
    assert read(data, name) == [Record(line, "a", "", "AC")]


def test_quotation_marks(read: Callable[..., list]) -> None:
    assert read('id,description,sequence\na,"x, ""y""",AC\n')[0].description == 'x, "y"'
    # In TSV they are characters, as in RNAcentral's files.
    assert read("id\tdescription\tsequence\na\t\"5' end\tAC\n", "in.tsv")[0].description == "\"5' end"


def test_lines_after_ragged_empty_and_wrapped_rows(read: Callable[..., list]) -> None:
    rows = read('id,sequence\na,AC\n\nb\nc,"GG\nUU"\nd,AC,x\n,AC\ne,\nf,GU\n')
    assert rows == [
        Record(2, "a", "", "AC"),
        BadRow(4, None, "1 columns where the header has 2"),
        Record(5, "c", "", "GG\nUU"),
        BadRow(7, None, "3 columns where the header has 2"),
        BadRow(8, None, "no value in column 'id'"),
        BadRow(9, "e", "no value in column 'sequence'"),
        Record(10, "f", "", "GU"),
    ]


def test_nulls_and_numbers_of_parquet(read: Callable[..., list]) -> None:
    table = {"id": ["007", None, "b"], "sequence": ["AC", "GU", None], "description": [None, "x", "y"]}
    assert read(table, "in.parquet") == [
        Record(1, "007", "", "AC"),
        BadRow(2, None, "no value in column 'id'"),
        BadRow(3, "b", "no value in column 'sequence'"),
    ]
    assert [record.id for record in read({"id": [7, 8], "seq": ["AC", "GU"]}, "in.parquet")] == ["7", "8"]


def test_rows_of_parquet_count_over_batches(read: Callable[..., list]) -> None:
    count = 20_000
    rows = read({"id": [str(number) for number in range(count)], "sequence": ["AC"] * count}, "in.parquet")
    assert [record.line for record in rows] == list(range(1, count + 1))


def test_latin1_in_a_table(read: Callable[..., list]) -> None:
    assert read(b"id,sequence,description\na,AC,caf\xe9\n")[0].description == "caf\u00e9"


def test_columns_by_name(read: Callable[..., list]) -> None:
    data = "foo\tbar\tid\tsequence\nx\tAC\ty\tGG\n"
    assert read(data, "in.tsv", id="foo", sequence="bar") == [Record(2, "x", "", "AC")]


@pytest.mark.parametrize(
    ("data", "name", "columns", "words"),
    [
        ("foo,sequence\n1,AC\n", "in.csv", {}, "no id column 'id' or 'name'; it has: foo, sequence"),
        ("foo,sequence\n1,AC\n", "in.csv", {}, "name it with --id-column"),
        ("id,foo\n1,AC\n", "in.csv", {}, "no sequence column 'sequence' or 'seq'; it has: id, foo"),
        ("id,sequence\n1,AC\n", "in.csv", {"sequence": "rna"}, "no sequence column 'rna'; it has: id, sequence"),
        ("id,sequence,id\n1,AC,2\n", "in.csv", {}, "2 columns are called 'id'; rename all but one"),
        ('id,sequence\n1,AC\n2,"AC\n3,GU\n', "in.csv", {}, "line 3: broken table"),
        ('id,sequence\n1,AC\n2,"AC\n3,GU\n', "in.csv", {}, "quotation mark without its partner"),
        ('id,sequence\n1,"A"C\n', "in.csv", {}, "line 2: broken table"),
        ("", "in.csv", {}, "empty"),
        ({"id": [1], "seqs": ["AC"]}, "in.parquet", {}, "no sequence column 'sequence' or 'seq'; it has: id, seqs"),
        ({"id": [1], "seq": [["AC"]]}, "in.parquet", {}, "column 'seq' holds list<element: string>, not text"),
        ({"id": [1], "seq": [b"\xff"]}, "in.parquet", {}, "column 'seq' holds binary, not text"),
        (">a\nAC\n", "in.parquet", {}, "damaged or no Parquet file"),
        ("", "in.parquet", {}, "damaged or no Parquet file"),
    ],
)
def test_what_keeps_a_table_from_being_read(
    read: Callable[..., list], data: Any, name: str, columns: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(data, name, **columns)
    assert name in str(caught.value)
    assert words in str(caught.value)


def test_a_cut_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": ["a"], "sequence": ["AC"]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged or no Parquet file"):
        list(read_records(str(path)))


def test_parquet_needs_a_file(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": ["a"], "sequence": ["AC"]}), path)
    with (
        path.open("rb") as stream,
        pytest.raises(InputError, match="standard input: Parquet cannot be read from a pipe"),
    ):
        list(read_records("-", stream=stream))
