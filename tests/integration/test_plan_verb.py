"""`raypipe plan`: from an atlas or from files, without the weights of the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from index.info import current_info
from index.store import Store
from raypipe.cli import DONE, FAILED, USAGE
from tests.integration.conftest import Cli, Make
from tests.runs import write_fasta


def test_of_an_atlas(cli: Cli, finished: Path, tiny: Path) -> None:
    told = json.loads(cli("plan", finished, "--model", tiny, "--format", "json").out)
    store = Store.open(finished)
    assert (told["sequences"], told["nucleotides"]) == (6, 173)
    assert told["tokens"] == 173 + 2 * 6
    assert told["free_bytes"] > 0
    info = current_info(store)
    assert info is not None
    assert told["index"] == info.type
    vectors, bounds = info.segments[0].checksums["vectors.faiss"]["bytes"], 6 * 4 * (16 // 4 + 1)
    assert told["index_bytes"] == pytest.approx(vectors + bounds, abs=64)


def test_of_files_for_a_model_that_is_not_here(cli: Cli, tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "in.fa", 50, 20, 60)
    ran = cli("plan", fasta, "--model", "aido.rna-650m", "--device", "h200", "--gpus", "8", "--per-token")
    assert (ran.code, ran.err) == (DONE, "")
    for text in ("50 distinct", "33 layers of 1280", "8 x h200", "tokens/aido.rna-650m", "40% of 9.89e+14, assumed"):
        assert text in ran.out
    told = [cli("plan", fasta, "--model", "aido.rna-650m", "--device", "a100", "--format", "json", *more) for more in (
        (), ("--gpus", "4"), ("--utilisation", "0.8"))]  # fmt: skip
    alone, four, faster = (json.loads(ran.out)["seconds"] for ran in told)
    assert (four, faster) == (pytest.approx(alone / 4), pytest.approx(alone / 2))


def test_bytes_are_those_of_the_files(cli: Cli, ingested: Make, headed: Path) -> None:
    atlas = ingested()
    asked = ("--model", headed, "--per-token", "--heads", "rna_type,reactivity")
    told = json.loads(cli("plan", atlas, *asked, "--format", "json").out)
    assert cli("embed", atlas, *asked, "--executor", "inline").code == DONE
    assert len(told["outputs"]) == 4
    for output in told["outputs"]:
        written = sum(path.stat().st_size for path in (atlas / output["folder"]).glob("part-*"))
        if output["exact"]:  # besides the schema and the names in the footer
            assert output["bytes"] < written < 1.05 * output["bytes"] + 4096
        else:
            assert written < output["bytes"] + 8192


def test_refusals(cli: Cli, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.fa").write_text("")
    for arguments, code, text in (
        ([], USAGE, "name an atlas or sequence files"),
        ([finished, "--measure", "--device", "h200"], USAGE, "--measure: runs the model on this machine's CPU"),
        ([finished, "--measure", "--utilisation", "0.5"], USAGE, "give one of them"),
        ([finished, tmp_path / "empty.fa"], USAGE, "is an atlas; name it alone"),
        ([finished, "--utilisation", "2"], USAGE, "--utilisation 2: input should be less than or equal to 1"),
        ([finished, "--gpus", "2"], USAGE, "--gpus: there are none with --device cpu; name another device, or give --"),
        ([finished, "--device", "h100", "--cpus", "2"], USAGE, "--cpus: there are none with --device h100"),
        ([finished, "--device", "h100", "--gpus", "0"], USAGE, "--gpus 0: input should be greater than or equal to 1"),
        ([tmp_path / "gone.fa"], FAILED, "gone.fa: no such file"),
    ):
        ran = cli("plan", *arguments)
        assert (ran.code, ran.out) == (code, ""), ran.err
        assert text in ran.err
