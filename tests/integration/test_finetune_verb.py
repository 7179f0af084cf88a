"""`raypipe finetune` by the command line: every task and method, and that the result is what `raypipe predict` uses."""

from __future__ import annotations

import csv
import io
import json
import random
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model import load
from raypipe.cli import DONE
from tests.headed import make_headed
from tests.integration.conftest import Cli, Ran

FAST = ["--epochs", 4, "--batch-tokens", 400, "--lr", "0.03"]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow checkpoint with a pooler and a masked-LM head."""
    return make_headed(tmp_path_factory.mktemp("models") / "narrow")


def sequences(
    number: int, weights: dict[str, list[float]], shortest: int = 12, longest: int = 30
) -> list[tuple[str, str]]:
    """(kind, sequence): each kind has letters A C G U in other shares."""
    dice = random.Random(5)
    kinds = list(weights)
    return [
        (kind, "".join(dice.choices("ACGU", weights[kind], k=dice.randint(shortest, longest))))
        for kind in (kinds[k % len(kinds)] for k in range(number))
    ]


KINDS = {"purine": [8.0, 1, 8, 1], "pyrimidine": [1.0, 8, 1, 8], "mixed": [1.0, 1, 1, 1]}


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences of three kinds that differ in their letters, with numbers and yes-or-no columns beside."""
    path = tmp_path_factory.mktemp("data") / "classes.tsv"
    lines = ["id\tsequence\tkind\tgc\tcoding\tfamily"]
    for k, (kind, seq) in enumerate(sequences(240, KINDS)):
        gc = sum(letter in "GC" for letter in seq) / len(seq) * 100 + 500
        lines.append(f"s{k}\t{seq}\t{kind}\t{gc:.2f}\t{int(kind == 'purine')}\tf{k % 40}")
    path.write_text("\n".join(lines) + "\n")
    return path


def metrics(ran: Ran, folder: Path) -> dict:
    assert ran.code == DONE, ran.err
    return json.loads((folder / "metrics.json").read_text())


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize("method", ["frozen", "lora", "full"])
def test_classes_and_the_command_it_advises(cli: Cli, narrow: Path, classes: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "result"
    ran = cli(
        "finetune",
        "--task",
        "sequence",
        "--data",
        classes,
        "--labels",
        "kind",
        "--model",
        narrow,
        "-o",
        out,
        "--method",
        method,
        *FAST,
        *{"full": ["--dtype", "bfloat16"]}.get(method, []),
    )
    found = metrics(ran, out)
    assert found["labels"] == ["mixed", "purine", "pyrimidine"]
    assert found["parts"]["test"]["accuracy"] > found["parts"]["test"]["baseline"]["accuracy"] + 0.25
    assert [path.name for path in sorted(out.iterdir())] == sorted(
        [
            "README.md",
            "curve.png",
            "kind.safetensors",
            "metrics.json",
            "metrics.jsonl",
            "predictions.parquet",
            "predictions.tsv",
            "rejects.tsv",
            "settings.json",
            *{"frozen": [], "lora": ["lora.safetensors", "model"], "full": ["model"]}[method],
        ]
    )
    assert len((out / "metrics.jsonl").read_text().splitlines()) == found["epochs"]
    # The advised command, on the sequences that were held out, gives what the result says.
    held = pq.read_table(out / "predictions.parquet").to_pylist()
    fasta = tmp_path / "held.fa"
    fasta.write_text("".join(f">{row['id']}\n{row['sequence']}\n" for row in held))
    command = shlex.split(ran.err.partition("use the head with: raypipe ")[2].replace("FILE", str(fasta)))
    predicted = cli(*command)
    assert predicted.code == DONE, predicted.err
    assert [(row["id"], row["label"]) for row in rows(predicted.out)] == [(row["id"], row["predicted"]) for row in held]
    for row, own in zip(rows(predicted.out), held, strict=True):
        assert float(row["probability"]) == pytest.approx(own["probability"], rel=1e-4)
    assert np.mean([row["label"] == row["predicted"] for row in held]) == found["parts"]["test"]["accuracy"]
    assert {row["part"] for row in held} == {"test"}
    # Finished: says so, and does nothing.
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = cli("finetune", "--config", out / "settings.json")
    assert (again.code, again.out) == (DONE, ran.out)
    assert "nothing to do" in again.err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_values_come_in_the_units_of_the_labels(cli: Cli, narrow: Path, classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "result"
    ran = cli(
        "finetune", "--task", "sequence", "--data", classes, "--labels", "gc", "--model", narrow, "-o", out, *FAST
    )
    found = metrics(ran, out)
    assert (found["problem"], found["metric"]) == ("regression", "spearman")
    test = found["parts"]["test"]
    assert test["rmse"] < test["baseline"]["rmse"]
    held = pq.read_table(out / "predictions.parquet").to_pylist()
    values, wanted = np.array([[row["predicted"], row["value"]] for row in held]).T
    assert test["rmse"] == pytest.approx(np.sqrt(np.mean((values - wanted) ** 2)), rel=1e-4)
    assert test["pearson"] == pytest.approx(np.corrcoef(values, wanted)[0, 1], rel=1e-4)
    assert np.abs(values - 550).max() < 100
    model = load(narrow)
    name = model.load_head(out / "gc.safetensors")
    said: list[Any] = list(model.predict([row["sequence"] for row in held], name)[name])
    again = np.array([one.value for one in said])
    np.testing.assert_allclose(again, values, rtol=1e-5)


def test_several_outputs_with_gaps(cli: Cli, narrow: Path, tmp_path: Path) -> None:
    """Yes-or-no columns, of which some are empty; and lists of names."""
    data = sequences(160, KINDS)
    table = {
        "sequence": [seq for _, seq in data],
        "rich_in_a": [None if k % 9 == 0 else int(seq.count("A") > len(seq) / 4) for k, (_, seq) in enumerate(data)],
        "rich_in_c": [int(seq.count("C") > len(seq) / 4) for _, seq in data],
        "letters": [[letter for letter in "AC" if seq.count(letter) > len(seq) / 4] for _, seq in data],
    }
    pq.write_table(pa.table(table), tmp_path / "data.parquet")
    common = [
        "finetune",
        "--task",
        "sequence",
        "--data",
        tmp_path / "data.parquet",
        "--model",
        narrow,
        "--test",
        "0.3",
        *FAST,
    ]
    ran = cli(*common, "--labels", "rich_in_a,rich_in_c", "-o", tmp_path / "columns", "--class-weights", "balanced")
    found = metrics(ran, tmp_path / "columns")
    assert (found["problem"], found["labels"], found["name"]) == ("multilabel", ["rich_in_a", "rich_in_c"], "sequence")
    test = found["parts"]["test"]
    assert test["sequences"] < test["n"] < 2 * test["sequences"]
    assert test["auroc"] > 0.8
    assert set(test["outputs"]) == {"rich_in_a", "rich_in_c"}
    found = metrics(cli(*common, "--labels", "letters", "-o", tmp_path / "names"), tmp_path / "names")
    assert (found["problem"], found["labels"]) == ("multilabel", ["A", "C"])
    row = pq.read_table(tmp_path / "names" / "predictions.parquet").to_pylist()[0]
    assert set(row["labels"]) <= {"A", "C"}


def test_nucleotides_from_characters(cli: Cli, narrow: Path, tmp_path: Path) -> None:
    """One character for each nucleotide, renamed and merged; windows of a sequence beyond the context."""
    data = [*sequences(80, KINDS), ("long", "GACU" * 300)]
    kinds = str.maketrans("AGCU", "ryyr")
    lines = ["id,sequence,base", *(f"s{k},{seq},{seq.translate(kinds)}" for k, (_, seq) in enumerate(data))]
    path = tmp_path / "marks.csv"
    path.write_text("\n".join(lines) + "\n")
    out = tmp_path / "result"
    ran = cli(
        "finetune",
        "--task",
        "token",
        "--data",
        path,
        "--labels",
        "base",
        "--rename",
        "r=AU,y=GC",
        "--model",
        narrow,
        "-o",
        out,
        *FAST,
        "--where",
        "id <> 's3'",
    )
    found = metrics(ran, out)
    assert (found["labels"], found["problem"]) == (["AU", "GC"], "multiclass")
    assert found["parts"]["test"]["accuracy"] > 0.9
    assert (
        found["parts"]["train"]["sequences"]
        + found["parts"]["valid"]["sequences"]
        + found["parts"]["test"]["sequences"]
        == 80
    )
    row = pq.read_table(out / "predictions.parquet").to_pylist()[0]
    assert len(row["labels"]) == len(row["predicted"]) == len(row["sequence"])
    ran = cli("predict", "GACU" * 300, "--model", narrow, "--heads", out / "base.safetensors")
    assert np.mean([{"A": "AU", "U": "AU"}.get(r["letter"], "GC") == r["label"] for r in rows(ran.out)]) > 0.75


def test_fasta_with_a_table_and_classes_of_few(cli: Cli, narrow: Path, tmp_path: Path) -> None:
    data = sequences(120, KINDS)
    fasta, notes = tmp_path / "in.fa", tmp_path / "notes.tsv"
    fasta.write_text("".join(f">s{k} note\n{seq}\n" for k, (_, seq) in enumerate(data)) + ">nobody\nACGU\n")
    lines = [f"s{k}\t{kind if k > 4 else 'rare'}" for k, (kind, _) in enumerate(data)]
    notes.write_text("\n".join(["id\tkind", *lines, "ghost\tmixed"]) + "\n")
    out = tmp_path / "result"
    ran = cli(
        "finetune",
        "--task",
        "sequence",
        "--data",
        fasta,
        "--table",
        notes,
        "--labels",
        "kind",
        "--model",
        narrow,
        "-o",
        out,
        "--min-per-class",
        6,
        "--max-per-class",
        30,
        "--cluster",
        0.8,
        "--epochs",
        1,
    )
    found = metrics(ran, out)
    assert found["labels"] == ["mixed", "purine", "pyrimidine"]
    assert sum(part["sequences"] for part in found["parts"].values()) == 90
    assert found["split_by"] == "clusters of sequences alike to 0.8"
    assert "split by sequence" not in ran.err
    for said in ("5 of rare classes", "1 without a row in the table", "1 without a sequence", "25 not in the sample"):
        assert said in ran.err


def test_the_shipped_recipe(cli: Cli, narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of configs/, taken as it is, for a checkpoint that has a head of this name; the new one is named by its file."""
    monkeypatch.setenv("RAYPIPE_FINETUNE_EPOCHS", "2")
    data = sequences(260, {"tRNA": KINDS["purine"], "rRNA": KINDS["pyrimidine"]})
    (tmp_path / "in.fa").write_text("".join(f">s{k}\n{seq}\n" for k, (_, seq) in enumerate(data)))
    rows_ = [f"s{k}\t{'structure_db' if k < 10 else kind}" for k, (kind, _) in enumerate(data)]
    (tmp_path / "types.tsv").write_text("\n".join(["id\trna_type", *rows_]) + "\n")
    files = ["--data", tmp_path / "in.fa", "--table", tmp_path / "types.tsv"]
    out = tmp_path / "type"
    ran = cli("finetune", "--config", "finetune-rna-type", *files, "-o", out, "--model", narrow, "--lr", "0.01")
    assert metrics(ran, out)["labels"] == ["rRNA", "tRNA"]
    assert "10 unlabelled" in ran.err
    held = pq.read_table(out / "predictions.parquet").to_pylist()
    sequence = held[0]["sequence"]
    own = cli("predict", sequence, "--model", narrow, "--heads", "rna_type")
    new = cli("predict", sequence, "--model", narrow, "--heads", out / "rna_type.safetensors")
    assert rows(new.out)[0]["label"] == held[0]["predicted"]
    assert float(rows(new.out)[0]["probability"]) == pytest.approx(held[0]["probability"], rel=1e-4)
    assert own.out != new.out
