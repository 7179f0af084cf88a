"""The verb index, and how its answers are searched, from the command line."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raypipe
from index.store import Store
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
    assert "'IVF8,SQ4': this type was measured to reach a recall@10 of" in ran.err
    assert json.loads(cli("info", atlas, "--json").out)["index"]["type"] == "Flat", "what stood stands"


@pytest.mark.parametrize(
    "options", [["--recall", 0], ["--recall", 1.1], ["--plan", "--rows", 0], ["--verify", "--sample", 0]]
)
def test_options_that_cannot_be(cli: Cli, finished: Path, options: list[object]) -> None:
    ran = cli("index", finished, *options)
    assert ran.code == USAGE
    assert "must be" in ran.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compact", "--type", "auto"], "--type: has a use with a build or --plan only (--compact keeps what the"),
        (["--compact", "--transform", "auto"], "--transform: has a use with"),
        (["--compact", "--recall", 0.99], "--recall: has a use with"),
        (["--compact", "--anew"], "--anew: has a use with a build only"),
        (["--plan", "--verify"], "--plan, --verify: are asked one at a time"),
        (["--plan", "--anew"], "--anew: has a use with a build only"),
        (["--rows", 120], "--rows: has a use with --plan only; leave it out"),
        (["--verify", "--rows", 120], "--rows: has a use with --plan only"),
        (["--sample", 200], "--sample: has a use with --verify only"),
        (["--plan", "--sample", 200], "--sample: has a use with --verify only"),
        (["--verify", "--type", "flat"], "--type: has a use with a build or --plan only; leave it out"),
        (["--format", "json"], "--format: has a use with --plan or --verify only"),
    ],
)
def test_options_without_a_use(cli: Cli, tmp_path: Path, options: list[object], message: str) -> None:
    """Also where they say what is so by default; it is told before the atlas is looked at."""
    ran = cli("index", tmp_path / "atlas", *options)
    assert (ran.code, message in ran.err) == (USAGE, True), ran.err


def test_two_writers_at_once(cli: Cli, finished: Path) -> None:
    """The second is told who writes, and changes nothing."""
    with Store.open(finished).lock():
        ran = cli("index", finished, "--type", "HNSW16")
    assert ran.code == FAILED
    assert f"process {os.getpid()} on " in ran.err
    assert "is writing to this store; wait for it to end, or stop it" in ran.err
    assert json.loads(cli("info", finished, "--json").out)["index"]["type"] == "Flat"


def test_settings_serve_every_way_to_ask(cli: Cli, atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file and the environment say of builds is passed over where nothing is built."""
    monkeypatch.setenv("RAYPIPE_INDEX_TYPE", "HNSW16")
    monkeypatch.setenv("RAYPIPE_INDEX_SAMPLE", "7")
    monkeypatch.setenv("RAYPIPE_INDEX_COMPACT", "false")  # which asks for nothing
    assert "HNSW16, 120 vectors" in cli("index", atlas, "--config", "index").err
    ran = cli("index", atlas, "--compact", "--config", "index")
    assert ran.code == DONE
    assert "up to date (HNSW16" in ran.err
    ran = cli("index", atlas, "--verify", "--config", "index")
    assert "ties counted, by 7 vectors" in ran.out
    assert "by 7" not in cli("index", atlas, "--plan", "--config", "index").out


def test_a_plan_is_of_what_would_be_built(cli: Cli, atlas: Path, tmp_path: Path, tiny: Path) -> None:
    def planned(*options: object) -> dict[str, Any]:
        return json.loads(cli("index", atlas, "--plan", "--format", "json", *options).out)

    few = planned("--type", "flat", "--transform", "whiten:8")
    assert few["memory_bytes"] == 120 * 8 * 4
    assert (few["recall"], few["target"]) == (1.0, None)
    unknown = planned("--type", "HNSW16", "--recall", 0.9)
    assert (unknown["recall"], unknown["target"]) == (None, 0.9)
    assert cli("index", atlas, "--type", "HNSW16").code == DONE
    info = json.loads((atlas / "index" / "000001" / "index.json").read_text())
    assert planned("--type", "HNSW16")["recall"] == info["operating"]["recall_at_10"]
    assert (
        "measured for index 000001, of this type and 120 vectors"
        in cli("index", atlas, "--plan", "--type", "HNSW16").out
    )
    # A sequence that is too long for a set is in the store, and not in an index of that set.
    long = write_fasta(tmp_path / "long.fa", 1, 1100, 1200)
    assert cli("ingest", long, "-o", atlas).code == DONE
    strict = ["--name", "strict"]
    assert cli("embed", atlas, "--model", tiny, *strict, "--on-long", "reject", *INLINE).code == DONE
    assert planned(*strict)["rows"] == 120
    assert planned()["rows"] == 121, "of the set that is indexed, where it is to be embedded yet"
    ran = cli("index", atlas, "--plan", "--transform", "pca:17")
    assert (ran.code, "have 16 axes only" in ran.err) == (FAILED, True), ran.err
    ran = cli("index", atlas, "--plan", "--name", "third")
    assert (ran.code, "no embeddings called 'third'" in ran.err) == (FAILED, True), ran.err


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
