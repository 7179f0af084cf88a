"""Predictions in an atlas: right, complete, resumed, and refused where they would mean nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.predictions import schema_of
from index.store import Store
from model import load
from model.encoder import AidoRna
from model.head_config import HeadConfig
from raypipe import plan, sets
from raypipe.checkpoints import find_checkpoint, find_heads
from raypipe.cli import DONE, FAILED, INCOMPLETE, USAGE
from raypipe.outputs import Ask, compute
from raypipe.prediction_tables import prediction_table
from raypipe.predictions import describe_heads
from raypipe.settings import PredictSettings
from tests.headed import HEADS, add_heads, make_headed
from tests.integration.conftest import Cli
from tests.runs import write_fasta

INLINE = ["--executor", "inline"]
SHARDS = ["--shard-tokens", "120"]
THREE = "structure,rna_type,reactivity"
SETS = ["embeddings/headed", *(f"predictions/{name}" for name in THREE.split(","))]
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def _one_cpu() -> Iterator[None]:
    """Small work: threads that wait for each other would take most of the time."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:1])
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with heads of every kind; not to be changed."""
    return make_headed(tmp_path_factory.mktemp("models") / "headed")


@pytest.fixture
def ingested(cli: Cli, tmp_path: Path) -> Make:
    """Makes an atlas of 20 sequences, of which one has letters that are no nucleotides and one nothing else."""
    fasta = write_fasta(tmp_path / "in.fa", 18, 12, 40)
    with fasta.open("a") as file:
        file.write(">odd\nACGUNNRYACGUUU\n>unknown\nNNNN\n")

    def make(name: str = "atlas") -> Path:
        assert cli("ingest", fasta, "-o", tmp_path / name).code == DONE
        return tmp_path / name

    return make


def rows(atlas: Path, folder: str) -> pa.Table:
    """All rows of a set, in the order of its shards."""
    return pa.concat_tables([pq.read_table(path) for path in parts(atlas, folder)])


def parts(atlas: Path, folder: str) -> list[Path]:
    return sorted((atlas / folder).glob("part-*.parquet"))


def times(atlas: Path) -> dict[Path, int]:
    """When every file of every set was written."""
    return {path: path.stat().st_mtime_ns for folder in SETS for path in parts(atlas, folder)}


def sequences(atlas: Path) -> list[str]:
    table = pa.concat_tables([pq.read_table(path) for path in sorted((atlas / "sequences").glob("*"))])
    return table.sort_by("seq_id")["sequence"].to_pylist()


def test_one_pass_gives_what_four_give(cli: Cli, ingested: Make, headed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    states = AidoRna.states

    def counted(*args: Any) -> Any:
        passes.append(args)
        return states(*args)

    monkeypatch.setattr(AidoRna, "states", counted)
    options = ["--model", headed, *SHARDS, *INLINE]
    once, apart = ingested("once"), ingested("apart")
    ran = cli("embed", once, "--heads", THREE, *options)
    assert ran.code == DONE
    assert "embedding and predicting structure, rna_type, reactivity of 20 sequences" in ran.err
    assert "complete: 20 distinct sequences = 20 predicted + 0 failed, in predictions/rna_type" in ran.err
    together = len(passes)
    assert len(parts(once, SETS[0])) > 3
    assert cli("embed", apart, *options).code == DONE
    assert len(passes) == 2 * together
    for head in THREE.split(","):
        assert cli("predict", apart, "--heads", head, *options).code == DONE
    assert len(passes) == 5 * together
    for folder in SETS:
        assert [path.name for path in parts(once, folder)] == [path.name for path in parts(apart, folder)]
        assert rows(once, folder).equals(rows(apart, folder))
        assert rows(once, folder)["seq_id"].to_pylist() == list(range(20))
    assert cli("index", once).code == DONE


def test_every_head_as_the_model_says_it(cli: Cli, ingested: Make, headed: Path) -> None:
    atlas = ingested()
    assert cli("predict", atlas, "--heads", ",".join(HEADS), "--model", headed, *INLINE).code == DONE
    texts = sequences(atlas)
    said: dict[str, Any] = {**load(headed).predict(texts, heads=list(HEADS), dense=False)}
    store = Store.open(atlas)
    for name, expected in said.items():
        made = store.prediction(name)
        table = rows(atlas, f"predictions/{name}")
        assert table.equals(prediction_table(made, np.arange(len(texts)), expected))
    labels = [p.label for p in said["rna_type"]]
    assert rows(atlas, "predictions/rna_type")["label"].to_pylist() == labels
    assert set(labels) <= {"tRNA", "rRNA", "other"}
    loops = rows(atlas, "predictions/loops")
    assert loops["labels"].to_pylist() == [p.labels for p in said["loops"]]
    assert [len(values) for values in loops["probabilities"].to_pylist()] == [len(text) for text in texts]
    contacts = rows(atlas, "predictions/contacts").to_pylist()
    for row, prediction in zip(contacts, said["contacts"], strict=True):
        assert row["i"] == prediction.i.tolist()
        np.testing.assert_array_equal(np.float32(row["score"]), prediction.score)
        assert row["dot_bracket"] == prediction.structure.dot_bracket
    assert sum(len(row["i"]) for row in contacts) > 100
    kinds = rows(atlas, "predictions/kinds").to_pylist()
    assert {label for row in kinds for label in row["label"]} <= {"none", "cis", "trans"}
    assert store.prediction("kinds").threshold == 0.4
    brackets = rows(atlas, "predictions/structure")["dot_bracket"].to_pylist()
    assert [len(text) for text in brackets] == [len(text) for text in texts]
    assert brackets[texts.index("NNNN")] == "...."
    assert cli("sql", atlas, 'SELECT count(*) AS n FROM "rna_type"').out == "n\n20\n"


@pytest.mark.parametrize("method", ["masked", "wild-type"])
def test_the_language_model_as_the_model_says_it(cli: Cli, ingested: Make, headed: Path, method: str) -> None:
    atlas = ingested()
    for what in ("pll", "variants"):
        ran = cli("mlm", atlas, "--what", what, "--method", method, "--model", headed, *INLINE)
        assert ran.code == DONE
        assert f"20 scored + 0 failed, in predictions/{what}" in ran.err
    texts, model = sequences(atlas), load(headed)
    table = rows(atlas, "predictions/pll")
    said = model.pseudo_log_likelihood(texts, method=method)  # type: ignore[arg-type]
    np.testing.assert_allclose(table["pll"].to_pylist(), [p.pll for p in said], rtol=1e-5)
    assert table["scored"].to_pylist() == [sum(letter in "ACGU" for letter in text) for text in texts]
    unknown = texts.index("NNNN")
    assert [i for i, value in enumerate(table["pseudo_perplexity"].to_pylist()) if value is None] == [unknown]
    effects = model.variants(texts, method=method)  # type: ignore[arg-type]
    for text, row, effect in zip(
        texts, rows(atlas, "predictions/variants")["scores"].to_pylist(), effects, strict=True
    ):
        assert [scores is None for scores in row] == [letter not in "ACGU" for letter in text]
        kept = np.array([scores for scores in row if scores is not None]).reshape(-1, 4)
        np.testing.assert_allclose(kept, effect.scores[~np.isnan(effect.scores).any(1)], atol=1e-5)


def test_logits_are_those_of_nucleotides(cli: Cli, ingested: Make, headed: Path) -> None:
    atlas = ingested()
    for dtype in ("float16", "float32"):
        options = ["--name", dtype, "--store-dtype", dtype, "--model", headed, *INLINE]
        assert cli("mlm", atlas, "--what", "logits", *options).code == DONE
        stored = rows(atlas, f"predictions/{dtype}")["logits"].to_pylist()
        for row, logits in zip(stored, load(headed).logits(sequences(atlas), head="masked_lm"), strict=True):
            np.testing.assert_allclose(row, logits[1:-1], rtol=2e-3 if dtype == "float16" else 1e-5, atol=1e-3)
    assert Store.open(atlas).prediction("float16").labels[6:10] == ["A", "C", "G", "U"]


def test_what_is_missing_is_made_and_nothing_else(cli: Cli, ingested: Make, headed: Path) -> None:
    atlas = ingested()
    command = ["embed", atlas, "--heads", THREE, "--model", headed, *SHARDS, *INLINE]
    assert cli(*command).code == DONE
    assert "nothing to embed and predict structure, rna_type, reactivity" in cli(*command).err
    whole = {folder: rows(atlas, folder) for folder in SETS}
    damaged = [
        parts(atlas, "predictions/structure")[1],
        parts(atlas, "predictions/rna_type")[1],
        parts(atlas, "predictions/rna_type")[2],
    ]
    damaged[0].unlink()
    damaged[1].write_bytes(damaged[1].read_bytes()[:-9])
    pq.write_table(pq.read_table(damaged[2]).slice(1), damaged[2])
    before = {path: when for path, when in times(atlas).items() if path not in damaged}
    ran = cli("info", atlas)
    assert "predictions  structure: structure, binary of" in ran.out
    assert "incomplete: 1 of" in ran.out
    assert "predictions  reactivity: token, regression of" in ran.out
    ran = cli(*command)
    assert ran.code == DONE
    assert "predicting structure, rna_type of" in ran.err
    assert "in 2 shards" in ran.err
    assert before.items() <= times(atlas).items()
    for folder in SETS:
        assert rows(atlas, folder).equals(whole[folder])


def test_a_plan_that_is_lost_and_files_of_another(cli: Cli, ingested: Make, headed: Path) -> None:
    atlas = ingested()
    command = ["predict", atlas, "--heads", "rna_type", "--model", headed, *SHARDS, *INLINE]
    assert cli(*command).code == DONE
    first = parts(atlas, "predictions/rna_type")
    shutil.copy(first[0], first[0].with_name("part-000099.parquet"))
    (atlas / "rejects").mkdir(exist_ok=True)
    shutil.copy(first[0], atlas / "rejects" / "part-predict-rna_type-000099.parquet")
    (atlas / "predictions" / "rna_type" / "plan.parquet").unlink()
    ran = cli(*command)
    assert ran.code == DONE
    assert "nothing to predict rna_type" in ran.err
    assert parts(atlas, "predictions/rna_type") == first
    assert not list((atlas / "rejects").glob("part-predict-*"))


def test_sequences_that_come_later_are_predicted_in_one_pass(cli: Cli, ingested: Make, headed: Path) -> None:
    """Whatever plans the sets began with, sequences that are new to all of them are cut alike."""
    atlas = ingested()
    options = ["--model", headed, *INLINE]
    assert cli("embed", atlas, "--shard-tokens", "120", *options).code == DONE
    assert cli("predict", atlas, "--heads", "structure", "--shard-tokens", "300", *options).code == DONE
    ran = cli("embed", atlas, "--heads", THREE, *options)
    assert ran.code == DONE, ran.err
    assert "predicting rna_type, reactivity of 20 sequences" in ran.err
    assert [len(parts(atlas, folder)) for folder in SETS[2:]] == [len(parts(atlas, SETS[0]))] * 2
    counts = [len(parts(atlas, folder)) for folder in SETS]
    assert counts[1] < counts[0]
    more = write_fasta(atlas.with_name("more.fa"), 30, 20, 40)
    assert cli("ingest", more, "-o", atlas).code == DONE
    assert "incomplete: 20 predicted and 0 failed of" in cli("info", atlas).out
    ran = cli("embed", atlas, "--heads", THREE, *options)
    assert ran.code == DONE, ran.err
    assert "begun with different shards" not in ran.err
    number = Store.open(atlas).num_sequences
    for folder, count in zip(SETS, counts, strict=True):
        assert rows(atlas, folder)["seq_id"].to_pylist() == list(range(number))
        assert len(parts(atlas, folder)) - count == len(parts(atlas, SETS[0])) - counts[0]
    for folder in SETS[:2]:
        parts(atlas, folder)[0].unlink()
    ran = cli("embed", atlas, "--heads", THREE, *options)
    assert "begun with different shards: where they differ, the model runs once for each" in ran.err


def test_what_one_set_refuses_the_others_keep(cli: Cli, tmp_path: Path, headed: Path) -> None:
    from safetensors.numpy import load_file, save_file

    loud = tmp_path / "loud"
    shutil.copytree(headed, loud, ignore=shutil.ignore_patterns("heads"))
    tensors = load_file(loud / "model.safetensors")
    (name,) = (name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name][10] = 1e7  # the row of N: too much for a half, before the norms
    tensors[name][11] = np.nan  # the row of R
    save_file(tensors, loud / "model.safetensors", metadata={"format": "pt"})
    add_heads(loud, {head: HEADS[head] for head in ("rna_type", "structure")})
    letters = {"quiet": "ACGU" * 10, "loud": "ACGU" * 10 + "N", "lost": "ACGU" * 10 + "RR", "long": "ACGU" * 300}
    (tmp_path / "in.fa").write_text("".join(f">{name}\n{text}\n" for name, text in letters.items()))
    options = ["--heads", "rna_type,structure", "--model", loud, "--on-long", "reject", *INLINE]
    ran = cli("embed", tmp_path / "in.fa", "-o", tmp_path / "atlas", "--layer", "0", *options)
    assert ran.code == DONE
    assert "1 embedded + 3 failed, in embeddings/loud-layer0" in ran.err
    assert "2 predicted + 2 failed, in predictions/rna_type" in ran.err
    said = cli("sql", tmp_path / "atlas", "SELECT source, seq_id, reason FROM rejects ORDER BY source, seq_id").out
    long = "1200 nt, longer than the model's 1022; see --on-long"
    # The model's own words go on: only what they begin with counts here.
    assert [line.partition(" for sequence")[0] for line in said.splitlines()[1:]] == [
        "embeddings/loud-layer0\t1\tits values do not fit float16 (beyond 6.55e+04, or not finite)",
        "embeddings/loud-layer0\t2\tits values do not fit float16 (beyond 6.55e+04, or not finite)",
        f"embeddings/loud-layer0\t3\t{long}",
        "predictions/rna_type\t2\tthe head 'rna_type' gives no numbers (NaN)",
        f"predictions/rna_type\t3\t{long}",
        "predictions/structure\t2\tthe head 'structure' gives no numbers (NaN)",
        f"predictions/structure\t3\t{long}",
    ]
    assert len(rows(tmp_path / "atlas", "predictions/structure")) == 2
    (rejects,) = (tmp_path / "atlas" / "rejects").glob("part-predict-rna_type-*")
    before = pq.read_table(rejects)
    rejects.unlink()
    assert cli("predict", tmp_path / "atlas", *options).code == DONE
    assert pq.read_table(rejects).equals(before)


def test_one_refused_sequence_costs_a_few_more_passes(
    tmp_path: Path, headed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import load_file, save_file

    loud = Path(shutil.copytree(headed, tmp_path / "loud", ignore=shutil.ignore_patterns("heads")))
    tensors = load_file(loud / "model.safetensors")
    (name,) = (name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name][11] = np.nan  # the row of R
    save_file(tensors, loud / "model.safetensors", metadata={"format": "pt"})
    add_heads(loud, {"structure": HEADS["structure"]})
    checkpoint = find_checkpoint(str(loud))
    (made,) = describe_heads(PredictSettings(), checkpoint, find_heads(checkpoint, ["structure"]))
    passes = []
    states = AidoRna.states
    monkeypatch.setattr(AidoRna, "states", lambda *args: passes.append(args) or states(*args))
    texts = ["ACGU" * 3] * 64
    texts[37] = "ACGR" * 3
    (output,) = compute(load(loud), [made], texts, Ask("window"))
    assert list(output.reasons) == [37]
    assert sorted(output.rows) == [place for place in range(64) if place != 37]
    assert len(passes) == 1 + 2 * 6


def test_nothing_but_failures(cli: Cli, tmp_path: Path, headed: Path) -> None:
    """The files are there, with their columns and no row."""
    atlas = tmp_path / "atlas"
    (tmp_path / "in.fa").write_text(f">long\n{'ACGU' * 300}\n")
    assert cli("ingest", tmp_path / "in.fa", "-o", atlas).code == DONE
    options = ["--model", headed, "--on-long", "reject", *INLINE]
    embed = ["embed", atlas, "--heads", ",".join(HEADS), "--per-token", *options]
    assert cli(*embed).code == DONE
    for what in ("pll", "logits", "variants"):
        assert cli("mlm", atlas, "--what", what, *options).code == DONE
    made = Store.open(atlas).predictions
    assert len(made) == len(HEADS) + 3
    for name, prediction in made.items():
        (part,) = parts(atlas, f"predictions/{name}")
        assert pq.read_schema(part).equals(schema_of(prediction))
        assert pq.read_metadata(part).num_rows == 0
    assert "nothing to embed and predict" in cli(*embed).err


@pytest.mark.parametrize("on_long", ["window", "truncate"])
def test_sequences_beyond_the_context(cli: Cli, tmp_path: Path, headed: Path, on_long: str) -> None:
    (tmp_path / "in.fa").write_text(f">long\n{'ACGGUA' * 200}\n")
    assert cli("ingest", tmp_path / "in.fa", "-o", tmp_path / "atlas").code == DONE
    options = ["--model", headed, "--on-long", on_long, *INLINE]
    assert cli("predict", tmp_path / "atlas", "--heads", "loops", *options).code == DONE
    assert cli("mlm", tmp_path / "atlas", "--what", "logits", *options).code == DONE
    read = 1200 if on_long == "window" else 1022
    assert len(rows(tmp_path / "atlas", "predictions/loops")["labels"][0]) == read
    assert len(rows(tmp_path / "atlas", "predictions/logits")["logits"][0]) == read


def test_heads_that_are_refused(cli: Cli, ingested: Make, headed: Path, tmp_path: Path) -> None:
    atlas = ingested()
    own = Path(shutil.copytree(headed, tmp_path / "own"))
    add_heads(own, {"fresh": HeadConfig("sequence", "binary", pooling="mean")}, trained=False)
    add_heads(own, {"dumb": HeadConfig("sequence", num_labels=2, pooling="mean")})
    other = make_headed(tmp_path / "other", seed=2) / "heads"
    shutil.copy(own / "heads" / "loops.safetensors", tmp_path / "loops.safetensors")
    shutil.copy(own / "heads" / "paired.safetensors", tmp_path / "paired.txt")
    shutil.copy(other / "rna_type.safetensors", tmp_path / "foreign.safetensors")
    for heads, words in (
        ("nothing", "own has no head 'nothing'; it has: coding, contacts, dumb, fresh"),
        ("nothing", "train one on labelled sequences, as the README shows, and give its file"),
        ("fresh", "the head 'fresh' of own was never trained: its weights are random"),
        ("dumb", "the settings of the head 'dumb' do not say what it predicts"),
        (tmp_path / "foreign.safetensors", "foreign.safetensors: was trained on another model than"),
        (other / "rna_type.safetensors", "own has another head called 'rna_type'; rename the file"),
        (tmp_path / "gone.safetensors", "gone.safetensors: no such file"),
        (tmp_path / "paired.txt", "own has no head"),
        ("loops,loops", "two heads are called 'loops'"),
        (f"loops,{tmp_path / 'loops.safetensors'}", "two heads are called 'loops'"),
    ):
        for command in (["predict", atlas], ["embed", atlas]):
            ran = cli(*command, "--heads", heads, "--model", own, *INLINE)
            assert (ran.code, words in ran.err) == (FAILED, True), ran.err
    assert not (atlas / "predictions").exists()
    assert not (atlas / "embeddings").exists()
    assert cli("predict", atlas, "--heads", tmp_path / "loops.safetensors", "--model", own, *INLINE).code == DONE


def test_a_damaged_head_harms_no_other(cli: Cli, ingested: Make, headed: Path, tmp_path: Path) -> None:
    atlas = ingested()
    own = Path(shutil.copytree(headed, tmp_path / "own"))
    (own / "heads" / "broken.safetensors").write_bytes(b"no tensors")
    command = ["predict", atlas, "--model", own, *INLINE]
    assert "own has no head 'nothing'; it has: broken, coding" in cli(*command, "--heads", "nothing").err
    ran = cli(*command, "--heads", "broken")
    assert ran.code == FAILED
    assert "broken.safetensors" in ran.err
    assert cli(*command, "--heads", "coding").code == DONE
    shutil.copy(own / "heads" / "loops.safetensors", tmp_path / "loops.safetensors")
    assert cli(*command, "--heads", tmp_path / "loops.safetensors").code == DONE


def test_names_that_sql_has_are_refused_before_anything_is_read(
    cli: Cli, ingested: Make, headed: Path, tmp_path: Path
) -> None:
    for name in ("order", "records"):
        adapter = shutil.copy(headed / "heads" / "coding.safetensors", tmp_path / f"{name}.safetensors")
        options = ["--heads", adapter, "--model", headed, *INLINE]
        ran = cli("embed", tmp_path / "in.fa", "-o", tmp_path / "new", *options)
        assert (ran.code, "accepted" in ran.err, (tmp_path / "new").exists()) == (FAILED, False, False)
        assert f"the name {name!r} for predictions is " in ran.err
        assert "give another as --name of raypipe predict or raypipe mlm" in ran.err
    atlas = ingested()
    assert cli("predict", atlas, "--heads", adapter, "--name", "Coding", *options[2:]).code == DONE
    (tmp_path / "more.fa").write_text(">more\nACGUACGUACGU\n")
    ran = cli("embed", tmp_path / "more.fa", "-o", atlas, "--heads", "coding", *options[2:])
    assert ran.code == FAILED
    assert "is too near to the predictions 'Coding'" in ran.err
    assert Store.open(atlas).num_sequences == 20


def test_settings_stand_beside_what_they_made(cli: Cli, ingested: Make, headed: Path) -> None:
    atlas = ingested()
    command = ["embed", atlas, "--heads", "kinds", "--layer", "0", "--model", headed, *INLINE]
    assert cli(*command).code == DONE
    store = Store.open(atlas)
    for made in (store.embedding("headed-layer0"), store.prediction("kinds")):
        kept = json.loads((atlas / made.main / made.name / "settings.json").read_text())
        assert kept == asdict(made)
        run = made.settings
        assert (run["dtype"], run["shard_tokens"], run["workers"], run["cuda"]) == (
            "float32",
            made.shard_tokens,
            1,
            False,
        )
        assert not {"layer", "pooling", "heads"} & set(run)
    kept = json.loads((atlas / "predictions" / "kinds" / "settings.json").read_text())
    assert (kept["task"], kept["threshold"], kept["pseudoknots"]) == ("contact", 0.4, False)
    assert len(kept["head_fingerprint"]) == 64


def test_shards_of_pairs_are_cut_by_pairs(
    cli: Cli, ingested: Make, headed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a set could take over the plan of one that holds no pairs."""
    atlas = ingested()
    assert cli("embed", atlas, "--model", headed, *INLINE).code == DONE
    assert len(parts(atlas, SETS[0])) == 1
    for module in (plan, sets):
        monkeypatch.setattr(module, "MAX_SHARD_PAIRS", 1000)
    assert cli("predict", atlas, "--heads", "loops", "--model", headed, *INLINE).code == DONE
    assert len(parts(atlas, "predictions/loops")) == 1
    assert cli("predict", atlas, "--heads", "kinds", "--model", headed, *INLINE).code == DONE
    assert len(parts(atlas, "predictions/kinds")) > 5
    assert rows(atlas, "predictions/kinds")["seq_id"].to_pylist() == list(range(20))


def test_options_that_are_refused(cli: Cli, ingested: Make, headed: Path) -> None:
    atlas = ingested()
    for options, words, code in (
        (
            ["--heads", "loops,paired", "--name", "x"],
            "--name x: names the predictions of one head, and there are 2",
            USAGE,
        ),
        (["--heads", "loops", "--threshold", "0.3"], "--threshold: nothing that 'loops' says depends on one", USAGE),
        (["--heads", "loops", "--pseudoknots"], "--pseudoknots: 'loops' gives no structure; leave it out", USAGE),
        (["--heads", "coding", "--threshold", "1.5"], "less than 1", USAGE),
        (["--heads", "loops", "--name", "records"], "the name 'records' for predictions is taken", FAILED),
        (["--heads", "loops", "--name", "../x"], "use letters, digits", FAILED),
    ):
        ran = cli("predict", atlas, "--model", headed, *options, *INLINE)
        assert (ran.code, words in ran.err) == (code, True), ran.err
    assert cli("predict", atlas, "--model", headed, *INLINE).code == USAGE


def test_a_model_that_has_not_what_is_asked(cli: Cli, ingested: Make, tiny: Path, tmp_path: Path) -> None:
    """Said before or at the first shard; it is no fault of the sequences, so nothing is rejected."""
    atlas = ingested()
    ran = cli("mlm", atlas, "--model", tiny, *INLINE)
    assert ran.code == FAILED
    assert "tiny has no masked-LM head, so it cannot score letters" in ran.err
    bare = Path(shutil.copytree(tiny, tmp_path / "bare"))
    add_heads(bare, {"half_life": HEADS["half_life"]})
    ran = cli("predict", atlas, "--heads", "half_life", "--model", bare, *INLINE)
    assert ran.code == FAILED
    assert "reads the pooler's output, and this checkpoint has no pooler" in ran.err
    assert not list((atlas / "rejects").glob("part-predict-*"))


def test_another_set_under_a_name(cli: Cli, ingested: Make, headed: Path, tmp_path: Path) -> None:
    atlas = ingested()
    command = ["predict", atlas, *INLINE]
    contacts = ["--heads", "contacts", "--model", headed]
    assert cli(*command, *contacts).code == DONE
    before = times(atlas)
    other = make_headed(tmp_path / "other", seed=2)
    for options, words in (
        ([*contacts, "--threshold", "0.25"], "(threshold 0.5 there, 0.25 asked for)"),
        ([*contacts, "--pseudoknots"], "(pseudoknots False there, True asked for)"),
        ([*contacts, "--on-long", "truncate"], "(on_long window there, truncate asked for)"),
        ([*contacts, "--dtype", "bfloat16"], "(computed in float32 there, bfloat16 asked for)"),
        ([*contacts, "--shard-tokens", "77"], "there, 77 asked for)"),
        (["--heads", "coding", "--name", "contacts", "--model", headed], "task contact there, sequence asked for"),
        ([*contacts[:3], other], "model_fingerprint"),
    ):
        ran = cli(*command, *options)
        assert ran.code == FAILED
        assert "its predictions 'contacts' were made by" in ran.err
        assert words in ran.err
        assert f"under another name: raypipe predict {atlas} --heads " in ran.err
    # Through embed, whose --name is that of the vectors.
    ran = cli("embed", atlas, *contacts[:3], other, *INLINE)
    assert f"under another name: raypipe predict {atlas} --heads {other}/heads/contacts.safetensors --name" in ran.err
    assert times(atlas) == before
    assert cli(*command, *contacts, "--threshold", "0.25", "--name", "more").code == DONE
    pairs = [sum(map(len, rows(atlas, f"predictions/{name}")["i"].to_pylist())) for name in ("contacts", "more")]
    assert pairs[1] > pairs[0]
    # Where the same files lie now is no difference.
    moved = Path(shutil.copytree(headed, tmp_path / "moved"))
    assert "nothing to predict" in cli(*command, *contacts[:3], moved).err
    assert Store.open(atlas).prediction("contacts").head_path == str(moved / "heads" / "contacts.safetensors")


def test_one_run_computes_in_one_type(cli: Cli, ingested: Make, headed: Path) -> None:
    atlas = ingested()
    options = ["--model", headed, *INLINE]
    assert cli("embed", atlas, "--dtype", "bfloat16", *options).code == DONE
    # What begins with a set that has begun computes as that does.
    assert cli("embed", atlas, "--heads", "coding", *options).code == DONE
    assert Store.open(atlas).prediction("coding").settings["dtype"] == "bfloat16"
    assert cli("predict", atlas, "--heads", "loops", *options).code == DONE
    ran = cli("embed", atlas, "--heads", "loops", *options)
    assert ran.code == FAILED
    assert "'headed' in bfloat16 and 'loops' in float32 were begun in different compute types" in ran.err


def test_predictions_that_the_manifest_does_not_know(cli: Cli, ingested: Make, headed: Path) -> None:
    atlas = ingested()
    manifest = (atlas / "store.json").read_bytes()
    command = ["predict", atlas, "--heads", "rna_type", "--model", headed, *INLINE]
    assert cli(*command).code == DONE
    (atlas / "store.json").write_bytes(manifest)
    ran = cli(*command)
    assert ran.code == FAILED
    assert "holds predictions that store.json does not know" in ran.err
    assert parts(atlas, "predictions/rna_type")


def test_lost_sequences_are_said(cli: Cli, ingested: Make, headed: Path) -> None:
    atlas = ingested()
    for part in (atlas / "sequences").iterdir():
        part.unlink()
    ran = cli("predict", atlas, "--heads", "rna_type,loops", "--model", headed, *INLINE)
    assert ran.code == INCOMPLETE
    assert "0 rows in sequences/ where 20 were ingested" in ran.err
    assert "predictions/loops: 0 predicted and 0 failed of 20 sequences" in ran.err


def test_settings_from_the_environment_and_a_file(
    cli: Cli, ingested: Make, headed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    atlas = ingested()
    (tmp_path / "own.yaml").write_text(f"model: {headed}\nheads: [loops, paired]\nexecutor: inline\n")
    assert "predicting loops, paired of" in cli("predict", atlas, "--config", tmp_path / "own.yaml").err
    monkeypatch.setenv("RAYPIPE_MLM_WHAT", "variants")
    monkeypatch.setenv("RAYPIPE_MLM_METHOD", "wild-type")
    assert "scored variants of" in cli("mlm", atlas, "--model", headed, *INLINE).err
    assert Store.open(atlas).prediction("variants").method == "wild-type"
    monkeypatch.setenv("RAYPIPE_EMBED_HEADS", "coding,marks")
    assert "embedded and predicted coding, marks of" in cli("embed", atlas, "--model", headed, *INLINE).err


def test_untrained_weights_are_said(cli: Cli, ingested: Make) -> None:
    ran = cli("mlm", ingested(), "--method", "wild-type", *INLINE)
    assert ran.code == DONE
    assert "warning: nano is untrained (random weights)" in ran.err
