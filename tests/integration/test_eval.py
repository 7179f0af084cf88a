"""`raypipe eval retrieval` and `raypipe eval mlm` from the command line, with a small model of random weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import load
from raypipe.cli import run
from raypipe.evaluation.tools import TOOLS
from raypipe.splits import part_of
from tests.headed import make_headed

FAMILIES, CLUSTERS = 12, 3
GRIDS = [
    (["--pooling", "mean,max"], [("mean", -1, "last"), ("max", -1, "last")]),
    (["--layer", "-1,0"], [("mean", -1, "last"), ("mean", 0, "0")]),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_headed(tmp_path_factory.mktemp("eval") / "tiny")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Families of three clusters of two; two families share a clan, whose letters they share in part."""
    rng = np.random.default_rng(3)
    letters = np.array(list("ACGU"))

    def change(text: np.ndarray, rate: float) -> np.ndarray:
        return np.where(rng.random(len(text)) < rate, rng.choice(letters, len(text)), text)

    rows = []
    for family in range(FAMILIES):
        if family % 2 == 0:
            clan = rng.choice(letters, 80)
        ancestor = change(clan, 0.25)  # pyright: ignore[reportPossiblyUnboundVariable]
        for cluster in range(CLUSTERS):
            centre = change(ancestor, 0.08)
            for member in range(2):
                # The first letter tells the two apart, whatever else is changed.
                text = "GC"[member] + "".join(change(centre, 0.02))
                name = f"f{family}-{cluster}-{member}"
                rows.append((name, text, f"F{family}", f"C{family // 2}", f"{family}-{cluster}"))
    path = tmp_path_factory.mktemp("table") / "families.csv"
    path.write_text("\n".join(",".join(row) for row in [("id", "sequence", "rfam_acc", "clan", "cluster80"), *rows]))
    return path


def retrieval(table: Path, *options: object, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(["eval", "retrieval", str(table), "--format", "json", *map(str, options)]) == 0
    return json.loads(capsys.readouterr().out)


def slow_top1(vectors: np.ndarray, rows: list[dict[str, str]]) -> float:
    """Family top-1 leaving clusters out, one query after another."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    right = []
    for one, row in zip(units, rows, strict=True):
        scores = [
            -2.0 if other["cluster80"] == row["cluster80"] else float(one @ unit)
            for unit, other in zip(units, rows, strict=True)
        ]
        right.append(rows[int(np.argmax(scores))]["rfam_acc"] == row["rfam_acc"])
    return float(np.mean(right))


@pytest.mark.parametrize(("grid", "which"), GRIDS)
def test_grid_of_poolings_layers_and_transforms(
    table: Path,
    checkpoint: Path,
    grid: list[str],
    which: list[tuple[str, int, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--models", checkpoint, *grid, "--transform", "none,center,whiten:4"]
    options += ["--baselines", "kmer", "--split", "all", "--codes", "none,SQfp16,SQ4"]
    found = retrieval(table, *options, capsys=capsys)
    rows = {row["method"]: row for row in found["rows"]}
    assert len(rows) == 2 * 3 * 3 + 1
    assert rows["6-mers"]["family_top1"] > 0.95
    assert rows["6-mers"]["family_top1"] > rows["6-mers"]["clan_top1"] > 1 / FAMILIES
    assert rows["tiny, mean, layer last, whiten:4"]["dims"] == 4
    with table.open() as file:
        given = list(csv.DictReader(file))
    model = load(checkpoint)
    for pooling, layer, name in which:
        vectors = model.embed([row["sequence"] for row in given], pooling, layer)  # pyright: ignore[reportArgumentType]
        for kind, moved in [("none", vectors), ("center", _units(vectors) - _units(vectors).mean(axis=0))]:
            top1 = rows[f"tiny, {pooling}, layer {name}, {kind}"]["family_top1"]
            assert top1 == pytest.approx(slow_top1(moved, given), abs=0.03)
            held = rows[f"tiny, {pooling}, layer {name}, {kind}, SQfp16"]
            assert held["family_top1"] == pytest.approx(top1, abs=0.03)
            assert (
                held["bytes_per_vector"],
                rows[f"tiny, {pooling}, layer {name}, {kind}, SQ4"]["bytes_per_vector"],
            ) == (
                2 * vectors.shape[1],
                vectors.shape[1] // 2,
            )
    assert found["queries"] == {"family": 72, "clan": 72}
    assert found["counts"]["sequences"] == 72
    assert rows["6-mers"]["family_groups"] == FAMILIES
    assert rows["6-mers"]["clan_groups"] == FAMILIES // 2


def _units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_queries_are_of_the_part_and_targets_are_all(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {}
    for part in ("test", "valid", "train", "all"):
        clans = [f"C{clan}" for clan in range(FAMILIES // 2) if part in (part_of(f"C{clan}"), "all")]
        if not clans:
            assert (
                run(["eval", "retrieval", str(table), "--models", "none", "--baselines", "kmer", "--split", part]) == 1
            )
            assert f"no family of the part '{part}'" in capsys.readouterr().err
            continue
        found = retrieval(table, "--models", "none", "--baselines", "kmer", "--split", part, capsys=capsys)
        counts[part] = found["queries"]["family"]
        assert counts[part] == 12 * len(clans)
        assert found["counts"]["sequences"] == 72
    assert sum(number for part, number in counts.items() if part != "all") == counts["all"] == 72


def test_sample_is_always_the_same(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--models", "none", "--baselines", "kmer", "--split", "all", "--sample", "10"]
    one, other = (retrieval(table, *options, capsys=capsys)["rows"][0] for _ in range(2))
    assert one["family_queries"] == one["clan_queries"] == 10
    assert {key: value for key, value in one.items() if "seconds" not in key} == {
        key: value for key, value in other.items() if "seconds" not in key
    }


def test_tools_in_the_same_command(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = [why for tool in TOOLS.values() if (why := tool.missing())]
    if absent:
        pytest.skip("; ".join(absent))
    found = retrieval(table, "--models", "none", "--split", "all", "--threads", 1, capsys=capsys)
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == ["6-mers", "BLASTN", "MMseqs2"]
    assert all(row["family_top1"] > 0.95 for row in rows.values())
    assert rows["BLASTN"]["clan_any10"] > 0.5
    assert any("-word_size 7 -strand plus" in note for note in found["notes"])


def test_absent_tools_are_skipped_under_auto_and_an_error_by_name(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = retrieval(table, "--models", "none", "--split", "all", capsys=capsys)
    assert [row["method"] for row in found["rows"]] == ["6-mers"]
    assert [note.split(":")[0] for note in found["skipped"]] == ["BLASTN", "MMseqs2"]
    assert run(["eval", "retrieval", str(table), "--baselines", "kmer,blastn"]) == 2
    assert "--baselines blastn: blastn, makeblastdb: not found on the PATH; install with" in capsys.readouterr().err


def test_vectors_are_kept_and_found_again(
    table: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--models", checkpoint, "--baselines", "none", "--split", "all", "--cache", tmp_path / "kept"]
    first = retrieval(table, *options, capsys=capsys)
    (file,) = (tmp_path / "kept").iterdir()
    made = file.stat().st_mtime_ns
    assert run(["eval", "retrieval", str(table), "--format", "json", *map(str, options)]) == 0
    said = capsys.readouterr()
    assert f"vectors out of {file}" in said.err
    assert file.stat().st_mtime_ns == made
    again = json.loads(said.out)
    assert [row["family_top1"] for row in again["rows"]] == [row["family_top1"] for row in first["rows"]]
    retrieval(table, *options, "--pooling", "max", capsys=capsys)
    assert len(list((tmp_path / "kept").iterdir())) == 2
    file.write_bytes(b"torn")
    assert run(["eval", "retrieval", str(table), *map(str, options)]) == 1
    assert f"{file}: damaged" in capsys.readouterr().err


def test_table_for_people_and_files_beside(
    table: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.tsv"
    options = ["--baselines", "kmer", "--split", "all", "--model", str(checkpoint)]
    assert run(["eval", "retrieval", str(table), *options]) == 0
    text = capsys.readouterr().out
    assert "72 rows, 72 distinct sequences of 12 families, 6 clans and 36 clusters" in text
    assert "6-mers: cosine of counts" in text
    assert run(["eval", "retrieval", str(table), *options, "--format", "tsv", "-o", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["method"].split(",")[0] for row in rows][-1] == "6-mers"
    assert all(f"{float(row['family_top1']):.3f}" in text for row in rows)
    assert json.loads(Path(f"{out}.settings.json").read_text())["models"] == [str(checkpoint)]
    assert run(["eval", "retrieval", str(table), "-o", str(table)]) == 2


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--models", "nothing"], 1, "no model 'nothing'"),
        (["--layer", "0,9"], 2, "--layer 9"),
        (["--layer", "last"], 2, "layer 'last': give whole numbers"),
        (["--pooling", "mean,median"], 2, "pooling 'median': unknown; use"),
        (["--transform", "bleach"], 2, "transform 'bleach': unknown"),
        (["--codes", "Foo7", "--split", "all", "--baselines", "none"], 1, "codes 'Foo7': FAISS has none of that name"),
        (["--baselines", "blast"], 2, "baseline 'blast': unknown; use"),
        (["--baselines", "auto,kmer"], 2, "auto and none stand alone"),
        (["--models", "none", "--baselines", "none"], 2, "nothing to compare"),
        (["--cluster-column", "rfam_acc", "--baselines", "kmer"], 1, "no family has sequences of two clusters"),
        (["--transform", "whiten:99", "--split", "all", "--baselines", "none"], 1, "use at most 16"),
        (["--cache", "/dev/null/x", "--split", "all", "--baselines", "none"], 1, "--cache /dev/null/x: cannot be made"),
    ],
)
def test_bad_words(
    table: Path, checkpoint: Path, options: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = [] if "--models" in options else ["--models", str(checkpoint)]
    assert run(["eval", "retrieval", str(table), *model, *options]) == code
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert said in err
    assert "Traceback" not in err


def test_settings_by_file_and_environment(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("models: none\nbaselines: [kmer]\nsplit: train\nkmer: 4\nlayer: [0, -1]\n")
    monkeypatch.setenv("RAYPIPE_EVAL_RETRIEVAL_SPLIT", "all")
    found = retrieval(table, "--config", config, "--kmer", "5", capsys=capsys)
    assert found["settings"]["layer"] == ["0", "-1"]
    assert found["settings"]["split"] == "all"
    assert [row["method"] for row in found["rows"]] == ["5-mers"]
    monkeypatch.setenv("RAYPIPE_EVAL_RETRIEVAL_SPLITS", "all")
    assert run(["eval", "retrieval", str(table)]) == 2
    assert "RAYPIPE_EVAL_RETRIEVAL_SPLITS: eval retrieval has no such setting" in capsys.readouterr().err


def test_masked_letters(table: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--models", str(checkpoint), "--share", "0.5", "--by", "clan", "--format", "json", "--context", "2"]
    assert run(["eval", "mlm", str(table), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {(row["group"], row["method"]): row for row in found["rows"]}
    methods = ["uniform", "composition", "context 2+2", "tiny"]
    assert [row["method"] for row in found["rows"] if row["group"] == "all"] == methods
    assert rows["all", "uniform"]["cross_entropy"] == pytest.approx(np.log(4))
    # Relatives of the sequences are among the others: their words help.
    assert rows["all", "context 2+2"]["cross_entropy"] < rows["all", "uniform"]["cross_entropy"]
    assert rows["all", "context 2+2"]["accuracy"] > 0.27
    for method in methods:
        parts = [rows[group, method] for group, name in rows if name == method and group.startswith("C")]
        whole = rows["all", method]
        assert sum(row["nucleotides"] for row in parts) == whole["nucleotides"]
        total = sum(row["nucleotides"] * row["cross_entropy"] for row in parts)
        assert total / whole["nucleotides"] == pytest.approx(whole["cross_entropy"])
        assert whole["perplexity"] == pytest.approx(np.exp(whole["cross_entropy"]))


def test_masked_letters_of_the_model_are_those_of_its_logits(
    table: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from raypipe.evaluation.hidden import read_task
    from raypipe.evaluation.settings import MlmEvalSettings

    options = ["--share", "0.2", "--seed", "4", "--rate", "0.3"]
    command = ["eval", "mlm", str(table), "--models", str(checkpoint), *options, "--format", "json"]
    assert run(command) == 0
    found = json.loads(capsys.readouterr().out)
    asked = read_task([str(table)], MlmEvalSettings(share=0.2, seed=4, rate=0.3), lambda _: None).asked
    model = load(checkpoint)
    losses, right = [], []
    for one in asked:
        logits = model.logits([one.text], head="masked_lm")[0][1:-1][:, model.alphabet.nucleotides].astype(float)
        for place, letter in zip(one.places, one.letters, strict=True):
            shares = np.exp(logits[place]) / np.exp(logits[place]).sum()
            losses.append(-np.log(shares[letter]))
            right.append(shares.argmax() == letter)
    row = next(row for row in found["rows"] if row["method"] == "tiny" and row["group"] == "all")
    assert row["cross_entropy"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert row["accuracy"] == pytest.approx(np.mean(right))


def test_masked_letters_for_people(table: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "mlm", str(table), "--models", str(checkpoint), "--share", "1", "--sample", "5"]) == 0
    said = capsys.readouterr()
    assert "72 distinct sequences; 72 of them held out by md5 (share 1), 5 asked for" in said.out
    # Nothing is left to learn from.
    assert "context 3+3" not in said.out.split("\n\n")[1]
    assert run(["eval", "mlm"]) == 2
    assert run(["eval", "mlm", str(table), "--models", "nothing"]) == 1
    assert run(["eval", "mlm", "no-such.fa", "--models", str(checkpoint)]) == 1


def test_what_is_cut_off_is_not_asked_for(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(9)
    (tmp_path / "long.fa").write_text(">a\n" + "".join(rng.choice(list("ACGU"), 2000)) + "\n")
    hidden = {}
    for way in ("window", "truncate"):
        command = ["eval", "mlm", str(tmp_path / "long.fa"), "--models", str(checkpoint), "--share", "1"]
        assert run([*command, "--on-long", way, "--format", "json"]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        hidden[way] = {row["method"]: row["nucleotides"] for row in rows if row["group"] == "all"}
    assert hidden["window"] == {"uniform": 300, "composition": 300, "tiny": 300}
    # Among the first 1022 of 2000 nucleotides; the other methods are asked for the same ones.
    assert len(set(hidden["truncate"].values())) == 1
    assert 120 < hidden["truncate"]["tiny"] < 185
