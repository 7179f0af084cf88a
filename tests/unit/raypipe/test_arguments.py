"""What an argument is: an atlas, a file, or a sequence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from index.store import Store
from raypipe.cli.arguments import (
    STDIN,
    is_atlas,
    literal_fasta,
    literal_sequence,
    name_stdin,
    named_files,
    read_queries,
    split_list,
)
from raypipe.errors import UsageError


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_files_and_sequences_in_order() -> None:
    Path("q.fa").write_text(">x y\nacgt\n>z\nGG\n")
    assert read_queries(["GGUC", "q.fa", "AC"]) == (["query_1", "x", "z", "query_2"], ["GGUC", "acgt", "GG", "AC"])


def test_an_existing_path_is_a_file_even_if_it_reads_like_rna() -> None:
    Path("ACGU").write_text(">x\nGG\n")
    assert read_queries(["ACGU"]) == (["x"], ["GG"])
    assert read_queries(["ACGG"]) == (["query_1"], ["ACGG"])


def test_a_sequence_may_be_longer_than_any_file_name() -> None:
    long = "ACGU" * 2000
    assert not is_atlas(long)
    assert read_queries([long]) == (["query_1"], [long])


def test_an_atlas_is_no_query() -> None:
    Store.open_or_create("atlas")
    assert is_atlas("atlas")
    assert not is_atlas(".")
    with pytest.raises(UsageError, match="atlas: is an atlas; name queries"):
        read_queries(["atlas"])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("tRNA.fa", "tRNA.fa: no such file, and no RNA sequence either"),
        ("no/such", "no such file"),
        ("MKVLA", "this looks like protein"),
        ("", "empty sequence"),
    ],
)
def test_neither_file_nor_rna(argument: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_queries([argument])
    assert words in str(caught.value)


def test_a_query_that_is_no_rna_is_named_by_file_line_and_id() -> None:
    Path("q.fa").write_text(">x\nAC\n\n>p q\nMKL\n")
    with pytest.raises(UsageError, match=r"q\.fa, line 4, p: letter 'L' at position 3"):
        read_queries(["q.fa"])
    Path("q.csv").write_text("id,sequence\nx,AC\ny\n")
    with pytest.raises(UsageError, match=r"q\.csv, line 3, no id: 1 columns where the header has 2"):
        read_queries(["q.csv"])


def test_literal_sequences_as_fasta() -> None:
    assert literal_fasta(["ac", "GU"]).read() == b">sequence_1\nac\n>sequence_2\nGU\n"
    with pytest.raises(UsageError, match="no such file"):
        literal_fasta(["AC", "x.fa"])
    assert literal_sequence(" AC\n") == "AC"


def test_standard_input_once() -> None:
    assert name_stdin(["a.fa", STDIN]) == ["a.fa", "-"]
    for twice in ([STDIN, STDIN], ["-", "ACGU", STDIN]):
        with pytest.raises(UsageError, match="standard input can be read once"):
            name_stdin(twice)


def test_table_names() -> None:
    assert named_files(["fam=a/b.tsv", "x y.tsv.gz"]) == {"fam": Path("a/b.tsv"), "x_y": Path("x y.tsv.gz")}
    assert named_files([os.path.join("a", "t.csv")]) == {"t": Path("a/t.csv")}
    with pytest.raises(UsageError, match="name annotation files, as NAME=FILE"):
        named_files([])
    with pytest.raises(UsageError, match=r"b/t\.tsv: two files for the table 't'; name them apart"):
        named_files(["a/t.tsv", "b/t.tsv"])


def test_lists() -> None:
    assert split_list(None) is None
    assert split_list(["a, b", "c,,"]) == ["a", "b", "c"]
