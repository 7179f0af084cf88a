"""`raypipe finetune` of structures and contacts: their files, and that the result is what `raypipe predict` uses."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from model import Structure
from model.structure import parse_dot_bracket
from raypipe.cli import DONE, USAGE
from tests.headed import make_headed
from tests.integration.conftest import Cli


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow checkpoint."""
    return make_headed(tmp_path_factory.mktemp("models") / "narrow")


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


# Structures are also trained on below, from other files.
@pytest.mark.parametrize("task", [pytest.param("structure", marks=pytest.mark.slow), "contact"])
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
    assert ran.code == DONE, ran.err
    found = json.loads((out / "metrics.json").read_text())
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


def test_the_shipped_recipe_and_the_environment(
    cli: Cli, narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of configs/ is taken as it is; the environment wins over it, the command line over both."""
    monkeypatch.setenv("RAYPIPE_FINETUNE_EPOCHS", "2")
    monkeypatch.setenv("RAYPIPE_FINETUNE_LR", "0.5")
    lines = ["id\tsequence\tstructure\tfamily\tdup_of_earlier"]
    names = {1: "tmRNA", 2: "5S_rRNA"}
    lines += [
        f"p{k}\t{seq}\t{pairs}\t{names.get(k % 20, 'other')}\t{k % 10 == 0}"
        for k, (seq, pairs) in enumerate(hairpins(80))
    ]
    (tmp_path / "pins.tsv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "result"
    data = ["--data", tmp_path / "pins.tsv"]
    ran = cli("finetune", "--config", "finetune-structure", *data, "-o", out, "--model", narrow, "--lr", "0.01")
    assert ran.code == DONE, ran.err
    assert json.loads((out / "metrics.json").read_text())["epochs"] == 2
    assert "8 not chosen by --where" in ran.err
    told = json.loads((out / "settings.json").read_text())
    assert (told["lr"], told["epochs"], told["cluster"], told["threshold"]) == (0.01, 2, 0.7, "auto")
    # What it is measured on is found again from the result alone.
    about = json.loads((out / "metrics.json").read_text())["parts"]["test"]
    again = ["eval", "structure", "--as", out, "--compare", "none", "--format", "json"]
    found = json.loads(cli(*again).out)
    assert found["rows"][0]["sequences"] == found["counts"]["sequences"] == about["sequences"] == 8
    assert found["rows"][0]["f1"] == pytest.approx(about["f1"], abs=1e-6)
    assert found["split"]["of"] == str(out)
    one_family = json.loads(cli(*again, "--heads", "none", "--where", "family = 'tmRNA'").out)
    assert one_family["counts"]["sequences"] == 4
    assert one_family["counts"]["not chosen by --where"] == 68
    everything = json.loads(cli(*again, "--heads", "none", "--split", "all").out)
    assert everything["split"]["part"] == "all"
    assert everything["counts"]["sequences"] > 60
    for option, value in (("--group-column", "family"), ("--valid", "0.5")):
        refused = cli(*again, option, value)
        assert refused.code == USAGE
        assert f"{option}: with --as that of the result holds" in refused.err
    assert "is no finished result" in cli("eval", "structure", "--as", tmp_path).err
