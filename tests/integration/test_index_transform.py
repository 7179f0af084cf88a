"""The space of the scores, from the command line: chosen, shown, taken from another atlas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import raypipe
from index.info import current_info, rebuild
from index.store import Store
from raypipe.cli import DONE, FAILED, USAGE
from tests.integration.conftest import Cli
from tests.runs import write_fasta

INLINE = ["--executor", "inline"]


@pytest.fixture
def many(cli: Cli, tmp_path: Path, tiny: Path) -> Path:
    """An embedded atlas of 120 sequences, not indexed yet."""
    fasta = write_fasta(tmp_path / "in.fa", 120, 20, 60)
    assert cli("embed", fasta, "-o", tmp_path / "many", "--model", tiny, *INLINE).code == DONE
    return tmp_path / "many"


def test_chosen_by_itself_and_by_name(cli: Cli, many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = cli("index", many)
    assert ran.code == DONE
    assert "Flat, 120 vectors of tiny, transform whiten (at least 50 vectors)" in ran.err
    assert "up to date (Flat, 120 vectors of tiny, transform whiten" in cli("index", many).err
    assert "120 vectors, transform whiten (at least 50 vectors)" in cli("info", many).out
    about = json.loads(cli("info", many, "--json").out)["index"]["transform"]
    assert (about["kind"], about["asked"], about["rows"], about["dimension"]) == ("whiten", "auto", 120, 16)
    (first,) = raypipe.connect(many).search(ids=["r7"], k=1).to_pylist()
    assert (first["id"], first["score"]) == ("r7", pytest.approx(1, abs=1e-6))
    # Also where its vector is computed anew, and not rounded as the stored ones are.
    sequence = (many.parent / "in.fa").read_text().splitlines()[15]
    (first,) = raypipe.connect(many).search(sequence, k=1).to_pylist()
    assert (first["id"], first["score"]) == ("r7", pytest.approx(1, abs=1e-5))

    monkeypatch.setenv("RAYPIPE_INDEX_TRANSFORM", "pca:5")
    said = cli("index", many).err
    assert "transform pca:5 (as asked)" in said
    assert "scores are of another space than those of index" in said
    assert f"transform whiten (at least 50 vectors) ({about['sha256'][:12]}), now transform pca:5" in said
    assert "not transformed (as asked)" in cli("index", many, "--transform", "none").err
    monkeypatch.delenv("RAYPIPE_INDEX_TRANSFORM")
    assert "another space" not in cli("index", many, "--transform", "none", "--type", "HNSW4").err


def test_the_flat_type_has_plain_cosines(cli: Cli, many: Path) -> None:
    """Where it is asked for by name, and nothing else is; what the messages advise keeps the space that there is."""
    assert "Flat, 120 vectors of tiny, not transformed (as asked)" in cli("index", many, "--type", "flat").err
    assert "up to date" in cli("index", many, "--type", "flat").err
    store = Store.open(many)
    plain = current_info(store)
    assert plain is not None
    assert rebuild(store, plain).endswith(f"{many} --transform none")
    assert "transform whiten (as asked)" in cli("index", many, "--type", "flat", "--transform", "whiten").err
    large = replace(plain, rows=400_000)
    assert rebuild(store, large).endswith("--type Flat")
    assert rebuild(store, replace(large, transform={"asked": "auto"})).endswith("--type Flat --transform auto")


def test_few_sequences_are_compared_as_they_are(cli: Cli, atlas: Path) -> None:
    assert "not transformed (fewer than 50 vectors)" in cli("index", atlas).err
    ran = cli("index", atlas, "--transform", "whiten")
    assert ran.code == FAILED
    assert "transform 'whiten': needs at least" in ran.err
    assert "there are 6; use auto, center or none" in ran.err


def test_a_transform_of_another_atlas(cli: Cli, many: Path, atlas: Path, tmp_path: Path, other: Path) -> None:
    assert cli("index", many).code == DONE
    file = next((many / "index").glob("0*/transform.npz"))
    ran = cli("index", atlas, "--transform", file)
    assert ran.code == DONE
    assert f"transform whiten (from {file})" in ran.err
    assert "up to date" in cli("index", atlas, "--transform", file).err
    same = [json.loads(cli("info", path, "--json").out)["index"]["transform"]["sha256"] for path in (many, atlas)]
    assert same[0] == same[1]

    assert cli("embed", "ACGUU", "GGGUU", "-o", tmp_path / "foreign", "--model", other, *INLINE).code == DONE
    ran = cli("index", tmp_path / "foreign", "--transform", file)
    assert ran.code == FAILED
    assert "was learned from vectors of another model, layer or pooling" in ran.err


@pytest.mark.parametrize("name", ["zca", "whiten:", "pca", "whiten:many"])
def test_unknown_names_are_refused_before_anything_is_read(cli: Cli, atlas: Path, name: str) -> None:
    ran = cli("index", atlas, "--transform", name)
    assert ran.code == USAGE
    assert f"transform '{name}': unknown; use auto, none, center" in ran.err
