"""The verb index, and how its answers are searched, from the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

import raypipe
from raypipe.cli import DONE, FAILED, USAGE
from tests.integration.conftest import Cli
from tests.runs import write_fasta

INLINE = ["--executor", "inline"]


@pytest.fixture
def atlas(cli: Cli, tmp_path: Path, tiny: Path) -> Path:
    """An embedded atlas of 120 sequences, not indexed yet."""
    fasta = write_fasta(tmp_path / "in.fa", 120, 20, 60)
    assert cli("embed", fasta, "-o", tmp_path / "atlas", "--model", tiny, *INLINE).code == DONE
    return tmp_path / "atlas"


def commands(root: Path) -> list[list[str]]:
    """Those of the README's section on the index."""
    section = (root / "README.md").read_text().split("## The index\n")[1].split("\n## ")[0]
    return [shlex.split(line, comments=True)[1:] for line in section.splitlines() if line.startswith("    raypipe ")]


def test_the_section_of_the_readme(
    cli: Cli, atlas: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_fasta(tmp_path / "new.fasta", 3, 20, 60)
    plan, build, verify, search, compact = (cli(*command) for command in commands(root))
    assert {ran.code for ran in (plan, build, verify, search, compact)} == {DONE}
    assert "IVF32768_HNSW32,RaBitQ,Refine(SQfp16)" in plan.out
    assert "42,000,000 vectors of 16 values" in plan.out
    assert "of one core like these" in plan.out
    assert "index 000001: IVF64,SQfp16, 120 vectors of tiny" in build.err
    assert "recall@10 " in build.err
    assert "ties counted, by 120 vectors" in verify.out
    assert "0.995" in verify.out
    assert "nprobe" in search.err
    assert "120 of 120 vectors may be found" in search.err
    assert all(float(line.split("\t")[3]) >= 0.5 for line in search.out.splitlines()[1:])
    assert "up to date (IVF64,SQfp16" in compact.err, "there is one segment"


def test_growth_and_compaction(cli: Cli, atlas: Path, tmp_path: Path, tiny: Path) -> None:
    assert cli("index", atlas, "--type", "HNSW16").code == DONE
    more = write_fasta(tmp_path / "more.fa", 12, 61, 70)
    assert cli("embed", more, "-o", atlas, "--model", tiny, *INLINE).code == DONE
    grown = cli("index", atlas, "--type", "HNSW16")
    assert "(12 of them added to an index learned from 120), 2 segments" in grown.err
    compact = cli("index", atlas, "--compact")
    assert "HNSW16, 132 vectors" in compact.err
    assert "segments" not in compact.err


def test_a_recall_that_is_not_reached(cli: Cli, atlas: Path) -> None:
    assert cli("index", atlas).code == DONE
    ran = cli("index", atlas, "--type", "IVF8,SQ4", "--recall", 1)
    assert ran.code == FAILED
    assert "'IVF8,SQ4': this type reaches a recall@10 of" in ran.err
    assert json.loads(cli("info", atlas, "--json").out)["index"]["type"] == "Flat", "what stood stands"


@pytest.mark.parametrize(
    "options", [["--recall", 0], ["--recall", 1.1], ["--plan", "--rows", 0], ["--verify", "--sample", 0]]
)
def test_options_that_cannot_be(cli: Cli, atlas: Path, options: list[object]) -> None:
    ran = cli("index", atlas, *options)
    assert ran.code == USAGE
    assert "must be" in ran.err


def test_machine_readable(cli: Cli, atlas: Path) -> None:
    plan = json.loads(cli("index", atlas, "--plan", "--type", "flat", "--format", "json").out)
    assert (plan["type"], plan["rows"], plan["recall"]) == ("Flat", 120, 1.0)
    assert plan["memory_bytes"] == 120 * (16 * 4 + 8)
    assert not (atlas / "index").exists()
    assert cli("index", atlas).code == DONE
    seen = json.loads(cli("index", atlas, "--verify", "--format", "json").out)
    assert (seen["recall_at_10"], seen["target"]) == (1.0, None)
    assert seen["p99_ms"] >= seen["p50_ms"] > 0


def test_how_it_was_searched(cli: Cli, atlas: Path) -> None:
    """In Python, as the command line says it; a filter that comes again is at hand."""
    assert cli("index", atlas, "--type", "IVF8,SQ8", "--recall", 0.5).code == DONE
    opened = raypipe.connect(atlas)
    vectors = opened.searcher.vectors(np.arange(4))
    few = opened.search(vectors=vectors, k=5, where="length < 40")
    again = opened.search(vectors=vectors, k=5, where=" length < 40 ")
    assert few.how is not None
    assert few.how == again.how
    assert 0 < few.how["allowed"] < few.how["rows"] == 120
    assert few.to_arrow().equals(again.to_arrow())
    exact = opened.search(vectors=vectors, k=5, where="length < 40", exact=True)
    assert exact.how is not None
    assert exact.how["searched"] == ["exact: all stored vectors compared"]
    above = opened.search(vectors=vectors, k=5, min_score=0.999).to_pylist()
    assert [hit["rank"] for hit in above] == [1] * 4
    assert opened.sql("SELECT count(*) AS n FROM sequences").how is None
