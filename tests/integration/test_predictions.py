"""Predictions in an atlas: right, complete and resumed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from index.predictions import schema_of
from index.store import Store
from model import load
from model.encoder import AidoRna
from raypipe.checkpoints import find_checkpoint, find_heads
from raypipe.cli import DONE
from raypipe.outputs import Ask, compute
from raypipe.prediction_tables import prediction_table
from raypipe.predictions import describe_heads
from raypipe.settings import PredictSettings
from tests.headed import HEADS, INLINE, SETS, SHARDS, THREE, add_heads, parts, rows, sequences, times
from tests.integration.conftest import Cli, Make
from tests.runs import write_fasta

# Small work: threads that wait for each other would take most of the time.
pytestmark = pytest.mark.usefixtures("one_cpu")


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
    assert cli("verify", atlas, "--deep").code == DONE


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
    assert cli("verify", atlas, "--deep").code == DONE


def test_logits_are_those_of_nucleotides(cli: Cli, ingested: Make, headed: Path) -> None:
    atlas = ingested()
    for dtype in ("float16", "float32"):
        options = ["--name", dtype, "--store-dtype", dtype, "--model", headed, *INLINE]
        assert cli("mlm", atlas, "--what", "logits", *options).code == DONE
        stored = rows(atlas, f"predictions/{dtype}")["logits"].to_pylist()
        for row, logits in zip(stored, load(headed).logits(sequences(atlas), head="masked_lm"), strict=True):
            np.testing.assert_allclose(row, logits[1:-1], rtol=2e-3 if dtype == "float16" else 1e-5, atol=1e-3)
    assert Store.open(atlas).prediction("float16").labels[6:10] == ["A", "C", "G", "U"]
    assert cli("verify", atlas, "--deep").code == DONE


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
