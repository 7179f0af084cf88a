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
import torch
from safetensors.torch import load_file

from model import Structure, load
from model.structure import parse_dot_bracket
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


def hairpins(number: int) -> list[tuple[str, str]]:
    """(sequence, dot-bracket) of stems with a loop of A."""
    dice = random.Random(3)
    found = []
    for _ in range(number):
        stem = "".join(dice.choices("GC", k=dice.randint(4, 7)))
        back = stem[::-1].translate(str.maketrans("GC", "CG"))
        left, right = "A" * dice.randint(0, 4), "A" * dice.randint(0, 4)
        pairs = "." * len(left) + "(" * len(stem) + "....." + ")" * len(stem) + "." * len(right)
        found.append((f"{left}{stem}AAAAA{back}{right}", pairs))
    return found


@pytest.mark.parametrize("task", ["structure", "contact"])
def test_pairs_of_dot_bracket_files(cli: Cli, narrow: Path, tmp_path: Path, task: str) -> None:
    path = tmp_path / "pins.dbn"
    records = [f">p{k} about\n{seq}\n{pairs} (-3.40)\n" for k, (seq, pairs) in enumerate(hairpins(60))]
    path.write_text("".join([*records, ">bad\nGGGAAACCC\n(((...))\n"]))
    out = tmp_path / "result"
    ran = cli(
        "finetune",
        "--task",
        task,
        "--data",
        path,
        "--model",
        narrow,
        "-o",
        out,
        "--epochs",
        3,
        "--batch-tokens",
        200,
        "--lr",
        "0.01",
        "--name",
        "pins",
        "--positive-weight",
        2,
    )
    found = metrics(ran, out)
    assert found["parts"]["test"]["n"] > 0
    assert 0.05 <= found["threshold"] <= 0.95
    assert "1 rejected" in ran.err
    assert [row.split("\t")[2:] for row in (out / "rejects.tsv").read_text().splitlines()[1:]] == [
        ["bad", "rejected", "structure: a dot-bracket of 8 characters for 9 nucleotides"]
    ]
    held = pq.read_table(out / "predictions.parquet").to_pylist()
    predicted = cli(
        "predict",
        *[row["sequence"] for row in held],
        "--model",
        narrow,
        "--heads",
        out / "pins.safetensors",
        "--format",
        "dbn" if task == "structure" else "jsonl",
    )
    assert predicted.code == DONE, predicted.err
    known = dict(hairpins(60))
    if task == "structure":
        assert predicted.out.splitlines()[2::3] == [row["predicted"] for row in held]
        assert [row["structure"] for row in held] == [known[row["sequence"]] for row in held]
        assert np.mean([row["f1"] for row in held]) == pytest.approx(found["parts"]["test"]["f1"])
    else:
        said = [json.loads(line)["predictions"]["pins"]["contacts"] for line in predicted.out.splitlines()]
        assert [[[i - 1, j - 1] for i, j, _ in one] for one in said] == [
            list(map(list, zip(row["i"], row["j"], strict=True))) for row in held
        ]
        assert [row["contacts"] for row in held] == [
            list(map(list, parse_dot_bracket(known[row["sequence"]]))) for row in held
        ]


def test_structures_of_bpseq_and_ct_files_and_of_a_table(cli: Cli, narrow: Path, tmp_path: Path) -> None:
    """The same structures in three forms give the same head."""
    folder = tmp_path / "files"
    folder.mkdir()
    known = [(f"p{k}", Structure(seq, parse_dot_bracket(pairs))) for k, (seq, pairs) in enumerate(hairpins(30))]
    for k, (name, structure) in enumerate(known):
        form = "bpseq" if k % 2 else "ct"
        (folder / f"{name}.{form}").write_text(structure.bpseq() if k % 2 else structure.ct(name))
    ordered = sorted(known, key=lambda one: f"{one[0]}.{'bpseq' if int(one[0][1:]) % 2 else 'ct'}")
    table = {
        "id": [name for name, _ in ordered],
        "sequence": [structure.sequence for _, structure in ordered],
        "contacts": [list(structure.pairs) for _, structure in ordered],
        "structure": [structure.dot_bracket for _, structure in ordered],
    }
    pq.write_table(pa.table(table), tmp_path / "pins.parquet")
    heads = []
    for name, data, more in (
        ("a", folder, []),
        ("b", tmp_path / "pins.parquet", []),
        ("c", tmp_path / "pins.parquet", ["--labels", "contacts"]),
    ):
        out = tmp_path / name
        ran = cli(
            "finetune",
            "--task",
            "structure",
            "--data",
            data,
            "--model",
            narrow,
            "-o",
            out,
            "--epochs",
            1,
            "--name",
            "pins",
            "--valid",
            "0.2",
            "--test",
            "0.2",
            *more,
        )
        assert ran.code == DONE, ran.err
        heads.append(load_file(out / "pins.safetensors"))
    # Tensors, not bytes: safetensors writes the metadata of a file in any order.
    for other in heads[1:]:
        assert other.keys() == heads[0].keys()
        assert all(torch.equal(other[name], heads[0][name]) for name in other)


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
        "--epochs",
        1,
    )
    found = metrics(ran, out)
    assert found["labels"] == ["mixed", "purine", "pyrimidine"]
    assert sum(part["sequences"] for part in found["parts"].values()) == 90
    for said in ("5 of rare classes", "1 without a row in the table", "1 without a sequence", "25 not in the sample"):
        assert said in ran.err


def test_shipped_recipes_and_the_environment(
    cli: Cli, narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of configs/ are taken as they are; the environment wins over them, the command line over both."""
    monkeypatch.setenv("RAYPIPE_FINETUNE_EPOCHS", "2")
    monkeypatch.setenv("RAYPIPE_FINETUNE_LR", "0.5")
    lines = ["id\tsequence\tstructure\tfamily\tdup_of_earlier"]
    lines += [f"p{k}\t{seq}\t{pairs}\tf{k % 20}\t{k % 10 == 0}" for k, (seq, pairs) in enumerate(hairpins(80))]
    (tmp_path / "pins.tsv").write_text("\n".join(lines) + "\n")
    common = ["--model", narrow, "--lr", "0.01"]
    out = tmp_path / "structure"
    ran = cli(
        "finetune",
        "--config",
        "finetune-structure",
        "--data",
        tmp_path / "pins.tsv",
        "-o",
        out,
        "--name",
        "pins",
        *common,
    )
    assert metrics(ran, out)["epochs"] == 2
    assert "8 not chosen by --where" in ran.err
    told = json.loads((out / "settings.json").read_text())
    assert (told["lr"], told["epochs"], told["group_column"], told["threshold"]) == (0.01, 2, ["family"], "auto")
    data = sequences(260, {"tRNA": KINDS["purine"], "rRNA": KINDS["pyrimidine"]})
    (tmp_path / "in.fa").write_text("".join(f">s{k}\n{seq}\n" for k, (_, seq) in enumerate(data)))
    rows_ = [f"s{k}\t{'structure_db' if k < 10 else kind}" for k, (kind, _) in enumerate(data)]
    (tmp_path / "types.tsv").write_text("\n".join(["id\trna_type", *rows_]) + "\n")
    out = tmp_path / "type"
    ran = cli(
        "finetune",
        "--config",
        "finetune-rna-type",
        "--data",
        tmp_path / "in.fa",
        "--table",
        tmp_path / "types.tsv",
        "-o",
        out,
        "--name",
        "type",
        *common,
    )
    assert metrics(ran, out)["labels"] == ["rRNA", "tRNA"]
    assert "10 unlabelled" in ran.err
