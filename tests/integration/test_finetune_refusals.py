"""`raypipe finetune` with what cannot be: data, labels, settings and folders; and stopped half-way."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from index.lock import writer_lock
from model.head_files import read_head_file
from raypipe.cli import DONE, FAILED, INCOMPLETE, USAGE
from tests.headed import make_headed
from tests.integration.conftest import Cli
from tests.runs import MODULE, started

QUICK = ["--epochs", "1"]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow checkpoint with heads of every kind."""
    return make_headed(tmp_path_factory.mktemp("models") / "narrow")


def write(path: Path, many: int, columns: str = "kind", **more: str) -> Path:
    """A table of random sequences; a value is a format of the row's number `k` and its `length`."""
    dice = random.Random(2)
    lines = ["\t".join(["id", "sequence", columns, *more])]
    for k in range(many):
        seq = "".join(dice.choices("ACGU", k=dice.randint(10, 20)))
        cells = [form.format(k=k, half=k % 2, lone=int(k < 2), length=len(seq)) for form in more.values()]
        lines.append(
            "\t".join([f"s{k}", seq, "GC" if seq.count("G") + seq.count("C") > len(seq) / 2 else "AU", *cells])
        )
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, and columns of all sorts."""
    folder = tmp_path_factory.mktemp("data")
    return write(
        folder / "in.tsv",
        120,
        number="{k}",
        one="same",
        sure="1",
        lone="{lone}",
        part="part{half}",
        family="f{half}",
        pairs="[[0, 99]]",
        near="[[0, 9]]",
        void="",
        short="({k})",
    )


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], USAGE, "--task sequence, token, contact or structure"),
        (["--task", "sequence", "--labels", "kin"], FAILED, "no column 'kin'; did you mean 'kind'?"),
        (["--task", "sequence"], USAGE, "name the label column with --labels; it has: id, sequence, kind"),
        (["--task", "sequence", "--labels", "one"], FAILED, "one class only, 'same'"),
        (["--task", "sequence", "--labels", "sure"], FAILED, "column sure: yes only in what is trained on"),
        (["--task", "sequence", "--labels", "sure", "--problem", "regression"], FAILED, "column sure: 1 only in what"),
        (["--task", "sequence", "--labels", "kind", "--problem", "binary"], FAILED, "say which is yes: --positive GC"),
        (["--task", "contact", "--labels", "pairs", "--positive", "GC"], USAGE, "names the yes of two labels"),
        (["--task", "sequence", "--labels", "lone"], USAGE, "--metric auroc: is not defined on valid"),
        (["--task", "contact", "--labels", "pairs", "--whiten"], USAGE, "multiplies states as they are"),
        (
            ["--task", "sequence", "--labels", "kind", "--start", "a.safetensors", "--pooling", "max"],
            USAGE,
            "has its own",
        ),
        (["--task", "sequence", "--labels", "number"], FAILED, "120 different labels"),
        (
            ["--task", "sequence", "--labels", "kind", "--problem", "regression"],
            FAILED,
            "where a finite number is expected",
        ),
        (["--task", "token", "--labels", "kind"], FAILED, "line 2, s0: kind: 2 labels for"),
        (["--task", "structure", "--labels", "kind"], FAILED, "a dot-bracket of 2 characters for"),
        (["--task", "contact", "--labels", "pairs"], FAILED, "the pair [0, 99] is outside of the"),
        (["--task", "contact", "--labels", "pairs", "--problem", "regression"], USAGE, "is there or not (binary)"),
        (["--task", "sequence", "--labels", "kind", "--metric", "rmse"], USAGE, "macro_f1, mcc, auroc"),
        (["--task", "sequence", "--labels", "kind", "--split-column", "part"], FAILED, "it says train, valid or test"),
        (["--task", "sequence", "--labels", "kind", "--group-column", "family"], USAGE, "too few groups for a share"),
        (["--task", "sequence", "--labels", "kind", "--where", "kid = 'GC'"], USAGE, "kid"),
        (["--task", "sequence", "--labels", "kind", "--where", "number::INT < 0"], FAILED, "120 not chosen by --where"),
        (["--task", "sequence", "--labels", "kind", "--rename", "GC"], USAGE, "write OLD=NEW"),
        (
            ["--task", "sequence", "--labels", "kind", "--class-weights", "CG=2"],
            USAGE,
            "no class 'CG'; there are AU, GC",
        ),
        (["--task", "sequence", "--labels", "kind", "--min-per-class", "1000"], USAGE, "no class has so many"),
        (["--task", "sequence", "--labels", "kind", "--trunk-lr", "0.1"], USAGE, "a frozen trunk is not trained"),
        (
            ["--task", "sequence", "--labels", "kind", "--name", "masked_lm"],
            FAILED,
            "is the name of the masked-LM head",
        ),
        (["--task", "sequence", "--labels", "kind", "--epochs", "0"], USAGE, "--epochs 0: measures a head"),
        (["--task", "sequence", "--labels", "kind", "--finish"], USAGE, "holds no finished epoch"),
        (["--task", "sequence", "--labels", "kind", "--lora-rank", "4"], USAGE, "--lora-rank: is for --method lora"),
        (["--task", "sequence", "--labels", "kind", "--threshold", "0.3"], USAGE, "the labels are multiclass"),
        (
            ["--task", "contact", "--labels", "near", "--threshold", "auto", "--valid", "0"],
            USAGE,
            "no valid part to find it on",
        ),
        (
            ["--task", "sequence", "--labels", "number,void", "--problem", "regression"],
            FAILED,
            "column number, void: no value of void in what is trained on",
        ),
        (
            ["--task", "sequence", "--labels", "kind", "--split-column", "part", "--group-column", "family"],
            USAGE,
            "with --split-column the column decides",
        ),
        (
            ["--task", "sequence", "--labels", "kind", "--start", "a.safetensors", "--min-per-class", "2"],
            USAGE,
            "are those of the head of --start",
        ),
        (["--task", "sequence", "--labels", "kind", "--device", "cuda:77"], FAILED, "cuda"),
        (
            ["--task", "sequence", "--labels", "kind", "--valid", "0.6", "--test", "0.5"],
            USAGE,
            "leave nothing to train on",
        ),
        (["--task", "structure", "--labels", "short", "--dropout", "0.5"], USAGE, "a structure head has a fixed form"),
        (["--task", "sequence", "--labels", "kind", "--lora-rank", "99", "--method", "lora"], FAILED, "wider than"),
    ],
)
def test_what_does_not_fit(
    cli: Cli, narrow: Path, table: Path, tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    more = [] if "--epochs" in options else QUICK
    ran = cli("finetune", "--data", table, "--model", narrow, "-o", tmp_path / "out", *options, *more)
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_rows_that_are_broken(cli: Cli, narrow: Path, tmp_path: Path) -> None:
    """A few go to the rejects; more than a few are an error that lists them there."""
    path = write(tmp_path / "in.tsv", 100)
    with path.open("a") as file:
        file.write("protein\tMKVLAA\tGC\nshort\tACGU\nempty\tACGUGGUU\t\n")
    common = ["finetune", "--task", "sequence", "--data", path, "--labels", "kind", "--model", narrow, *QUICK]
    ran = cli(*common, "-o", tmp_path / "strict", "--max-rejects", "0.01")
    assert ran.code == FAILED
    assert "2 of 103 rows cannot be used" in ran.err
    assert "line 102, protein: letter 'L' at position 4 is no nucleotide" in ran.err
    assert cli(*common, "-o", tmp_path / "strict", "--max-rejects", "0.5").code == DONE
    for folder in ("strict",):
        listed = [line.split("\t")[1:4] for line in (tmp_path / folder / "rejects.tsv").read_text().splitlines()[1:]]
        assert sorted(listed) == [["102", "protein", "rejected"], ["103", "", "rejected"], ["104", "empty", "left out"]]


def test_classes_that_train_has_not(cli: Cli, narrow: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "in.tsv", 60, split="train")
    with path.open("a") as file:
        file.write(
            "v1\tACGUGGUA\tGC\tvalid\nv2\tACAUGAUA\tAU\tvalid\nt1\tACGUGGUAA\tnew\ttest\nt2\tACAUGAUAA\tAU\tTest\n"
        )
    out = tmp_path / "out"
    common = ["finetune", "--task", "sequence", "--labels", "kind", "--model", narrow]
    ran = cli(*common, "--data", path, "--split-column", "split", "-o", out, *QUICK)
    assert ran.code == DONE, ran.err
    assert "1 of classes that train has not" in ran.err
    assert "new: no such class in what is trained on" in (out / "rejects.tsv").read_text()
    assert json.loads((out / "metrics.json").read_text())["parts"]["test"]["sequences"] == 1
    # A head that is measured on other data: its classes are all it knows.
    again = [*common, "--start", out / "kind.safetensors", "--epochs", "0", "-o", tmp_path / "measured"]
    ran = cli(*again, "--data", path, "--split-column", "split")
    assert ran.code == FAILED
    assert "t1: the head does not know new; it knows AU, GC" in ran.err
    ran = cli(*again, "--data", path, "--split-column", "split", "--where", "kind <> 'new'")
    assert ran.code == DONE, ran.err
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("out", "measured"))
    assert two["parts"]["test"]["auroc"] == one["parts"]["test"]["auroc"]
    assert one["split_by"] == "the column split"
    assert one["cautions"] == [
        "valid has 2 sequences only: what is chosen on so few is mostly chance; give it more",
        "test has 1 sequence only: what is measured on so few is mostly chance; give it more",
    ]
    # Gone on with: what the head has whitened in its weights is not learned anew.
    some = ["--data", path, "--split-column", "split", "--where", "kind <> 'new'", "--dropout", "0"]
    ran = cli(*again[:-4], *some, "--epochs", "2", "--lr", "0.0001", "-o", tmp_path / "more")
    assert ran.code == DONE, ran.err
    before, after = (json.loads((tmp_path / name / "metrics.jsonl").open().readline()) for name in ("out", "more"))
    assert after["valid"]["loss"] == pytest.approx(before["valid"]["loss"], rel=0.05)
    assert read_head_file(tmp_path / "more" / "kind.safetensors").config.dropout == 0
    heads = [load_file(tmp_path / name / "kind.safetensors") for name in ("out", "measured")]
    assert heads[0].keys() == heads[1].keys()
    for name, value in heads[0].items():
        assert value.tolist() == heads[1][name].tolist()


def test_a_sequence_is_never_on_both_sides(cli: Cli, narrow: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "in.tsv", 40, split="train")
    lines = path.read_text().splitlines()
    copies = [line.replace("\ttrain", "\ttest").replace("s", "copy", 1) for line in lines[1:11]]
    path.write_text("\n".join([*lines, *copies, lines[20]]) + "\n")
    out = tmp_path / "out"
    ran = cli(
        "finetune",
        "--task",
        "sequence",
        "--data",
        path,
        "--labels",
        "kind",
        "--split-column",
        "split",
        "--model",
        narrow,
        "-o",
        out,
        *QUICK,
    )
    assert ran.code == DONE, ran.err
    assert "10 in another part too, 1 repeated" in ran.err
    parts = json.loads((out / "metrics.json").read_text())["parts"]
    assert {name: part["sequences"] for name, part in parts.items()} == {"train": 30, "test": 10}


def test_losses_that_are_no_numbers(cli: Cli, narrow: Path, table: Path, tmp_path: Path) -> None:
    ran = cli(
        "finetune",
        "--task",
        "sequence",
        "--data",
        table,
        "--labels",
        "kind",
        "--model",
        narrow,
        "-o",
        tmp_path / "out",
        "--lr",
        "100",
        "--clip",
        "1e30",
        "--weight-decay",
        "1e35",
        "--epochs",
        "3",
    )
    assert ran.code == FAILED
    assert re.search(r"epoch [12](, step 1|, on valid): the loss is (nan|inf), of the sequences s\d+, s\d+", ran.err)


def test_a_folder_of_something_else(cli: Cli, narrow: Path, table: Path, tmp_path: Path) -> None:
    common = ["finetune", "--task", "sequence", "--data", table, "--labels", "kind", "--model", narrow, *QUICK]
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    ran = cli(*common, "-o", taken)
    assert (ran.code, (taken / "notes.txt").read_text()) == (USAGE, "mine")
    assert "holds something else already" in ran.err
    out = tmp_path / "out"
    ran = cli(*common, "-o", out, "--class-weights", "CG=2")
    assert (ran.code, "no class 'CG'" in ran.err) == (USAGE, True)
    assert not (out / ".state" / "states.bin").exists(), "refused before the trunk has read anything"
    # What another process holds is left to it.
    with writer_lock(out / ".state"):
        ran = cli(*common, "-o", out)
        assert (ran.code, "is writing to this" in ran.err) == (FAILED, True)
        assert (out / ".state" / ".lock").is_file()
    # Nothing is lost yet where no epoch is finished, so the settings may change.
    ran = cli(*common, "-o", out)
    assert ran.code == DONE
    assert "split by sequence: relatives of what is trained on may be measured" in ran.err
    assert "split by sequence" in (out / "README.md").read_text()
    ran = cli(*common, "-o", out, "--lr", "0.5")
    assert ran.code == USAGE
    assert "was begun with --lr 0.001, and now it is 0.5" in ran.err
    # What is finished is no answer for other data, nor for other weights.
    fewer = tmp_path / "fewer.tsv"
    fewer.write_text("\n".join(table.read_text().splitlines()[:-3]) + "\n")
    ran = cli(*(fewer if part == table else part for part in common), "-o", out)
    assert (ran.code, "another content of --data" in ran.err) == (USAGE, True)
    model = tmp_path / "model"
    shutil.copytree(narrow, model)
    of_copy = [*(model if part == narrow else part for part in common), "-o", tmp_path / "copy"]
    assert cli(*of_copy).code == DONE
    shutil.rmtree(model)
    make_headed(model, seed=2)
    ran = cli(*of_copy)
    assert (ran.code, "another content of --model" in ran.err) == (USAGE, True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of several threads differ in their last digits, and training makes that larger."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_stopped_and_gone_on_with(cli: Cli, narrow: Path, table: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle, other settings, other data; then the same head as of a run that nobody stopped.

    Also where it goes on without room for what the trunk gives, which was settled when it began.
    """
    copy = tmp_path / "in.tsv"
    copy.write_text(table.read_text())
    common = [
        "finetune",
        "--task",
        "sequence",
        "--data",
        str(copy),
        "--labels",
        "kind",
        "--model",
        str(narrow),
        "--epochs",
        "15",
        "--patience",
        "15",
        "--batch-tokens",
        "100",
        "--dropout",
        "0.3",
    ]
    whole = cli(*common, "-o", tmp_path / "whole")
    assert whole.code == DONE, whole.err
    out = tmp_path / "out"
    with started([*MODULE, *common, "-o", str(out)], cwd=tmp_path, OMP_NUM_THREADS="1") as run:
        run.wait_for((out / ".state" / "epoch.safetensors").is_file)
        run.process.send_signal(signal.SIGINT)
        run.wait()
    assert run.code == INCOMPLETE, run.err
    assert "run the same command again to go on, or with --finish" in run.err
    assert not (out / "metrics.json").exists()
    ran = cli(*common, "-o", out, "--seed", "7")
    assert (ran.code, "--seed 0, and now it is 7" in ran.err) == (USAGE, True)
    copy.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    ran = cli(*common, "-o", out)
    assert (ran.code, "another content of --data" in ran.err) == (USAGE, True)
    copy.write_text(table.read_text())
    ran = cli(*common, "-o", out, "--cache-gib", "0")
    assert ran.code == DONE, ran.err
    assert "goes on after epoch" in ran.err
    assert "run each epoch" not in ran.err
    assert ran.out == whole.out
    # Tensors, not bytes: safetensors writes the metadata of a file in any order.
    own, other = (load_file(folder / "kind.safetensors") for folder in (out, tmp_path / "whole"))
    assert own.keys() == other.keys()
    for name in own:
        torch.testing.assert_close(own[name], other[name], rtol=1e-6, atol=1e-6)
    assert not (out / ".state").exists()


def test_finishing_early(cli: Cli, narrow: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = [
        "finetune",
        "--task",
        "sequence",
        "--data",
        str(table),
        "--labels",
        "kind",
        "--model",
        str(narrow),
        "--epochs",
        "5000",
        "--patience",
        "5000",
        "-o",
        str(out),
    ]
    with started([*MODULE, *common], cwd=tmp_path) as run:
        run.wait_for((out / ".state" / "epoch.safetensors").is_file)
        run.process.send_signal(signal.SIGTERM)
        run.wait()
    assert run.code == INCOMPLETE, run.err
    ran = cli(*common, "--finish")
    assert ran.code == DONE, ran.err
    found = json.loads((out / "metrics.json").read_text())
    assert 1 <= found["best_epoch"] <= found["epochs"] < 5000
