"""`raypipe predict` and `raypipe mlm` by the command line: streams of records without a store, and atlases."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.store import Store
from model import Model, load
from model.head_config import HeadConfig
from model.structure import Structure, parse_dot_bracket
from model.structure_files import parse_bpseq, parse_ct
from raypipe.cli import DONE, FAILED, INCOMPLETE, USAGE
from tests.headed import add_heads, make_headed
from tests.integration.conftest import Cli
from tests.runs import MODULE, started

SEQUENCES = {"a": "GGGCAAAAGCCC", "b": "acgt", "c": "UUGNNCCAGUUGGGAGAGC", "d": "A"}
LONG = "GGGCAAAAGCCCUUGA" * 70  # 1120 nt
INLINE = ["--executor", "inline"]


@pytest.fixture(scope="module")
def seasoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow checkpoint with heads for every task beside it, and one that was never trained."""
    folder = make_headed(tmp_path_factory.mktemp("models") / "seasoned")
    add_heads(folder, {"raw": HeadConfig("sequence", "binary", pooling="mean")}, trained=False)
    return folder


@pytest.fixture(scope="module")
def model(seasoned: Path) -> Model:
    """The same, loaded in this process."""
    return load(seasoned)


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fa"
    path.write_text("".join(f">{name} about it\n{sequence}\n" for name, sequence in SEQUENCES.items()))
    return path


def canonical(sequence: str) -> str:
    return sequence.upper().replace("T", "U")


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


def predictions(model: Model, head: str, sequences: Iterable[str] = SEQUENCES.values(), **options: Any) -> list[Any]:
    return model.predict(list(sequences), head, **options)[head]


def records(dbn: str) -> list[tuple[str, Structure]]:
    """The records of a dot-bracket file."""
    lines = dbn.splitlines()
    triples = zip(lines[0::3], lines[1::3], lines[2::3], strict=True)
    return [(name.removeprefix(">"), Structure(seq, parse_dot_bracket(pairs))) for name, seq, pairs in triples]


@pytest.mark.parametrize("options", [{}, {"pseudoknots": True}, {"threshold": 0.2}])
def test_structures_in_every_format(
    cli: Cli, seasoned: Path, model: Model, fasta: Path, options: dict[str, Any]
) -> None:
    expected = [found.structure for found in predictions(model, "structure", **options)]
    assert sum(len(structure.pairs) for structure in expected) > 3
    given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    command = ["predict", fasta, "--heads", "structure", "--model", seasoned, *given]
    ran = cli(*command)
    assert (ran.code, ran.err) == (DONE, "")
    assert records(ran.out) == list(zip(SEQUENCES, expected, strict=True))
    blocks = [f"# {block}" for block in cli(*command, "--format", "bpseq").out.split("# ")[1:]]
    assert [block.split()[1] for block in blocks] == list(SEQUENCES)
    assert list(map(parse_bpseq, blocks)) == expected
    lines = cli(*command, "--format", "ct").out.splitlines(keepends=True)
    for name, structure in zip(SEQUENCES, expected, strict=True):
        block, lines = lines[: len(structure) + 1], lines[len(structure) + 1 :]
        assert block[0].split() == [str(len(structure)), name]
        assert parse_ct("".join(block)) == structure
    assert lines == []


def test_tables_hold_what_the_model_says(cli: Cli, seasoned: Path, model: Model, fasta: Path) -> None:
    ran = cli("predict", fasta, "--heads", "rna_type,half_life,contacts", "--model", seasoned)
    for row, kind, half_life, contacts in zip(
        table(ran.out), *(predictions(model, head) for head in ("rna_type", "half_life", "contacts")), strict=True
    ):
        assert row["rna_type_label"] == kind.label
        assert float(row["rna_type_probability"]) == pytest.approx(kind.values.max(), rel=1e-5)
        assert float(row["half_life_value"]) == pytest.approx(half_life.value, rel=1e-4, abs=1e-6)
        assert row["contacts_dot_bracket"] == contacts.structure.dot_bracket
    assert [row["id"] for row in table(ran.out)] == list(SEQUENCES)
    assert len({row["rna_type_probability"] for row in table(ran.out)}) == 4
    rows = table(cli("predict", fasta, "--heads", "loops", "--model", seasoned).out)
    found = predictions(model, "loops")
    assert [row["label"] for row in rows] == [label for each in found for label in each.labels]
    best = np.concatenate([each.values.max(1) for each in found])
    assert len(set(best.tolist())) > 30
    np.testing.assert_allclose([float(row["probability"]) for row in rows], best, rtol=1e-4)
    assert "".join(row["letter"] for row in rows) == "".join(map(canonical, SEQUENCES.values()))
    without = cli("predict", fasta, "--heads", "loops", "--model", seasoned, "--no-header").out
    assert without.startswith("a\t1\tG\t")


def test_unlike_heads_in_one_pass(cli: Cli, seasoned: Path, model: Model, fasta: Path) -> None:
    heads = "loops,structure,kinds,half_life"
    ran = cli("predict", fasta, "--heads", heads, "--model", seasoned)
    assert ran.code == USAGE
    assert "these fit: jsonl" in ran.err
    ran = cli("predict", fasta, "--heads", heads, "--model", seasoned, "--format", "jsonl")
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert [about["id"] for about in found] == list(SEQUENCES)
    together: dict[str, list[Any]] = model.predict(list(SEQUENCES.values()), heads.split(","))
    for place, about in enumerate(found):
        assert about["sequence"] == canonical(list(SEQUENCES.values())[place])
        said = about["predictions"]
        assert list(said) == heads.split(",")
        assert said["loops"]["labels"] == together["loops"][place].labels
        contacts = together["structure"][place]
        assert [contact[:2] for contact in said["structure"]["contacts"]] == [
            [i + 1, j + 1] for i, j in zip(contacts.i.tolist(), contacts.j.tolist(), strict=True)
        ]
        assert said["structure"]["dot_bracket"] == contacts.structure.dot_bracket
        assert len(said["kinds"]["contacts"]) == len(together["kinds"][place].i)


def test_the_order_of_the_input_over_many_chunks(cli: Cli, seasoned: Path, model: Model, tmp_path: Path) -> None:
    dice = random.Random(3)
    sequences = ["".join(dice.choices("ACGU", k=dice.randint(1, 60))) for _ in range(150)]
    (tmp_path / "many.fa").write_text("".join(f">r{place}\n{text}\n" for place, text in enumerate(sequences)))
    ran = cli("predict", tmp_path / "many.fa", "--heads", "half_life", "--model", seasoned, "--max-tokens", "64")
    rows = table(ran.out)
    assert [row["id"] for row in rows] == [f"r{place}" for place in range(150)]
    values = [found.value for found in predictions(model, "half_life", sequences)]
    np.testing.assert_allclose([float(row["value"]) for row in rows], values, rtol=1e-4, atol=1e-5)


def test_bad_records_are_said_and_the_good_ones_answered(cli: Cli, seasoned: Path, tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text(f">good\nACGU\n>protein\nMKLV\n>empty\n>long\n{LONG}\n>\nACGU\n>also\nGGCC\n")
    command = ["predict", tmp_path / "in.fa", "--heads", "half_life", "--model", seasoned, "--no-header"]
    ran = cli(*command, "--on-long", "reject")
    assert ran.code == FAILED
    assert [line.split("\t")[0] for line in ran.out.splitlines()] == ["good", "also"]
    assert "in.fa, line 3, protein: letter 'L' at position 3 is no nucleotide" in ran.err
    assert "in.fa, line 5, empty: empty sequence" in ran.err
    assert "in.fa, line 6, long: 1120 nt, longer than the model's 1022; see --on-long" in ran.err
    assert "in.fa, line 8, no id: no id in its header" in ran.err
    assert "4 of 6 records were refused" in ran.err


def test_long_sequences(cli: Cli, seasoned: Path, model: Model) -> None:
    command = ["predict", LONG, "ACGU", "--heads", "loops", "--model", seasoned]
    windowed = table(cli(*command).out)
    assert [row["label"] for row in windowed[:1120]] == predictions(model, "loops", [LONG])[0].labels
    ran = cli(*command, "--on-long", "truncate")
    assert ran.code == DONE
    assert "cut to their first 1,022 nt (--on-long truncate): 1 of 2 records" in ran.err
    rows = table(ran.out)
    assert [row["id"] for row in rows] == ["sequence_1"] * 1022 + ["sequence_2"] * 4
    assert [row["label"] for row in rows[:1022]] == predictions(model, "loops", [LONG[:1022]])[0].labels


def test_an_adapter_by_its_path(cli: Cli, seasoned: Path, tmp_path: Path, tiny: Path) -> None:
    shutil.copy(seasoned / "heads" / "half_life.safetensors", tmp_path / "lifetime.safetensors")
    ran = cli("predict", "ACGU", "GGCC", "--heads", tmp_path / "lifetime.safetensors", "--model", seasoned)
    assert ran.code == DONE
    assert ran.out == cli("predict", "ACGU", "GGCC", "--heads", "half_life", "--model", seasoned).out
    ran = cli("predict", "ACGU", "--heads", tmp_path / "lifetime.safetensors", "--model", tiny)
    assert (ran.code, ran.out) == (FAILED, "")
    assert "was trained on another model" in ran.err


def test_a_trained_head_on_an_untrained_trunk(cli: Cli, fresh: Path, tmp_path: Path) -> None:
    trunk = load(fresh)
    trunk.add_head("purine", HeadConfig("token", "binary"))
    trunk.save_head("purine", tmp_path / "purine.safetensors", trained=True)
    ran = cli("predict", "ACGU", "--heads", tmp_path / "purine.safetensors", "--model", fresh)
    assert ran.code == DONE
    assert "warning: fresh is untrained" in ran.err
    assert len(table(ran.out)) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["predict"], USAGE, "name inputs and heads"),
        (["predict", "ACGU"], USAGE, "name inputs and heads"),
        (["predict", "gone.fa", "--heads", "structure"], FAILED, "gone.fa: no such file"),
        (["predict", "{heads}", "--heads", "structure"], FAILED, "is a folder; name the files in it"),
        (["predict", "ACGU", "--heads", "none"], FAILED, "seasoned has no head 'none'; it has: coding, contacts"),
        (["predict", "ACGU", "--heads", "raw"], FAILED, "'raw' of seasoned was never trained"),
        (
            ["predict", "ACGU", "--heads", "half_life", "--format", "dbn"],
            USAGE,
            "half_life gives no structure; these fit: tsv",
        ),
        (["predict", "ACGU", "--heads", "half_life", "--format", "vienna"], USAGE, 'Choose from: "dbn", "bpseq"'),
        (["predict", "ACGU", "--heads", "half_life", "--pseudoknots"], USAGE, "'half_life' gives no structure"),
        (
            ["predict", "ACGU", "--heads", "half_life", "--workers", "2"],
            USAGE,
            "--workers: has a use with an atlas only",
        ),
        (["predict", "ACGU", "--heads", "half_life", "--name", "x"], USAGE, "--name: has a use with an atlas only"),
        (["predict", "ACGU", "--heads", "half_life", "--device", "gpu"], FAILED, "no device is called 'gpu'"),
        (["predict", "ACGU", "--heads", "half_life", "-o", "no/where"], FAILED, "no/where: cannot be written"),
        (["mlm"], USAGE, "name inputs"),
        (["mlm", "gone.fa"], FAILED, "gone.fa: no such file"),
        (["mlm", "ACGU", "--what", "everything"], USAGE, "should be 'pll', 'logits' or 'variants'"),
        (["mlm", "ACGU", "--store-dtype", "float32"], USAGE, "--store-dtype: has a use with an atlas only"),
        (["mlm", "-", "GG", "-"], USAGE, "standard input can be read once"),
        (["mlm", "ACGU", "--what", "logits", "--method", "masked"], USAGE, "--method: logits are those of one pass"),
        (["mlm", "ACGU", "--heatmap", "x.png"], USAGE, "--heatmap draws variants, not pll"),
        (["mlm", "ACGU", "--what", "variants", "--heatmap", "x.gif"], USAGE, "x.gif: a picture's name ends in .png"),
        (["mlm", "ACGU", "--what", "variants", "--heatmap", "no/x.png"], FAILED, "no/x.png: cannot be written"),
        (["mlm", "ACGU", "--what", "variants", "--heatmap", "/proc/x.png"], FAILED, "/proc/x.png: cannot be written"),
        (
            ["mlm", "ACGU", "--what", "variants", "--heatmap", "x.png", "-o", "./x.png"],
            USAGE,
            "x.png: is the file of the table",
        ),
        (
            ["mlm", "ACGU", "GG", "--what", "variants", "--heatmap", "x.png"],
            USAGE,
            "one sequence, and there are several",
        ),
    ],
)
def test_refusals(
    cli: Cli,
    seasoned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [text.format(heads=seasoned / "heads") for text in arguments]
    ran = cli(*filled, "--model", seasoned)
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert says in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_what_is_asked(cli: Cli, tiny: Path) -> None:
    ran = cli("mlm", "ACGU", "--model", tiny)
    assert (ran.code, ran.out) == (FAILED, "")
    assert "tiny has no masked-LM head" in ran.err
    ran = cli("predict", "ACGU", "--heads", "structure", "--model", tiny)
    assert (ran.code, ran.out) == (FAILED, "")
    assert "tiny has no head 'structure'; it has none" in ran.err


def test_a_file_for_the_answer(cli: Cli, seasoned: Path, fasta: Path, tmp_path: Path) -> None:
    fasta.write_text(fasta.read_text() + ">bad\nEFG\n")
    command = ["predict", fasta, "--heads", "structure", "--model", seasoned]
    written = cli(*command).out
    ran = cli(*command, "-o", tmp_path / "out.dbn")
    assert (ran.code, ran.out) == (FAILED, "")
    assert (tmp_path / "out.dbn").read_text() == written
    assert len(records(written)) == 4
    before = fasta.read_text()
    ran = cli(*command, "-o", fasta)
    assert (ran.code, fasta.read_text()) == (USAGE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fa", "out.dbn"]


@pytest.mark.parametrize("method", ["masked", "wild-type"])
def test_mlm_scores(cli: Cli, seasoned: Path, model: Model, fasta: Path, method: Any) -> None:
    command = ["mlm", fasta, "--model", seasoned, "--method", method]
    texts = list(SEQUENCES.values())
    ran = cli(*command)
    assert (ran.code, ran.err) == (DONE, "")
    rows = table(ran.out)
    assert [row["id"] for row in rows] == list(SEQUENCES)
    for row, found in zip(rows, model.pseudo_log_likelihood(texts, method=method), strict=True):
        assert int(row["scored"]) == found.scored
        assert float(row["pll"]) == pytest.approx(found.pll, rel=1e-5)
        assert float(row["pseudo_perplexity"]) == pytest.approx(found.perplexity, rel=1e-5)
    rows = table(cli(*command, "--what", "variants").out)
    expected = [
        (name, row)
        for name, found in zip(SEQUENCES, model.variants(texts, method=method), strict=True)
        for row in found.rows()
    ]
    assert [(row["id"], row["variant"]) for row in rows] == [(name, row["notation"]) for name, row in expected]
    np.testing.assert_allclose(
        [float(row["score"]) for row in rows], [row["score"] for _, row in expected], rtol=1e-4, atol=1e-5
    )


def test_mlm_logits(cli: Cli, seasoned: Path, model: Model, fasta: Path) -> None:
    ran = cli("mlm", fasta, "--model", seasoned, "--what", "logits")
    rows = table(ran.out)
    assert "".join(row["letter"] for row in rows) == "".join(map(canonical, SEQUENCES.values()))
    expected = np.concatenate([logits[1:-1] for logits in model.logits(list(SEQUENCES.values()), head="masked_lm")])
    written = np.array([[float(row[token]) for token in model.alphabet.tokens] for row in rows])
    np.testing.assert_allclose(written, expected, rtol=1e-4, atol=1e-5)
    lines = cli("mlm", fasta, "--model", seasoned, "--what", "logits", "--format", "jsonl").out.splitlines()
    listed = np.concatenate([json.loads(line)["logits"] for line in lines])
    np.testing.assert_array_equal(listed, written)


def test_a_picture_of_the_variants(cli: Cli, seasoned: Path, tmp_path: Path) -> None:
    picture = tmp_path / "x.png"
    command = ["mlm", "GGGCAAAAGCCC", "--model", seasoned, "--what", "variants"]
    ran = cli(*command, "--heatmap", picture)
    assert (ran.code, ran.out) == (DONE, cli(*command).out)
    assert picture.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "bad.fa").write_text(">x\nEFG\n")
    ran = cli("mlm", tmp_path / "bad.fa", *command[2:], "--heatmap", tmp_path / "y.png")
    assert (ran.code, ran.out) == (FAILED, "")
    assert not (tmp_path / "y.png").exists()


def test_a_picture_is_not_drawn_over_its_input(cli: Cli, seasoned: Path, tmp_path: Path) -> None:
    source = tmp_path / "x.png"
    source.write_text(">a\nACGU\n")
    ran = cli("mlm", source, "--model", seasoned, "--what", "variants", "--heatmap", source)
    assert (ran.code, ran.out) == (USAGE, "")
    assert "is an input; name another file with --heatmap" in ran.err
    assert source.read_text() == ">a\nACGU\n"


@pytest.mark.parametrize("content", [b"", gzip.compress(b">x\nACGU\n", mtime=0)[:-9]])
def test_an_earlier_answer_stays_where_there_is_no_new_one(
    cli: Cli, seasoned: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "in.fa.gz").write_bytes(content)
    (tmp_path / "keep.tsv").write_text("precious")
    for name in ("keep.tsv", "new.tsv"):
        ran = cli("predict", tmp_path / "in.fa.gz", "--heads", "coding", "--model", seasoned, "-o", tmp_path / name)
        assert (ran.code, ran.out) == (FAILED, "")
        assert "in.fa.gz: " in ran.err
    assert (tmp_path / "keep.tsv").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fa.gz", "keep.tsv"]


def test_one_file_of_settings_serves_atlases_and_streams(
    cli: Cli, seasoned: Path, atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other kind of input has a use for is passed over, unless it was typed."""
    own = tmp_path / "own.yaml"
    own.write_text(f"model: {seasoned}\nheads: [half_life]\nworkers: 1\nname: lives\nformat: jsonl\nheader: false\n")
    monkeypatch.setenv("RAYPIPE_PREDICT_EXECUTOR", "inline")
    monkeypatch.setenv("RAYPIPE_PREDICT_DEVICE", "cpu")
    ran = cli("predict", "ACGU", "--config", own)
    assert (ran.code, json.loads(ran.out)["id"], ran.err) == (DONE, "sequence_1", "")
    ran = cli("predict", atlas, "--config", own)
    assert (ran.code, ran.out) == (DONE, ""), ran.err
    assert "in predictions/lives" in ran.err
    ran = cli("predict", "ACGU", "--config", own, "--workers", "1")
    assert (ran.code, ran.out) == (USAGE, "")
    assert "--workers: has a use with an atlas only" in ran.err
    ran = cli("predict", atlas, "--config", own, "--format", "jsonl")
    assert (ran.code, ran.out) == (USAGE, "")
    assert "--format: has no use here" in ran.err
    own.write_text(f"model: {seasoned}\nmethod: wild-type\nstore_dtype: float32\nexecutor: inline\n")
    for what in ("pll", "logits"):
        assert cli("mlm", "ACGU", "--what", what, "--config", own).code == DONE
        assert cli("mlm", atlas, "--what", what, "--config", own).code == DONE
    store = Store.open(atlas)
    assert [(store.prediction(name).method, store.prediction(name).dtype) for name in ("pll", "logits")] == [
        ("wild-type", "float32"),
        (None, "float32"),
    ]


def test_heads_as_lists(cli: Cli, seasoned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["predict", "ACGU", "--model", seasoned]
    both = cli(*command, "--heads", "coding,rna_type").out
    assert both.startswith("id\tlength\tcoding_")
    for text in ('["coding","rna_type"]', "coding, rna_type"):
        monkeypatch.setenv("RAYPIPE_PREDICT_HEADS", text)
        assert cli(*command).out == both
    monkeypatch.delenv("RAYPIPE_PREDICT_HEADS")
    own = tmp_path / "own.yaml"
    own.write_text("heads:\n  - coding\n  - rna_type\n")
    assert cli(*command, "--config", own).out == both
    for empty in ("heads:\n", "heads:\n  - coding\n  -\n"):
        own.write_text(empty)
        ran = cli(*command, "--config", own)
        assert (ran.code, ran.out) == (USAGE, "")
        assert "own.yaml: heads: has no value" in ran.err


def test_an_atlas_is_predicted_into_itself(cli: Cli, seasoned: Path, model: Model, atlas: Path) -> None:
    command = ["predict", atlas, "--heads", "structure,half_life", "--model", seasoned, *INLINE]
    ran = cli(*command)
    assert (ran.code, ran.out) == (DONE, "")
    assert "6 predicted + 0 failed, in predictions/structure" in ran.err
    assert "nothing to predict" in cli(*command).err
    assert cli("mlm", atlas, "--model", seasoned, *INLINE).code == DONE
    rows = table(
        cli(
            "sql",
            atlas,
            "SELECT sequence, dot_bracket, value, pll FROM sequences JOIN structure USING (seq_id) "
            "JOIN half_life USING (seq_id) JOIN pll USING (seq_id)",
        ).out
    )
    assert len(rows) == 6
    told = records(cli("predict", *(row["sequence"] for row in rows), "--heads", "structure", "--model", seasoned).out)
    assert [structure.dot_bracket for _, structure in told] == [row["dot_bracket"] for row in rows]
    scores = model.pseudo_log_likelihood([row["sequence"] for row in rows])
    assert [float(row["pll"]) for row in rows] == pytest.approx([found.pll for found in scores], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "{atlas}", "ACGU", "--heads", "half_life"], "is an atlas; give it alone"),
        (
            ["predict", "{atlas}", "--heads", "half_life", "--format", "tsv"],
            "--format: has no use here: an atlas stores",
        ),
        (["predict", "{atlas}", "--heads", "half_life", "-o", "x"], "--output: has no use here: an atlas stores"),
        (
            ["predict", "{atlas}", "--heads", "half_life", "--no-header"],
            "--no-header: has no use here: an atlas stores",
        ),
        (["mlm", "{atlas}", "--what", "variants", "--heatmap", "x.png"], "--heatmap: has no use here: an atlas stores"),
        (["predict", "{atlas}", "--heads", "half_life", "--device", "cpu"], "--device: has no use here: workers take"),
        (["mlm", "{atlas}", "--id-column", "x"], "--id-column: has no use here: an atlas has read its tables"),
        (["predict", "{atlas}", "--heads", "half_life", "--name", ""], "--name: is empty"),
        (["mlm", "{atlas}", "--name", ""], "--name: is empty"),
        (["mlm", "{atlas}", "--store-dtype", "float32"], "--store-dtype: pll has one type"),
        (["mlm", "{atlas}", "--what", "logits", "--method", "masked"], "--method: logits are those of one pass"),
    ],
)
def test_what_an_atlas_has_no_use_for(
    cli: Cli, seasoned: Path, finished: Path, arguments: list[str], says: str
) -> None:
    ran = cli(*(text.format(atlas=finished) for text in arguments), "--model", seasoned)
    assert (ran.code, ran.out) == (USAGE, "")
    assert says in ran.err


def test_standard_input_is_a_stream(seasoned: Path, tmp_path: Path) -> None:
    """Answers come while the input goes on, and a reader that has seen enough ends the command quietly."""
    command = [*MODULE, "predict", "-", "--heads", "half_life", "--model", str(seasoned), "--max-tokens", "64"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        # More than the buffers of reader and pipe hold, and no end.
        process.stdin.write("".join(f">r{place}\n{'ACGU' * 50}\n" for place in range(1000)))
        process.stdin.flush()
        answers = [process.stdout.readline() for _ in range(3)]
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == DONE
    assert answers[0] == "id\tlength\tvalue\n"
    assert [line.split("\t")[:2] for line in answers[1:]] == [["r0", "200"], ["r1", "200"]]


def test_ctrl_c_leaves_no_half_a_file(seasoned: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.fa")
    command = [*MODULE, "mlm", "endless.fa", "--model", str(seasoned), "-o", "out.tsv"]
    with started(command, cwd=tmp_path) as run, (tmp_path / "endless.fa").open("w") as pipe:
        pipe.write(">a\nACGU\n")
        pipe.flush()
        run.wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
        run.process.send_signal(signal.SIGINT)
        assert run.wait().code == INCOMPLETE
    assert run.lines == ["raypipe: stopped; without an atlas there is nothing to go on from: begin again"]
    assert [path.name for path in tmp_path.iterdir()] == ["endless.fa"]
