"""Annotation files beyond plain tables: bad rows, GFF3, BED, Rfam's families, and tables joined to other tables."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from index.annotation_load import TableReport
from index.annotation_tables import live_database
from index.annotations import annotate
from index.errors import StoreError
from index.filters import matching_sequences
from index.hits import check_columns
from index.sql import query
from index.store import Store

RECORDS = [("R1", "first", "ACGUACGU"), ("R2", "second", "GGGGCCCC"), ("R3", "third", "UUUUAAAA")]
GFF = """##gff-version 3
#!genome-build GRCh38
chr1\tRfam\ttranscript\t10\t50\t.\t+\t.\tID=R1.0;Name=R1;type=tRNA;note=a%3Bb%20c
chr1\tRfam\tnoncoding_exon\t10\t30\t.\t+\t.\tID=R1.0:ncRNA_exon1;Name=R1;Parent=R1.0;type=tRNA
chr2\tENA\ttranscript\t7\t9\t1.5\t-\t0\tName=R3;source=alignment
chr2\tENA\ttranscript\t7
###
##FASTA
>chr1
ACGT
"""
BED = "track name=x\nchr1\t9\t50\tR1\t0\t+\nchr2\t6\t9\tR3\t0\t-\n"
RFAM = "id\trfam_acc\tscore\nR1\tRF00005\t50\nR1\tRF00001\t20\nR2\tRF00001\t70\n"
FAMILIES = "rfam_acc\tdescription\tclan\nRF00001\t5S ribosomal RNA\tCL00113\nRF00005\ttRNA\tCL00001\nRF00009\tP\t\n"
SEED = """# STOCKHOLM 1.0
#=GF AC   RF00001
#=GF DE   5S ribosomal RNA
#=GF CL   CL00113
#=GF SQ   712

X/1-2 AC
//
# STOCKHOLM 1.0
#=GF AC   RF00005
#=GF DE   tRNA
#=GF TP   Gene; tRNA;
//
"""


@pytest.fixture
def store(builder):
    return builder.store(RECORDS)


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str) -> Path:
        path = tmp_path / name
        content = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


def add(store: Store, on: str | None = None, **tables: Path) -> list[TableReport]:
    with store.lock():
        return annotate(store, tables, on=on)


def rows(store: Store, sql: str) -> list[tuple]:
    return [tuple(row.values()) for row in query(store, sql).to_pylist()]


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_bad_rows_are_kept_aside(store, write, name):
    content = b"id\tn\tm\nR1\t1\t1\nR1\t2\nR2\tM\xfcller\t3\nR2\t1\t2\t3\t4\nR3\t5\t5\nR3\t6\t6\nR1\t7\t7\n"
    file = write(content, name)
    [report] = add(store, t=file)
    assert (report.rows, report.matched_rows, report.rejected_rows) == (4, 4, 3)
    assert report.rejected_examples == [
        "line 3: 2 columns instead of 3",
        "line 4: not UTF-8",
        "line 5: 5 columns instead of 3",
    ]
    assert rows(store, "SELECT n FROM t") == [(1,), (7,), (5,), (6,)]
    aside = rows(store, "SELECT source, line, reason FROM rejects ORDER BY line")
    assert aside[0] == (str(file), 3, "t: 2 columns instead of 3: R1\t2")
    assert [line for _, line, _ in aside] == [3, 4, 5]
    add(store, other=write("id\tn\nR1\t1\n", "b.tsv"))
    assert len(rows(store, "SELECT * FROM rejects")) == 3, "they stay while their table does"
    [again] = add(store, t=file)
    assert again.unchanged
    assert again.rejected_rows == 3
    add(store, t=write("id\tn\nR1\t1\n", "c.tsv"))
    assert rows(store, "SELECT * FROM rejects") == []


def test_bad_rows_of_csv(store, write):
    content = 'id,n\nR1,"a, b"\nR2,"x"y\nR3,c\nR1,1,2\nR2,f\nR1,"d\ne"\n'
    [report] = add(store, t=write(content, "a.csv"))
    assert rows(store, "SELECT id, n FROM t") == [("R1", "a, b"), ("R1", "d\ne"), ("R2", "f"), ("R3", "c")]
    assert report.rejected_rows == 2
    assert [line for (line,) in rows(store, "SELECT line FROM rejects ORDER BY line")] == [3, 5]


def test_a_quotation_mark_that_takes_the_rest_counts_as_all_of_it(store, write):
    body = "R1,1\nR2,2\n" + 'R3,"3\n' + "R1,1\n" * 10
    with pytest.raises(StoreError, match=r"line 4 cannot be read: a quotation mark .*\(11 of 13 rows"):
        add(store, t=write("id,n\n" + body, "a.csv"))
    assert live_database(store) is None


def test_gff(store, write):
    [report] = add(store, genome=write(GFF, "g.gff3.gz"))
    assert (report.rows, report.matched_rows, report.rejected_rows, report.key) == (3, 3, 1, "Name")
    assert report.rejected_examples == ["line 6: 4 columns instead of 9"]
    assert report.coordinates is not None
    assert "count from 1" in report.coordinates
    found = query(store, "SELECT * FROM genome").to_pylist()
    assert list(found[0].items())[:10] == [
        ("seq_id", 0),
        ("id", "R1"),
        ("chromosome", "chr1"),
        ("gff_source", "Rfam"),
        ("gff_type", "transcript"),
        ("gff_start", 10),
        ("gff_end", 50),
        ("gff_score", None),
        ("strand", "+"),
        ("phase", None),
    ]
    assert found[0]["ID_in_file"] == "R1.0"
    assert [row["gff_start"] for row in found] == [10, 10, 7]
    assert found[0]["note"] == "a;b c"
    assert found[1]["Parent"] == "R1.0"
    assert found[2]["source"] == "alignment"
    assert found[2]["gff_score"] == 1.5


def test_bed(store, write):
    [report] = add(store, genome=write(BED, "g.bed"))
    assert (report.rows, report.rejected_rows, report.key) == (2, 0, "name")
    assert rows(store, "SELECT id, chromosome, bed_start, bed_end, strand FROM genome") == [
        ("R1", "chr1", 9, 50, "+"),
        ("R3", "chr2", 6, 9, "-"),
    ]
    fields = "chr1\t9\t50\tR2\t0\t+\t9\t50\t63,125,151\t1\t41\t0\t.\tpiRNA\tPirBase\n"
    [fifteen] = add(store, rnacentral=write(fields, "h.bed.gz"))
    assert fifteen.columns[-2:] == ["rna_type", "databases"]
    assert rows(store, "SELECT rna_type, item_rgb FROM rnacentral") == [("piRNA", "63,125,151")]
    with pytest.raises(StoreError, match=r"e\.bed: no line of BED in it"):
        add(store, e=write("track name=x\n", "e.bed"))


@pytest.mark.parametrize(
    ("name", "content", "clan"),
    [
        ("families.tsv", FAMILIES, "clan"),
        ("Rfam.seed", SEED, "clan"),
        ("clan_membership.txt", "CL00113\tRF00001\nCL00001\tRF00005\n", "clan_acc"),
    ],
)
def test_families_are_joined_to_another_table(store, write, name, content, clan):
    add(store, rfam=write(RFAM, "rfam.tsv"))
    [report] = add(store, on="RFAM.rfam_acc", family=write(content, name))
    assert (report.key, report.rule, report.matched_rows) == ("rfam_acc", "rfam.rfam_acc", 2)
    assert (report.matched_sequences, report.unmatched_rows) == (2, len(content.split("RF")) - 3)
    assert rows(store, f"SELECT seq_id, id, rfam_acc, {clan} FROM family ORDER BY seq_id, rfam_acc") == [
        (0, "R1", "RF00001", "CL00113"),
        (0, "R1", "RF00005", None if name == "Rfam.seed" else "CL00001"),
        (1, "R2", "RF00001", "CL00113"),
    ]
    assert matching_sequences(store, f"{clan} = 'CL00113'").tolist() == [0, 1]
    assert matching_sequences(store, "rfam_acc = 'RF00005'").tolist() == [0], "the key is that of the other table"
    assert clan in check_columns(store, None)
    assert "family_rfam_acc" not in check_columns(store, None)


def test_a_table_that_is_joined_follows_the_other(store, write):
    add(store, rfam=write(RFAM, "rfam.tsv"))
    add(store, on="rfam.rfam_acc", family=write(FAMILIES, "families.tsv"))
    add(store, on="family.clan", clan=write("clan\tname\nCL00001\ttRNA clan\nCL00113\t5S clan\n", "clans.tsv"))
    assert rows(store, "SELECT seq_id, name FROM clan ORDER BY ALL") == [
        (0, "5S clan"),
        (0, "tRNA clan"),
        (1, "5S clan"),
    ]
    reports = add(store, rfam=write("id\trfam_acc\nR3\tRF00005\n", "new.tsv"))
    assert [(report.name, report.joined_again) for report in reports] == [
        ("rfam", False),
        ("family", True),
        ("clan", True),
    ]
    assert (reports[1].matched_rows, reports[1].unmatched_rows, reports[1].matched_sequences) == (1, 2, 1)
    assert rows(store, "SELECT seq_id, id, name FROM clan") == [(2, "R3", "tRNA clan")]
    with pytest.raises(StoreError, match=r"on 'clan\.name': clan is itself joined to what is made here"):
        add(store, on="clan.name", rfam=write("name\tn\ntRNA clan\t1\n", "around.tsv"))
    with pytest.raises(StoreError, match=r"rfam: has no column 'rfam_acc' any more, and family is joined to it"):
        add(store, rfam=write("id\tother\nR3\tRF00005\n", "less.tsv"))
    assert rows(store, "SELECT seq_id, id, name FROM clan") == [(2, "R3", "tRNA clan")]


def test_what_cannot_be_joined(store, write):
    families = write(FAMILIES, "families.tsv")
    with pytest.raises(StoreError, match="no annotation table 'rfam'; there are: none yet"):
        add(store, on="rfam.rfam_acc", family=families)
    rfam = write(RFAM, "rfam.tsv")
    add(store, rfam=rfam)
    with pytest.raises(StoreError, match="no column 'acc' in rfam; it has: seq_id, id, rfam_acc"):
        add(store, on="rfam.acc", family=families)
    with pytest.raises(StoreError, match="rfam is made here as well"):
        add(store, on="rfam.rfam_acc", family=families, rfam=rfam)
    with pytest.raises(StoreError, match="name a table and its column"):
        add(store, on="rfam", family=families)
    with pytest.raises(
        StoreError, match=r"no value of column 'a' is in rfam\.rfam_acc: the file has x; rfam has e\.g\. "
    ):
        add(store, on="rfam.rfam_acc", family=write("a\tb\nx\ty\n", "none.tsv"))


def test_real_families(builder, write, shared):
    folder = shared / "data" / "rnacentral_formats"
    store = builder.store([("A", "", "ACGU"), ("B", "", "GGGG")])
    add(store, rfam=write("id\trfam_acc\nA\tRF00001\nB\tRF00027\n", "rfam.tsv"))
    add(store, on="rfam.rfam_acc", families=folder / "rfam_families_mini.tsv", seed=folder / "rfam_mini.seed")
    assert rows(store, "SELECT description, clan FROM families WHERE id = 'A'") == [("5S ribosomal RNA", "CL00113")]
    assert rows(store, "SELECT description, num_seed FROM seed WHERE id = 'B'") == [("let-7 microRNA precursor", 63)]


def test_odd_seeds(store, write):
    add(store, rfam=write(RFAM, "rfam.tsv"))
    odd = SEED.replace("#=GF DE   tRNA\n", "#=GF \n#=GF DE\n#=GF DE   tRNA\n")
    add(store, on="rfam.rfam_acc", family=write(odd, "Rfam.seed"))
    assert rows(store, "SELECT DISTINCT description FROM family ORDER BY 1") == [("5S ribosomal RNA",), ("tRNA",)]
    with pytest.raises(StoreError, match=r"cut\.seed: ends within an alignment; get it again"):
        add(store, on="rfam.rfam_acc", cut=write(SEED[:-3], "cut.seed"))
    with pytest.raises(StoreError, match=r"first\.seed: holds no alignment that ends"):
        add(store, on="rfam.rfam_acc", cut=write(SEED[:60], "first.seed"))


def test_rfams_dumps_are_known_by_their_shape(store, write):
    fields = ["RF00005", "tRNA", "1", "tRNA", *[r"\N"] * 31]
    add(store, rfam=write(RFAM, "rfam.tsv"))
    [report] = add(store, on="rfam.rfam_acc", family=write("\t".join(fields) + "\n", "family.txt.gz"))
    assert report.columns[:4] == ["rfam_acc", "rfam_id", "auto_wiki", "description"]
    assert rows(store, "SELECT rfam_id, description, clen FROM family") == [("tRNA", "tRNA", None)]
