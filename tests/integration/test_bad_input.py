"""Bad input at the command line: every kind ends with its exit code and a message that says what to do.

The parsers' own corner cases stand in tests/unit/raypipe; here is what the person at the terminal gets.
"""

from __future__ import annotations

import gzip
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.store import Store
from raypipe.atlas import Atlas
from raypipe.cli import DONE, FAILED, USAGE

Cli = Callable[..., Any]
INLINE = ("--executor", "inline")
GOOD = ">a one\nGGUC\n>b\nACGUU\n"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, data: str | bytes) -> str:
    Path(name).write_bytes(data.encode() if isinstance(data, str) else data)
    return name


def parquet(columns: dict[str, list[Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def rows(atlas: str, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in Atlas(atlas).sql(query).to_pylist()]


PACKED = gzip.compress("".join(f">r{n}\n{'ACGU'[n % 4] * (n % 50 + 1)}\n" for n in range(500)).encode())

REFUSED = {
    "empty": ("x.fa", b"", "x.fa: empty, there are no sequences to read"),
    "blank": ("x.fa", b"\n \n", "x.fa: empty"),
    "empty gz": ("x.fa.gz", gzip.compress(b""), "x.fa.gz: empty"),
    "PNG": ("x.fa", b"\x89PNG\r\n\x1a\n\0\0", "x.fa: is binary, no sequence file; give FASTA or FASTQ"),
    "binary table": ("x.csv", b"\x91\r\x07\r\0", "x.csv: is binary, no sequence file"),
    "GenBank": ("x.gb", b"LOCUS       NC_000913  10 bp\n", "x.gb: is a GenBank file, no sequence file; export"),
    "Word": ("x.docx", b"PK\x03\x04\x14\0\6\0", "x.docx: is a zip archive or an Office document"),
    "bare": ("x.txt", b"ACGUACGU\n", "give FASTA or FASTQ (plain, .gz, .xz, .zst, .bz2)"),
    "protein": ("x.fa", b">p\nMKVLAAGE\n", "none of its 1 records can be used; line 1, p: letter 'L' at position 4"),
    "digits": ("x.fa", b">p\n1 ACGU 5\n", "line 1, p: digit '1' at position 1; remove numbering"),
    "spaces": ("x.fa", b">p\nAC GU\n", "line 1, p: blank inside the sequence at position 3; remove blanks"),
    "empty records": ("x.fa", b">p\n>q\n", "none of its 2 records can be used; line 1, p: empty sequence"),
    "no ids": ("x.fa", b">\nACGU\n", "line 1, no id: no id in its header; give every record a name"),
    "Macintosh": ("x.fa", b">a\rACGU\r", "x.fa: old Macintosh line ends; convert it with: tr"),
    "UTF-16": ("x.fa", GOOD.encode("utf-16"), "x.fa: is text in UTF-16, no sequence file; save it as UTF-8"),
    "cut gz": ("x.fa.gz", PACKED[: len(PACKED) // 2], "x.fa.gz: damaged or cut short"),
    "broken gz": ("x.fa.gz", PACKED[:30] + b"\x55" * 60 + PACKED[90:], "copy or download it again"),
    "cut FASTQ": ("x.fq", b"@a\nAC\n+\nII\n@b\nAC\n", "x.fq, after record 1: broken FASTQ"),
    "latin-1 FASTQ": ("x.fq", b"@a\xe9\nAC\n+\nII\n", "x.fq, line 1: a letter beyond ASCII"),
    "no id column": ("x.csv", b"foo,seq\n1,AC\n", "no id column 'id' or 'name'; it has: foo, seq; name it with --id"),
    "no sequence column": ("x.tsv", b"id\tfoo\n1\tAC\n", "no sequence column 'sequence' or 'seq'; it has: id, foo"),
    "header only": ("x.csv", b"id,seq\n", "x.csv: holds no records"),
    "open quote": ("x.csv", b'id,seq\n1,"AC\n2,GU\n', "x.csv, line 2: broken table"),
    "no Parquet": ("x.parquet", b">a\nAC\n", "x.parquet: damaged or no Parquet file"),
    "lists": ("x.parquet", parquet({"id": ["a"], "seq": [["AC"]]}), "column 'seq' holds list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_refused(cli: Cli, case: str) -> None:
    name, data, words = REFUSED[case]
    ran = cli("ingest", write(name, data), "-o", "atlas")
    assert (ran.code, ran.out) == (FAILED, "")
    assert words in ran.err
    assert ran.err.startswith(f"raypipe: {name}")
    assert not Path("atlas").exists()


def test_refused_input_leaves_what_was_there(cli: Cli) -> None:
    """An atlas that was made for nothing goes again, and nothing else."""
    write("x.fa", "")
    Path("own").mkdir()
    Path("own/.note").write_text("mine")
    for verb in ("ingest", "embed"):
        assert cli(verb, "x.fa", "-o", "own").code == FAILED
        assert [path.name for path in Path("own").iterdir()] == [".note"]
    Store.open_or_create("empty")
    assert cli("ingest", "x.fa", "-o", "empty").code == FAILED
    assert Store.open("empty").sources == []
    assert cli("ingest", "x.fa", write("y.fa", GOOD), "-o", "own").code == FAILED
    assert len(Store.open("own").sources) == 1
    assert cli("ingest", "x.fa", "-o", "own").code == FAILED
    assert len(Store.open("own").sources) == 1


@pytest.mark.parametrize(("name", "words"), [("gone.fa", "gone.fa: no such file"), (".", ".: is a folder; name the")])
def test_a_name_that_is_no_file(cli: Cli, name: str, words: str) -> None:
    """Said before the first input is read: nothing is made."""
    for verb in ("ingest", "embed"):
        ran = cli(verb, write("good.fa", GOOD), name, "-o", "atlas")
        assert ran.code == FAILED
        assert words in ran.err
        assert not Path("atlas").exists()


@pytest.mark.parametrize("first", ["gone.fa", "good.fa"])
def test_embedding_what_is_no_atlas_asks_for_one(cli: Cli, first: str) -> None:
    write("good.fa", GOOD)
    ran = cli("embed", first)
    assert ran.code == USAGE
    assert f"{first}: is no atlas; to ingest it first, name the atlas to make: -o ATLAS" in ran.err


ACCEPTED = {
    "CRLF": ("x.fa", GOOD.replace("\n", "\r\n").encode()),
    "no final newline": ("x.fa", GOOD.rstrip().encode()),
    "trailing blanks": ("x.fa", GOOD.replace("\n", "  \n").encode()),
    "blank after >": ("x.fa", GOOD.replace(">", "> ").encode()),
    "byte order mark": ("x.fa", b"\xef\xbb\xbf" + GOOD.encode()),
    "lower case DNA": ("x.fa", b">a one\nggtc\n>b\nacGtT\n"),
    "plain text called .gz": ("x.fa.gz", GOOD.encode()),
    "gzip called .fa": ("x.fa", gzip.compress(GOOD.encode())),
    "members": ("x.fa.gz", gzip.compress(b">a one\nGG") + gzip.compress(b"UC\n>b\nACGUU\n")),
    "FASTQ": ("x.fq", b"@a one\nGGUC\n+\nIIII\n@b\nACGUU\n+\nIIIII"),
    "CSV": ("x.csv", b"\xef\xbb\xbfid,description,sequence\r\na,one,GGUC\r\nb,,ACGUU\r\n"),
    "semicolons": ("x.csv", b"id;description;sequence\na;one;GGUC\nb;;ACGUU\n"),
    "TSV": ("x.tsv", b"id\tdescription\tsequence\na\tone\tGGUC\nb\t\tACGUU"),
    "Parquet": ("x.parquet", parquet({"id": ["a", "b"], "seq": ["GGUC", "ACGUU"], "description": ["one", None]})),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_the_same_records_in_all_their_clothes(cli: Cli, case: str) -> None:
    name, data = ACCEPTED[case]
    ran = cli("ingest", write(name, data), "-o", "atlas")
    assert (ran.code, ran.err) == (DONE, f"{name}: 2 records, 2 new distinct sequences")
    query = "SELECT id, description, sequence FROM records JOIN sequences USING (seq_id) ORDER BY ordinal"
    assert rows("atlas", query) == [("a", "one", "GGUC"), ("b", "", "ACGUU")]


def test_what_is_odd_but_legal_is_kept(cli: Cli) -> None:
    data = b">dup one\nAC\n>dup two\nGGU\n>gb|X1|\tx  y\nNRYSWKMBDHVXI\n>007 caf\xe9\ntUuT\n"
    assert cli("ingest", write("x.fa", data), "-o", "atlas").code == DONE
    query = "SELECT id, description, sequence FROM records JOIN sequences USING (seq_id) ORDER BY ordinal"
    assert rows("atlas", query) == [
        ("dup", "one", "AC"),
        ("dup", "two", "GGU"),
        ("gb|X1|", "x  y", "NRYSWKMBDHVXI"),
        ("007", "caf\u00e9", "UUUU"),
    ]


def test_rejects_are_counted_named_and_can_be_asked_for(cli: Cli) -> None:
    data = b">a\nAC\n\n# note\n>p x\nMKL\n>n\n1 AC\n>s\nA C\n>e\n>l\nA\xe9\n>a\nGU"
    ran = cli("ingest", write("x.fa", data), "-o", "atlas")
    assert ran.code == DONE
    assert "x.fa: 2 records, 2 new distinct sequences; 5 rejected, see rejects/" in ran.err
    assert "(the first: line 5, p: letter 'L' at position 3 is no nucleotide; this looks like protein)" in ran.err
    found = rows("atlas", "SELECT source, line, id, seq_id, split_part(reason, ';', 1) FROM rejects ORDER BY line")
    assert found == [
        ("x.fa", 5, "p", None, "letter 'L' at position 3 is no nucleotide"),
        ("x.fa", 7, "n", None, "digit '1' at position 1"),
        ("x.fa", 9, "s", None, "blank inside the sequence at position 2"),
        ("x.fa", 11, "e", None, "empty sequence"),
        ("x.fa", 12, "l", None, "character '\u00e9' at position 2 is no nucleotide code"),
    ]
    assert "records 2 (5 rejected) from 1 sources" in " ".join(cli("info", "atlas").out.split())


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("x.fq", b"@a\nAC\n+\nII\n@p\nMKL\n+\nIII\n", 5),
        ("x.csv", b'id,seq,description\na,AC,"two\nlines"\n\np,MKL,\n', 5),
        ("x.parquet", parquet({"id": ["a", "p"], "seq": ["AC", "MKL"]}), 2),
    ],
)
def test_rejects_know_the_line_in_every_format(cli: Cli, name: str, data: bytes, line: int) -> None:
    assert cli("ingest", write(name, data), "-o", "atlas").code == DONE
    assert rows("atlas", "SELECT source, line, id FROM rejects") == [(name, line, "p")]


def test_table_rows_that_are_no_records(cli: Cli) -> None:
    data = 'id,sequence,description\n007,AC,"a, b"\nragged\n,GU,x\n8,,x\n'
    assert cli("ingest", write("x.csv", data), "-o", "atlas").code == DONE
    assert rows("atlas", "SELECT id, description FROM records") == [("007", "a, b")]
    assert rows("atlas", "SELECT line, id, reason FROM rejects ORDER BY line") == [
        (3, None, "1 columns where the header has 3"),
        (4, None, "no value in column 'id'"),
        (5, "8", "no value in column 'sequence'"),
    ]


def test_columns_can_be_named(cli: Cli) -> None:
    write("x.csv", "gene,letters\nx1,AC\n")
    ran = cli("ingest", "x.csv", "-o", "atlas", "--id-column", "genes", "--sequence-column", "letters")
    assert ran.code == FAILED
    assert "no id column 'genes'; it has: gene, letters" in ran.err
    assert cli("ingest", "x.csv", "-o", "atlas", "--id-column", "gene", "--sequence-column", "letters").code == DONE
    assert rows("atlas", "SELECT id FROM records") == [("x1",)]


def test_the_same_source_again_is_a_no_op(cli: Cli) -> None:
    write("x.fa", GOOD)
    assert cli("ingest", "x.fa", "-o", "atlas").code == DONE
    ran = cli("ingest", "x.fa", "-o", "atlas")
    assert (ran.code, ran.err) == (DONE, "x.fa: ingested before, nothing to do (2 records)")


def test_a_changed_source_is_refused_unless_accepted(cli: Cli) -> None:
    cli("ingest", write("x.fa", GOOD), "-o", "atlas")
    write("x.fa", GOOD + ">c\nAAAA\n")
    ran = cli("ingest", "x.fa", "-o", "atlas")
    assert ran.code == FAILED
    assert "x.fa: has changed since it was ingested" in ran.err
    assert "--accept-changed" in ran.err
    ran = cli("ingest", "x.fa", "-o", "atlas", "--accept-changed")
    assert (ran.code, ran.err) == (DONE, "x.fa: 3 records, 1 new distinct sequences")
    assert rows("atlas", "SELECT count(*) FROM sequences") == [(3,)]


def test_an_input_that_fails_does_not_keep_out_the_others(cli: Cli) -> None:
    inputs = [write("x.fa", GOOD), write("y.fa", ">p\nMKL\n"), write("z.fa", ">z\nGGG\n")]
    ran = cli("ingest", *inputs, "-o", "atlas")
    assert ran.code == FAILED
    assert "y.fa: none of its 1 records can be used" in ran.err
    assert "(1 of 3 inputs; the others are ingested)" in ran.err
    assert [source.path for source in Store.open("atlas").sources] == ["x.fa", "z.fa"]


@pytest.mark.parametrize("policy", ["window", "truncate", "reject"])
def test_a_sequence_of_30000_nt(cli: Cli, tiny: Path, policy: str) -> None:
    """It has no silent end: the policy is named in the atlas, holds for queries, and a refusal stands in rejects/."""
    from model import load

    long = "".join(np.random.default_rng(0).choice(list("ACGU"), 30_000))
    write("x.fa", f">long\n{long}\n>short\nACGU\n")
    ran = cli("embed", "x.fa", "-o", "atlas", "--model", tiny, *INLINE, "--on-long", policy)
    assert ran.code == DONE
    failed = 1 if policy == "reject" else 0
    assert f"2 distinct sequences = {2 - failed} embedded + {failed} failed" in ran.err
    assert cli("index", "atlas").code == DONE
    stored = dict(rows("atlas", "SELECT length, embedding FROM embeddings JOIN sequences USING (seq_id)"))
    if policy == "reject":
        assert set(stored) == {4}
        assert rows("atlas", "SELECT source, id, seq_id, reason FROM rejects") == [
            ("embeddings/tiny", None, 1, "30000 nt, longer than the model's 1022; see --on-long")
        ]
        query = cli("search", "atlas", write("q.fa", f">long\n{long}\n"))
        assert query.code == USAGE
        assert "a query has 30000 nt; the vectors 'tiny' were made with --on-long reject" in query.err
        return
    (expected,) = load(tiny).embed([long], long="truncate" if policy == "truncate" else "window")
    assert np.allclose(stored[30_000], expected, atol=2e-3)
    hits = cli("search", "atlas", write("q.fa", f">long\n{long}\n"), "-k", "1", "--columns", "id,score")
    assert hits.out == "id\tscore\nlong\t1.000000\n"


PYTHON = shlex.quote(sys.executable)
STANDARD_INPUT = {
    "plain": f"cat x.fa | {PYTHON} -m raypipe ingest - -o atlas",
    "gzip": f"gzip -c x.fa | {PYTHON} -m raypipe ingest - -o atlas",
    "substitution": f"{PYTHON} -m raypipe ingest <(gzip -c x.fa) -o atlas",
}


@pytest.mark.parametrize("case", STANDARD_INPUT)
def test_pipes(root: Path, case: str) -> None:
    write("x.fa", GOOD)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    ran = subprocess.run(
        ["bash", "-c", STANDARD_INPUT[case]], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == DONE, ran.stderr
    assert ran.stderr.endswith(": 2 records, 2 new distinct sequences\n")
    assert rows("atlas", "SELECT id FROM records ORDER BY ordinal") == [("a",), ("b",)]


def test_an_empty_standard_input(root: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "raypipe", "ingest", "-", "-o", "atlas"],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == FAILED
    assert ran.stderr == "raypipe: standard input: empty, there are no sequences to read\n"


def test_sequences_of_the_command_line_may_be_longer_than_a_file_name(cli: Cli) -> None:
    ran = cli("ingest", "ACGU" * 500, "GG", "-o", "atlas")
    assert (ran.code, ran.err) == (DONE, "sequences of the command line: 2 records, 2 new distinct sequences")
    assert rows("atlas", "SELECT length FROM sequences ORDER BY 1") == [(2,), (2000,)]


@pytest.mark.parametrize("verb", ["ingest", "embed"])
@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("x.fa", "x.fa: is a file, so no atlas can be written there; name a folder with -o"),
        ("x.fa/atlas", "cannot write there (Not a directory); choose another folder with -o"),
        (".", "not an atlas, and not empty (holds x.fa); name a new folder with -o"),
        ("/proc/atlas", "/proc/atlas: cannot write there"),
    ],
)
def test_an_output_that_cannot_be_written(cli: Cli, tiny: Path, verb: str, output: str, words: str) -> None:
    options = ("--model", tiny, *INLINE) if verb == "embed" else ()
    ran = cli(verb, write("x.fa", GOOD), "-o", output, *options)
    assert ran.code == FAILED
    assert words in ran.err
    assert Path("x.fa").read_text() == GOOD
