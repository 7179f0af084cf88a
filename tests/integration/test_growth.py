"""An atlas grows and shrinks: what is new is embedded and added, what is removed is found no more, ids stay."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raypipe
from index.store import Store
from raypipe.cli import DONE, FAILED, INCOMPLETE, USAGE
from tests.headed import make_headed
from tests.integration.conftest import Cli

INLINE = ["--executor", "inline", "--shard-tokens", "400"]


def sequences(number: int, seed: int) -> list[str]:
    dice = random.Random(seed)
    return ["".join(dice.choices("ACGU", k=dice.randint(20, 60))) for _ in range(number)]


def write(path: Path, named: dict[str, str]) -> Path:
    path.write_text("".join(f">{name} of {path.stem}\n{text}\n" for name, text in named.items()))
    return path


def info(atlas: Path) -> dict[str, Any]:
    version = (atlas / "index" / "CURRENT").read_text().strip()
    return json.loads((atlas / "index" / version / "index.json").read_text())


def hits(atlas: Path, sequence: str, k: int = 3) -> list[dict[str, Any]]:
    return raypipe.connect(atlas).search(sequence, k=k, columns=["id", "seq_id", "n_records", "score"]).to_pylist()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas of 200 sequences with its index; the checkpoint lies beside it. Not to be changed."""
    from raypipe.cli import run

    folder = tmp_path_factory.mktemp("growth")
    make_headed(folder / "headed")
    fasta = write(folder / "first.fa", {f"a{k}": text for k, text in enumerate(sequences(200, 1))})
    assert run(["embed", str(fasta), "-o", str(folder / "atlas"), "--model", str(folder / "headed"), *INLINE]) == DONE
    assert run(["index", str(folder / "atlas")]) == DONE
    return folder / "atlas"


@pytest.fixture
def atlas(first: Path, tmp_path: Path) -> Path:
    """A copy."""
    return Path(shutil.copytree(first, tmp_path / "atlas"))


def test_a_file_that_is_mostly_known_costs_what_is_new(cli: Cli, first: Path, atlas: Path, tmp_path: Path) -> None:
    new = sequences(20, 2)
    shared = {f"b{k}": text for k, text in enumerate([*sequences(200, 1)[:180], *new])}
    before = {path: path.stat().st_mtime_ns for path in (atlas / "embeddings" / "headed").glob("part-*")}
    assert cli("ingest", write(tmp_path / "more.fa", shared), "-o", atlas).code == DONE
    ran = cli("embed", atlas, "--model", first.with_name("headed"), *INLINE)
    assert ran.code == DONE, ran.err
    assert "embedding 20 sequences" in ran.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    old = info(atlas)
    grown = cli("index", atlas)
    assert "220 vectors" in grown.err
    assert "(20 of them added to an index learned from 200)" in grown.err
    now = info(atlas)
    assert now["transform"]["sha256"] == old["transform"]["sha256"]
    # As if all were searched by hand in the old space, and ids stay.
    assert hits(atlas, new[3], 1)[0]["id"] == "b183"
    assert hits(atlas, sequences(200, 1)[5], 1) == [
        {
            "id": "a5",
            "seq_id": hits(first, sequences(200, 1)[5], 1)[0]["seq_id"],
            "n_records": 2,
            "score": pytest.approx(1),
        }
    ]
    again = cli("index", atlas)
    assert "up to date" in again.err
    anew = cli("index", atlas, "--anew")
    assert "of them added" not in anew.err
    assert info(atlas)["transform"]["sha256"] != old["transform"]["sha256"]


@pytest.mark.parametrize("kind", ["flat", "IVF4,SQ8", "HNSW16"])
def test_added_is_as_built(cli: Cli, first: Path, atlas: Path, tmp_path: Path, kind: str) -> None:
    """In the same space, every type: the rows, and the neighbours of the exact one."""
    assert cli("index", atlas, "--type", kind, "--transform", "whiten").code == DONE
    space = atlas / "index" / (atlas / "index" / "CURRENT").read_text().strip() / "transform.npz"
    kept = Path(shutil.copy(space, tmp_path / "transform.npz"))
    new = {f"c{k}": text for k, text in enumerate(sequences(40, 3))}
    assert cli("embed", write(tmp_path / "c.fa", new), "-o", tmp_path / "c", *INLINE).code == DONE
    assert cli("ingest", tmp_path / "c.fa", "-o", atlas).code == DONE
    assert cli("embed", atlas, "--model", first.with_name("headed"), *INLINE).code == DONE
    added = cli("index", atlas, "--type", kind, "--transform", "whiten")
    assert "(40 of them added" in added.err, added.err
    opened = raypipe.connect(atlas).searcher
    queries = opened.vectors(np.arange(0, 240, 7))
    found = opened.search(queries, 5)
    assert (found[0][:, 0] == np.arange(0, 240, 7)).mean() > 0.9
    if kind == "flat":
        built = cli("index", atlas, "--type", kind, "--anew", "--transform", kept)
        assert "of them added" not in built.err
        whole = raypipe.connect(atlas).searcher.search(queries, 5)
        assert np.array_equal(whole[0], found[0])
        assert np.allclose(whole[1], found[1], atol=1e-6)


def test_much_that_is_new_is_learned_from(cli: Cli, first: Path, atlas: Path, tmp_path: Path) -> None:
    many = {f"d{k}": text for k, text in enumerate(sequences(60, 4))}
    assert cli("ingest", write(tmp_path / "d.fa", many), "-o", atlas).code == DONE
    assert cli("embed", atlas, "--model", first.with_name("headed"), *INLINE).code == DONE
    built = cli("index", atlas)
    assert "260 vectors" in built.err
    assert "of them added" not in built.err
    assert "scores are of another space" in built.err


def test_what_is_removed_is_found_no_more(cli: Cli, first: Path, atlas: Path, tmp_path: Path) -> None:
    texts = sequences(200, 1)
    (tmp_path / "notes.tsv").write_text("id\tfamily\na7\tseven\na8\teight\n")
    # A second record of a8's sequence, and another sequence of the id a9.
    twice = {"copy": texts[8], "a9": sequences(1, 5)[0]}
    assert cli("ingest", write(tmp_path / "twice.fa", twice), "-o", atlas).code == DONE
    assert cli("embed", atlas, "--model", first.with_name("headed"), *INLINE).code == DONE
    assert cli("index", atlas).code == DONE
    before = hits(atlas, texts[8], 1)[0]
    assert (before["id"], before["n_records"]) == ("a8", 2)
    (tmp_path / "ids.txt").write_text("a8\nnobody\n\n")
    done = cli("remove", atlas, "--ids", "a7,a9", "--ids-from", tmp_path / "ids.txt")
    assert done.code == DONE
    assert "removed 4 records; 3 sequences have no other and are found no more" in done.err
    assert "1 ids are not there: nobody" in done.err
    # No new index is needed.
    left = hits(atlas, texts[8], 1)[0]
    assert (left["id"], left["n_records"], left["seq_id"]) == ("copy", 1, before["seq_id"])
    assert "a7" not in [hit["id"] for hit in hits(atlas, texts[7], 199)]
    assert len(hits(atlas, texts[7], 1000)) == 201 - 3
    counts = (
        "SELECT (SELECT count(*) FROM records), (SELECT count(*) FROM sequences), count(*) FROM sequences "
        "WHERE sequence = '{}'"
    )
    assert list(raypipe.connect(atlas).sql(counts.format(texts[7])).to_pylist()[0].values()) == [198, 198, 0]
    for question in (["--ids", "a7"], [texts[7], "--where", "id = 'a7'"]):
        asked = cli("search", atlas, *question)
        assert asked.code == (FAILED if question[0] == "--ids" else DONE)
        assert "a7" not in asked.out
    annotated = cli("annotate", atlas, f"notes={tmp_path / 'notes.tsv'}")
    assert annotated.code == FAILED
    assert cli("verify", atlas, "--deep").code == DONE
    assert "4 removed since" in cli("info", atlas).out
    assert cli("index", atlas).code == DONE
    assert "a7" not in [hit["id"] for hit in hits(atlas, texts[7], 199)]
    # Its source does not bring it back; another one does, under the same seq_id.
    assert "ingested before" in cli("ingest", first.with_name("first.fa"), "-o", atlas).err
    assert cli("ingest", write(tmp_path / "back.fa", {"a7": texts[7]}), "-o", atlas).code == DONE
    assert "nothing to embed" in cli("embed", atlas, "--model", first.with_name("headed"), *INLINE).err
    assert cli("index", atlas).code == DONE
    assert hits(atlas, texts[7], 1)[0]["id"] == "a7"
    assert hits(atlas, texts[7], 1)[0]["seq_id"] == hits(first, texts[7], 1)[0]["seq_id"]
    assert Store.open(atlas).num_sequences == 201


def test_removing_what_is_not_there(cli: Cli, atlas: Path) -> None:
    for options, code, message in (
        ([], USAGE, "name the records to remove"),
        (["--ids", "nobody"], FAILED, "no record with id nobody"),
        (["--ids-from", "nothing.txt"], FAILED, "nothing.txt: cannot be read"),
    ):
        ran = cli("remove", atlas, *options)
        assert ran.code == code
        assert message in ran.err
    assert cli("remove", atlas, "--ids", "a1").code == DONE
    assert "no record with id a1" in cli("remove", atlas, "--ids", "a1").err
    (stone,) = (atlas / "removed").iterdir()
    stone.write_bytes(stone.read_bytes()[:-9])
    told = cli("verify", atlas)
    assert told.code == INCOMPLETE
    assert f"{stone}: damaged" in told.out
