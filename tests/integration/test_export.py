"""raypipe export: what stands in the files is what stands in the atlas."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import raypipe
from raypipe.cli import DONE, FAILED, USAGE, run
from tests.headed import INLINE, SHARDS
from tests.integration.conftest import FASTA, TABLE, Cli

LOCI = """\
##gff-version 3
chr2\tx\ttRNA\t11\t20\t.\t-\t.\tID=t2
chr1\tx\tncRNA\t5\t9\t.\t+\t.\tID=s1
chr1\tx\tncRNA\t1\t4\t.\t?\t.\tID=s1
chr1\tx\tncRNA\t0\t4\t.\t+\t.\tID=u1
"""
OTHER = "id\tchrom\tchromStart\tchromEnd\ns2\tchrX\t0\t7\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, headed: Path) -> Path:
    """An atlas with everything that is exported; read only."""
    folder = tmp_path_factory.mktemp("exported")
    for name, text in (("in.fa", FASTA), ("families.tsv", TABLE), ("loci.gff3", LOCI), ("other.tsv", OTHER)):
        (folder / name).write_text(text)
    atlas = folder / "atlas"
    tables = [f"{name}={folder / file}" for name, file in (("families", "families.tsv"), ("loci", "loci.gff3"))]
    for arguments in (
        ["embed", folder / "in.fa", "-o", atlas, "--model", headed, "--heads", "structure", *INLINE, *SHARDS],
        ["index", atlas],
        ["neighbors", atlas, "-k", 4],
        ["annotate", atlas, *tables],
    ):
        assert run([str(argument) for argument in arguments]) == DONE
    return atlas


def stored(atlas: Path, seq_ids: list[int]) -> np.ndarray:
    return raypipe.connect(atlas).vectors(seq_ids=seq_ids)


def read_text(file: Path, delimiter: str) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open(newline=""), delimiter=delimiter))


def test_vectors_in_every_format_are_those_that_are_stored(cli: Cli, made: Path, tmp_path: Path) -> None:
    for suffix in ("npy", "csv", "tsv", "parquet", "h5ad"):
        ran = cli("export", made, "--what", "embeddings", "-o", tmp_path / f"v.{suffix}")
        assert (ran.code, ran.out) == (DONE, "")
        assert f"v.{suffix}: 6 vectors of 16 values (headed)" in ran.err
    names = read_text(tmp_path / "v.ids.tsv", "\t")
    assert {tuple(row) for row in names} == {("id", "seq_id")}
    wanted = stored(made, [int(row["seq_id"]) for row in names])
    vectors = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert vectors.dtype == np.float16
    assert np.array_equal(vectors, wanted)
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        rows = read_text(tmp_path / f"v.{suffix}", delimiter)
        assert [(row["id"], row["seq_id"]) for row in rows] == [(row["id"], row["seq_id"]) for row in names]
        values = [[np.float32(row[f"v{place}"]) for place in range(16)] for row in rows]
        assert np.array_equal(np.array(values), wanted)
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["id", "seq_id", "embedding"]
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), wanted)
    anndata = pytest.importorskip("anndata")
    found = anndata.read_h5ad(tmp_path / "v.h5ad")
    assert found.X.dtype == np.float32
    assert np.array_equal(found.X, wanted)
    assert found.obs["id"].tolist() == [row["id"] for row in names]
    assert found.obs["family"].tolist() == ["other", "other", np.nan, "tRNA", "tRNA", "tRNA"]
    about = found.uns["raypipe"]
    (vectors_of,) = raypipe.connect(made).info()["embeddings"]
    assert (about["embeddings"], about["pooling"], about["layer"]) == ("headed", "mean", vectors_of["layer"])
    assert about["model_fingerprint"] == raypipe.connect(made).store.embedding().model_fingerprint
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        ["v.npy", "v.ids.tsv", "v.csv", "v.tsv", "v.parquet", "v.h5ad"]
    )


def test_some_vectors_with_columns(cli: Cli, made: Path, tmp_path: Path) -> None:
    columns = "id,family,structure_dot_bracket,n_records"
    for suffix in ("tsv", "h5ad", "npy"):
        file = tmp_path / f"w.{suffix}"
        given = ["--where", "family = 'other'", "--columns", columns]
        assert cli("export", made, "--what", "embeddings", "-o", file, *given).code == DONE
    wanted = stored(made, [0, 1])
    rows = read_text(tmp_path / "w.tsv", "\t")
    assert [row["id"] for row in rows] == ["s1", "u1"]
    assert list(rows[0])[:5] == [*columns.split(","), "v0"]
    assert set(rows[0]["structure_dot_bracket"]) <= set(".()")
    assert [row["n_records"] for row in read_text(tmp_path / "w.ids.tsv", "\t")] == ["2", "1"]
    assert np.array_equal(np.load(tmp_path / "w.npy"), wanted)
    anndata = pytest.importorskip("anndata")
    assert np.array_equal(anndata.read_h5ad(tmp_path / "w.h5ad").X, wanted)
    for suffix in ("tsv", "h5ad", "npy", "parquet"):
        file = tmp_path / f"none.{suffix}"
        assert cli("export", made, "--what", "embeddings", "-o", file, "--where", "length > 9999").code == DONE
    assert np.load(tmp_path / "none.npy").shape == (0, 16)
    assert anndata.read_h5ad(tmp_path / "none.h5ad").shape == (0, 16)
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    assert len((tmp_path / "none.tsv").read_text().splitlines()) == 1


def test_vectors_without_an_index_and_after_removals(cli: Cli, tmp_path: Path, headed: Path) -> None:
    (tmp_path / "in.fa").write_text(FASTA)
    atlas = tmp_path / "atlas"
    options = ["--model", headed, "--name", "mine", *INLINE]
    assert cli("embed", tmp_path / "in.fa", "-o", atlas, *options).code == DONE
    assert cli("remove", atlas, "--ids", "s1", "t2").code == DONE
    ran = cli("export", atlas, "--what", "embeddings", "-o", tmp_path / "v.tsv", "--name", "mine")
    assert ran.code == DONE, ran.err
    # Another record still has the sequence of s1; nothing is left of t2.
    assert [row["id"] for row in read_text(tmp_path / "v.tsv", "\t")] == ["copy", "u1", "s2", "t1", "t1"]
    ran = cli("export", atlas, "--what", "embeddings", "-o", tmp_path / "w.tsv", "--name", "yours")
    assert (ran.code, "no embeddings called 'yours'; there are: mine" in ran.err) == (FAILED, True)
    assert not (tmp_path / "w.tsv").exists()


def test_hits_of_the_graph(cli: Cli, made: Path, tmp_path: Path) -> None:
    assert cli("export", made, "--what", "hits", "-o", tmp_path / "h.parquet").code == DONE
    rows = pq.read_table(tmp_path / "h.parquet").to_pylist()
    assert len(rows) == 6 * 4
    columns = ["query", "rank", "id", "score", "length", "description"]
    assert list(rows[0])[:6] == columns
    local = raypipe.connect(made)
    for query in ("s1", "s2"):
        wanted = local.neighbors([query], k=4).to_pylist()
        found = [row for row in rows if row["query"] == query]
        assert [row["id"] for row in found] == [row["id"] for row in wanted]
        assert [row["score"] for row in found] == pytest.approx([row["score"] for row in wanted], abs=1e-5)
        assert [row["family"] for row in found] == [row["family"] for row in wanted]
    given = ["-k", 2, "--where", "family = 'tRNA'", "--min-score", "-1", "--columns", "query,rank,id"]
    assert cli("export", made, "--what", "hits", "-o", tmp_path / "h.tsv", *given).code == DONE
    wanted = [(r["query"], str(r["rank"]), r["id"]) for r in rows if r["rank"] <= 2 and r["family"] == "tRNA"]
    assert [tuple(row.values()) for row in read_text(tmp_path / "h.tsv", "\t")] == wanted != []
    ran = cli("export", made, "--what", "hits", "-o", tmp_path / "x.tsv", "-k", 5)
    assert (ran.code, "raypipe neighbors -k 5" in ran.err) == (USAGE, True)


def test_hits_of_queries(cli: Cli, made: Path, tmp_path: Path) -> None:
    given = ["-k", 2, "--columns", "query,id,score", "--no-header"]
    assert cli("export", made, "--what", "hits", "-o", tmp_path / "i.csv", "--ids", "s1", "u1", *given).code == DONE
    searched = cli("search", made, "--ids", "s1", "u1", "--format", "csv", *given)
    assert (tmp_path / "i.csv").read_text() == searched.out
    (tmp_path / "q.fa").write_text(">q\nGGGCCCAAAUUU\n")
    assert cli("export", made, tmp_path / "q.fa", "--what", "hits", "-o", tmp_path / "q.jsonl").code == DONE
    first = json.loads((tmp_path / "q.jsonl").read_text().splitlines()[0])
    assert (first["query"], first["id"]) == ("q", "s1")


def test_annotations(cli: Cli, made: Path, tmp_path: Path) -> None:
    one = ["--what", "annotations", "--table", "families"]
    assert cli("export", made, *one, "-o", tmp_path / "a.csv").code == DONE
    rows = read_text(tmp_path / "a.csv", ",")
    assert list(rows[0]) == ["id", "seq_id", "length", "family", "rank"]
    assert sorted(row["id"] for row in rows) == ["s1", "t1", "t1", "t2", "u1"]
    two = ["--what", "annotations", "--table", "families,loci", "--where", "rank >= 3 AND seq_id >= 0 -- more"]
    columns = ["--columns", "ID,gff_start,Family"]
    assert cli("export", made, *two, *columns, "-o", tmp_path / "b.tsv").code == DONE
    found = sorted(tuple(row.values()) for row in read_text(tmp_path / "b.tsv", "\t"))
    assert found == [("s1", "1", "other"), ("s1", "5", "other"), ("u1", "0", "other")]


def test_bed_counts_from_zero(cli: Cli, made: Path, tmp_path: Path) -> None:
    ran = cli("export", made, "--what", "annotations", "-o", tmp_path / "a.bed")
    assert ran.code == DONE
    assert "gff_start, gff_end, strand of loci, which count from 1, the end included" in ran.err
    assert "1 rows have no chromosome, or no start before their end; they are left out" in ran.err
    lines = ["chr1\t0\t4\ts1\t0\t.", "chr1\t4\t9\ts1\t0\t+", "chr2\t10\t20\tt2\t0\t-"]
    assert (tmp_path / "a.bed").read_text().splitlines() == lines
    given = ["--what", "annotations", "--count-from", 0, "--where", "gff_type = 'tRNA'"]
    assert cli("export", made, *given, "-o", tmp_path / "b.bed").code == DONE
    assert (tmp_path / "b.bed").read_text() == "chr2\t11\t20\tt2\t0\t-\n"
    ran = cli("export", made, "--what", "hits", "--ids", "s1", "-k", 1, "-o", tmp_path / "h.bed")
    assert ran.code == DONE
    assert (tmp_path / "h.bed").read_text() == "chr1\t0\t4\ts1\t1000\t.\nchr1\t4\t9\ts1\t1000\t+\n"


def test_names_of_bed_count_from_zero_too(cli: Cli, made: Path, atlas: Path, tmp_path: Path) -> None:
    assert cli("annotate", atlas, f"other={made.parent / 'other.tsv'}").code == DONE
    ran = cli("export", atlas, "--what", "annotations", "-o", tmp_path / "o.bed")
    assert "chrom, chromStart, chromEnd of other, which count from 0, the end left out" in ran.err
    assert (tmp_path / "o.bed").read_text() == "chrX\t0\t7\ts2\t0\t.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--what", "hits", "-o", "{}/x.npy"], USAGE, "with hits go: csv, tsv, jsonl, parquet, bed"),
        (["--what", "annotations", "-o", "{}/x.h5ad"], USAGE, "with annotations go: csv, tsv"),
        (["--what", "embeddings", "-o", "{}/x.bed"], USAGE, "with embeddings go: npy, csv"),
        (["--what", "embeddings", "-o", "{}/x"], USAGE, "its name tells no format"),
        (["--what", "embeddings", "-o", "{}/x.npy", "-k", "3"], USAGE, "-k: has a use with hits only"),
        (["--what", "embeddings", "-o", "{}/x.npy", "--ids", "s1"], USAGE, "--ids: has a use with hits only"),
        (["--what", "hits", "-o", "{}/x.tsv", "--name", "headed"], USAGE, "--name: has a use with embeddings only"),
        (["--what", "hits", "-o", "{}/x.tsv", "--table", "loci"], USAGE, "with annotations and bed only"),
        (["--what", "annotations", "-o", "{}/x.tsv", "--count-from", "0"], USAGE, "has a use with bed only"),
        (["--what", "annotations", "-o", "{}/x.tsv"], USAGE, "there are: families, loci"),
        (["--what", "annotations", "-o", "{}/x.tsv", "--table", "nothing"], FAILED, "no annotation table 'nothing'"),
        (["--what", "annotations", "-o", "{}/x.bed", "--table", "families"], USAGE, "BED needs columns with a chrom"),
        (["--what", "annotations", "-o", "{}/x.bed", "--columns", "id"], USAGE, "BED has columns of its own"),
        (["--what", "hits", "-o", "{}/x.bed"], USAGE, "name the queries, or records by --ids"),
        (["--what", "hits", "ACGU", "--ids", "s1", "-o", "{}/x.tsv"], USAGE, "one of the two"),
        (["--what", "hits", "--ids", "nobody", "-o", "{}/x.tsv"], FAILED, "no record with id nobody"),
        (["--what", "embeddings", "-o", "{}/x.npy", "--columns", "score"], USAGE, "only hits have it"),
        (["--what", "embeddings", "-o", "{}/x.npy", "--columns", "nothing"], FAILED, "no column 'nothing'"),
        (["--what", "embeddings", "-o", "{}/x.npy", "--where", "nothing = 1"], FAILED, "no column 'nothing'"),
        (["--what", "embeddings", "-o", "{}/x.npy", "--no-header"], USAGE, "--no-header"),
        (
            ["--what", "annotations", "--table", "loci", "-o", "{}/x.tsv", "--where", "1) UNION SELECT (2"],
            FAILED,
            "",
        ),
        (
            [
                "--what",
                "annotations",
                "--table",
                "loci",
                "-o",
                "{}/x.tsv",
                "--where",
                "1=1); DROP VIEW loci; SELECT (1",
            ],
            FAILED,
            "give one condition",
        ),
        (["--what", "embeddings", "-o", "{}/none/x.npy"], FAILED, "no such folder"),
    ],
)
def test_what_cannot_be(cli: Cli, made: Path, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    """And nothing is left behind."""
    ran = cli("export", made, *(text.format(tmp_path) for text in arguments))
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert words in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_part_leaves_the_file_that_was_there(cli: Cli, atlas: Path, tmp_path: Path) -> None:
    parts = sorted((atlas / "embeddings" / "tiny").glob("part-*.parquet"))
    parts[-1].write_bytes(parts[-1].read_bytes()[:100])
    for name in ("v.npy", "v.csv", "v.parquet"):
        (tmp_path / name).write_text("before")
        ran = cli("export", atlas, "--what", "embeddings", "-o", tmp_path / name)
        assert (ran.code, "cannot be read" in ran.err) == (FAILED, True), ran.err
        assert (tmp_path / name).read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["atlas", "v.csv", "v.npy", "v.parquet"]
