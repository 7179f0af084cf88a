"""raypipe annotate: what it says of formats, bad rows and joined tables; and hits with all rows, or one per record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raypipe.cli import DONE, FAILED
from tests.integration.conftest import Cli


@pytest.fixture
def rfam(atlas: Path, cli: Cli, tmp_path: Path) -> Path:
    """The atlas with Rfam's families of two sequences."""
    file = tmp_path / "rfam.tsv"
    file.write_text("id\trfam_acc\nt1\tRF00005\ns1\tRF00001\nt1\tRF00023\nt2\nt2\tRF00005\n")
    ran = cli("annotate", atlas, f"rfam={file}", "--memory-limit", "500MB")
    assert ran.code == DONE, ran.err
    assert "rfam: 4 of 4 rows belong to 4 sequences (key id, exact id)" in ran.err
    assert "1 rows cannot be read and stand in `rejects`, e.g. line 5: 1 columns instead of 2" in ran.err
    return atlas


def test_bad_rows_are_among_the_rejects(rfam: Path, cli: Cli) -> None:
    found = cli("sql", rfam, "SELECT line, reason FROM rejects WHERE source LIKE '%rfam.tsv'", "--no-header")
    assert found.out == "5\trfam: 1 columns instead of 2: t2\n"
    assert cli("verify", rfam, "--deep").code == DONE


def test_families_by_another_table(rfam: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "clan_membership.txt").write_text("CL00001\tRF00005\nCL00001\tRF00023\nCL00002\tRF00010\n")
    ran = cli("annotate", rfam, f"clan={tmp_path / 'clan_membership.txt'}", "--on", "rfam.rfam_acc")
    assert ran.code == DONE
    assert "clan: 2 of 3 rows belong to 3 sequences (key rfam_acc, rfam.rfam_acc)" in ran.err
    assert "1 rows match no row there and are left out, e.g. RF00010" in ran.err
    where = ["--where", "clan_acc = 'CL00001' AND rfam_acc = 'RF00005'"]
    found = cli("search", rfam, "--ids", "s1", *where, "--columns", "id", "--no-header")
    assert sorted(found.out.split()) == ["t1", "t1", "t2"], "t1 names two sequences"
    (tmp_path / "new.tsv").write_text("id\trfam_acc\nu1\tRF00023\n")
    ran = cli("annotate", rfam, f"rfam={tmp_path / 'new.tsv'}")
    assert "clan: joined again, 1 of 3 rows belong to 1 sequences" in ran.err
    assert cli("sql", rfam, "SELECT id, clan_acc FROM clan", "--no-header").out == "u1\tCL00001\n"
    ran = cli("annotate", rfam, f"x={tmp_path / 'new.tsv'}", "--on", "nothing.here")
    assert (ran.code, "no annotation table 'nothing'; there are: clan, families, rfam" in ran.err) == (FAILED, True)


def test_coordinates(atlas: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "g.bed").write_text("chr1\t4\t9\tt2\t0\t+\n")
    ran = cli("annotate", atlas, tmp_path / "g.bed")
    assert ran.err.endswith("bed_start and bed_end count from 0, the end is not included")
    assert cli("sql", atlas, "SELECT bed_end - bed_start FROM g", "--no-header").out == "5\n"


def test_hits_with_all_rows_or_one_per_record(rfam: Path, cli: Cli) -> None:
    found = cli("search", rfam, "--ids", "t2", "-k", 3, "--all-annotations", "--format", "jsonl")
    by_id = {row["id"]: row for row in map(json.loads, found.out.splitlines())}
    assert by_id["t2"]["rfam_acc"] == ["RF00005"]
    assert by_id["t2"]["family"] == ["tRNA"]
    options = ["-k", 1, "--columns", "rank,id,description", "--no-header"]
    assert cli("search", rfam, "--ids", "s1", *options).out == "1\ts1\ta small one\n"
    found = cli("search", rfam, "--ids", "s1", *options, "--expand-records")
    assert found.out == "1\ts1\ta small one\n1\tcopy\tthe sequence of s1\n"
