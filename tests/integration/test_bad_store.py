"""An atlas that is damaged, stale, locked or of another model: exit code and message for each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from index.store import Store
from raypipe.cli import DONE, FAILED, INCOMPLETE, USAGE
from tests.made import index_file

Cli = Callable[..., Any]
INLINE = ("--executor", "inline")
MORE = ">new\nGGGGGGGGGGGG\n>again\nGGGCCCAAAUUU\n"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def grow(cli: Cli, atlas: Path) -> None:
    Path("more.fa").write_text(MORE)
    assert cli("ingest", "more.fa", "-o", atlas).code == DONE


# Questions


def test_a_finished_atlas_answers(cli: Cli, finished: Path) -> None:
    ran = cli("search", finished, "GGGCCCAAAUUU", "-k", "1")
    assert ran.code == DONE
    assert ran.out == (
        "query\trank\tid\tscore\tlength\tdescription\tfamily\tfamilies_rank\n"
        "query_1\t1\ts1\t1.000000\t12\ta small one\tother\t3\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["GGUC", "-k", "0"], USAGE, "k is 0; ask for at least one hit"),
        (["GGUC", "-k", "-3"], USAGE, "k is -3; ask for at least one hit"),
        (["GGUC", "-k", "ten"], USAGE, 'unable to convert "ten" into int'),
        (["--ids", "nobody"], FAILED, "no record with id nobody"),
        (["--ids", "t1"], FAILED, "id 't1' is carried by records of 2 different sequences"),
        (["GGUC", "--columns", "id,famly"], FAILED, "no column 'famly'; there are: query, rank, id"),
        (["GGUC", "--columns", "id,id"], FAILED, "a column is asked for twice"),
        (["GGUC", "--where", "famly = 'x'"], FAILED, "no column 'famly'; there are: sequences: seq_id"),
        (["GGUC", "--where", "family ="], FAILED, "where 'family =': not an SQL condition"),
        (["GGUC", "--where", "family = tRNA"], FAILED, "Text values stand in single quotes"),
        (["GGUC", "--where", ""], FAILED, "where is empty: give a condition"),
        (["GGUC", "--format", "xml"], USAGE, '"tsv", "csv"'),
        (["GGUC", "--bogus"], USAGE, "Unknown option: --bogus"),
        (["GGUC", "--ids", "s1"], USAGE, "name queries (sequences or FASTA files) or --ids, one of the two"),
        ([], USAGE, "name queries (sequences or FASTA files) or --ids, one of the two"),
        (["MKVL"], USAGE, "MKVL: no such file, and no RNA sequence either (letter 'L' at position 4"),
        (["tRNA.fa"], USAGE, "tRNA.fa: no such file"),
        (["GGUC", "-o", "no/such/x.tsv"], FAILED, "no/such/x.tsv: cannot be written"),
        (["GGUC", "-o", "."], FAILED, ".: cannot be written"),
    ],
)
def test_a_question_that_cannot_be_answered(
    cli: Cli, finished: Path, arguments: list[str], code: int, words: str
) -> None:
    ran = cli("search", finished, *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT * FROM nothing", "Table with name nothing does not exist; there are: sequences, records, rejects"),
        ("SELEC 1", "syntax error"),
        ("SELECT famly FROM families", 'column "famly" not found'),
        ("DROP TABLE records", "DROP is refused, the store is read-only"),
        ("SELECT 1; SELECT 2", "2 SQL statements: give one SELECT"),
    ],
)
def test_sql_that_cannot_be_answered(cli: Cli, finished: Path, query: str, words: str) -> None:
    ran = cli("sql", finished, query)
    assert (ran.code, ran.out) == (FAILED, "")
    assert words.lower() in ran.err.lower()


@pytest.mark.parametrize("verb", [["search", "GGUC"], ["sql", "SELECT 1"], ["info"], ["index"], ["annotate", "x=y"]])
def test_what_is_no_atlas(cli: Cli, verb: list[str]) -> None:
    ran = cli(verb[0], "nowhere", *verb[1:])
    assert ran.code == FAILED
    assert "not an atlas (no such folder); make one with: raypipe ingest INPUT -o nowhere" in ran.err
    Path("folder").mkdir()
    assert "not an atlas (holds no store.json)" in cli(verb[0], "folder", *verb[1:]).err


# Order of the steps


def test_search_before_embed_and_index(cli: Cli, tiny: Path) -> None:
    Path("in.fa").write_text(MORE)
    assert cli("ingest", "in.fa", "-o", "atlas").code == DONE
    ran = cli("index", "atlas")
    assert ran.code == FAILED
    assert "nothing is embedded yet; run: raypipe embed" in ran.err
    assert cli(*ran.command(), "--model", tiny, *INLINE).code == DONE
    ran = cli("search", "atlas", "GGUC")
    assert (ran.code, ran.out) == (FAILED, "")
    assert "no index yet; build one with: raypipe index" in ran.err
    assert cli(*ran.command()).code == DONE
    assert cli("search", "atlas", "GGUC").code == DONE


def test_embedding_an_empty_atlas(cli: Cli, tiny: Path) -> None:
    Store.open_or_create("atlas")
    ran = cli("embed", "atlas", "--model", tiny, *INLINE)
    assert ran.code == FAILED
    assert "holds no sequences yet; run: raypipe ingest INPUT -o" in ran.err


def test_an_index_older_than_its_embeddings(cli: Cli, atlas: Path, tiny: Path) -> None:
    grow(cli, atlas)
    assert cli("embed", atlas, "--model", tiny, *INLINE).code == DONE
    ran = cli("search", atlas, "GGGGGGGGGGGG", "-k", "1", "--columns", "id")
    assert (ran.code, ran.out) == (FAILED, "")
    assert "the index is older than its store (" in ran.err
    assert "new embedding file" in ran.err
    stale = cli("search", atlas, "GGGGGGGGGGGG", "-k", "1", "--columns", "id", "--allow-stale")
    assert stale.code == DONE
    assert stale.out != "id\nnew\n"
    assert cli(*ran.command()).code == DONE
    assert cli("search", atlas, "GGGGGGGGGGGG", "-k", "1", "--columns", "id").out == "id\nnew\n"


def test_sequences_without_vectors_are_not_indexed_in_silence(cli: Cli, atlas: Path, tiny: Path) -> None:
    grow(cli, atlas)
    ran = cli("index", atlas)
    assert ran.code == INCOMPLETE
    assert "not all is embedded (6 embedded and 0 failed of 7 sequences); run raypipe embed" in ran.err
    assert cli("embed", atlas, "--model", tiny, *INLINE).code == DONE
    assert cli("index", atlas).code == DONE


# Annotations


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("records", b"id\tx\ns1\t1\n", "table name 'records' is taken by the store itself; choose another"),
        ("select", b"id\tx\ns1\t1\n", "table name 'select'"),
        ("x", b"", "x.tsv: is empty"),
        ("x", b"id\tx\n", "x.tsv: has a header but no rows"),
        ("x", b"id\tx\nq\t1\n", "no value of column 'id' is an id of this store"),
        ("x", b"id\tx\ns1\t1\ns2\n", "x.tsv: line 3 has 1 columns instead of 2"),
        ("x", b"id\tx\ns1\tcaf\xe9\n", "x.tsv: line 2 is not UTF-8; if it is Latin-1, convert it"),
        ("x", b"id\tid\ns1\t1\n", "two columns are called 'id'"),
    ],
)
def test_annotations_that_cannot_be_used(cli: Cli, atlas: Path, name: str, data: bytes, words: str) -> None:
    Path("x.tsv").write_bytes(data)
    ran = cli("annotate", atlas, f"{name}=x.tsv")
    assert ran.code == FAILED
    assert words in ran.err
    assert cli("search", atlas, "GGGCCCAAAUUU", "-k", "1", "--columns", "family").out == "family\nother\n"


def test_names_of_annotation_tables_that_clash(cli: Cli, atlas: Path) -> None:
    Path("x.tsv").write_text("id\tfamily\ns1\tx\n")
    ran = cli("annotate", atlas, "a=x.tsv", "A=x.tsv")
    assert ran.code == FAILED
    assert "is given twice (case is ignored)" in ran.err
    assert cli("annotate", atlas, "a=x.tsv", "a=x.tsv").code == USAGE
    # Another table with the same column: both are shown, and a condition has to say which.
    assert cli("annotate", atlas, "more=x.tsv").code == DONE
    ran = cli("search", atlas, "GGUC", "--where", "family = 'x'")
    assert ran.code == FAILED
    assert "column 'family' is ambiguous: write families.family or more.family" in ran.err
    ran = cli("search", atlas, "GGGCCCAAAUUU", "-k", "1", "--columns", "families_family,more_family")
    assert ran.out == "families_family\tmore_family\nother\tx\n"


# Damage


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "store.json: damaged manifest"),
        ('{"format": 1, "sour', "store.json: damaged manifest"),
        ("[]", "store.json: damaged manifest"),
        ("{}", "store.json: damaged manifest"),
        ('{"format": 1}', "store.json: damaged manifest"),
        ('{"format": 1, "sources": [{"path": "x"}], "embeddings": {}}', "store.json: damaged manifest"),
        ('{"format": 99, "sources": []}', "store format 99; this raypipe reads 1"),
    ],
)
@pytest.mark.parametrize("verb", [["info"], ["search", "GGUC"]])
def test_a_damaged_manifest(cli: Cli, atlas: Path, text: str, words: str, verb: list[str]) -> None:
    (atlas / "store.json").write_text(text)
    ran = cli(verb[0], atlas, *verb[1:])
    assert (ran.code, ran.out) == (FAILED, "")
    assert words in ran.err


def test_a_damaged_index(cli: Cli, atlas: Path) -> None:
    vectors = index_file(atlas, "vectors.faiss")
    vectors.write_bytes(vectors.read_bytes()[:-10])
    ran = cli("search", atlas, "GGUC")
    assert ran.code == FAILED
    assert "damaged" in ran.err
    assert "build the index again: raypipe index" in ran.err


@pytest.mark.parametrize("kind", ["records", "rejects", "sequences"])
def test_a_part_file_that_was_deleted_by_hand(cli: Cli, atlas: Path, tiny: Path, kind: str) -> None:
    """records in = records + rejected, sequences = embedded + failed: both sums are read back from disk."""
    Path("more.fa").write_text(MORE + ">bad\nMKL\n")
    assert cli("ingest", "more.fa", "-o", atlas).code == DONE
    assert cli("embed", atlas, "--model", tiny, *INLINE).code == DONE
    for part in (atlas / kind).glob("part-00001-*"):
        part.unlink()
    ran = cli("embed", atlas, "--model", tiny, *INLINE)
    assert ran.code == INCOMPLETE
    assert f"{kind}/" in ran.err
    assert "1 were ingested" in ran.err or "2 were ingested" in ran.err


@pytest.mark.parametrize("kind", ["records", "sequences"])
@pytest.mark.parametrize("verb", [["info"], ["sql", "SELECT * FROM records JOIN sequences USING (seq_id)"]])
def test_a_part_file_that_was_cut_short(cli: Cli, atlas: Path, kind: str, verb: list[str]) -> None:
    (part,) = (atlas / kind).iterdir()
    part.write_bytes(part.read_bytes()[:-8])
    ran = cli(verb[0], atlas, *verb[1:])
    assert ran.code == FAILED
    assert str(part) in ran.err


def test_a_plan_that_was_deleted_by_hand(cli: Cli, atlas: Path, tiny: Path) -> None:
    (atlas / "embeddings" / "tiny" / "plan.parquet").unlink()
    assert cli("index", atlas).code == INCOMPLETE
    ran = cli("embed", atlas, "--model", tiny, *INLINE)
    assert (ran.code, "6 distinct sequences = 6 embedded + 0 failed" in ran.err) == (DONE, True)
    assert cli("index", atlas).code == DONE


def test_vectors_that_were_deleted_by_hand(cli: Cli, atlas: Path, tiny: Path) -> None:
    (atlas / "embeddings" / "tiny" / "part-000001.parquet").unlink()
    ran = cli("index", atlas)
    assert ran.code == INCOMPLETE
    assert "not all is embedded (1 of" in ran.err
    ran = cli("search", atlas, "GGUC")
    assert ran.code == FAILED
    assert "1 missing embedding file, such as part-000001.parquet" in ran.err
    ran = cli("embed", atlas, "--model", tiny, *INLINE)
    assert ran.code == DONE
    assert "6 distinct sequences = 6 embedded + 0 failed" in ran.err
    assert cli("index", atlas).code == DONE


def test_sequences_that_are_gone_before_they_are_embedded(cli: Cli, atlas: Path, other: Path) -> None:
    for part in (atlas / "sequences").iterdir():
        part.unlink()
    ran = cli("embed", atlas, "--model", other, *INLINE)
    assert ran.code == INCOMPLETE
    assert "0 rows in sequences/ where 6 were ingested (restore the folder from a copy" in ran.err


# Two writers

HOLD = """
import sys, time
from index.store import Store
with Store.open(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(root: Path, atlas: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes to the atlas."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(atlas)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_two_writers(cli: Cli, root: Path, atlas: Path, tiny: Path) -> None:
    Path("more.fa").write_text(MORE)
    writers = [
        ["ingest", "more.fa", "-o", atlas],
        ["embed", atlas, "--model", tiny, *INLINE],
        ["index", atlas],
        ["annotate", atlas, "x=more.fa"],
    ]
    with holder(root, atlas) as process:
        for arguments in writers:
            ran = cli(*arguments)
            assert ran.code == FAILED
            assert f"process {process.pid} on " in ran.err
            assert "is writing to this store; wait for it to end, or stop it" in ran.err
        # Readers need no lock.
        assert cli("search", atlas, "GGUC", "-k", "1").code == DONE
        assert cli("info", atlas).code == DONE
        process.send_signal(signal.SIGKILL)
        process.wait()
        # The lock of a killed holder is free at once.
        assert cli(*writers[0]).code == DONE
