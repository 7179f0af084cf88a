"""Predictions in an atlas that are refused, or whose settings, names and shards are wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from index.store import Store
from model.head_config import HeadConfig
from raypipe import plan, sets
from raypipe.cli import DONE, FAILED, INCOMPLETE, USAGE
from tests.headed import HEADS, INLINE, SETS, add_heads, make_headed, parts, rows, times
from tests.integration.conftest import Cli, Make

# Small work: threads that wait for each other would take most of the time.
pytestmark = pytest.mark.usefixtures("one_cpu")


def test_heads_that_are_refused(cli: Cli, ingested: Make, headed: Path, tmp_path: Path) -> None:
    atlas = ingested()
    own = Path(shutil.copytree(headed, tmp_path / "own"))
    add_heads(own, {"fresh": HeadConfig("sequence", "binary", pooling="mean")}, trained=False)
    add_heads(own, {"dumb": HeadConfig("sequence", num_labels=2, pooling="mean")})
    other = make_headed(tmp_path / "other", seed=2) / "heads"
    shutil.copy(own / "heads" / "loops.safetensors", tmp_path / "loops.safetensors")
    shutil.copy(own / "heads" / "paired.safetensors", tmp_path / "paired.txt")
    shutil.copy(other / "rna_type.safetensors", tmp_path / "foreign.safetensors")
    result = tmp_path / "result"
    result.mkdir()
    (result / "metrics.json").write_text('{"name": "rna_type"}')
    for heads, words in (
        ("nothing", "own has no head 'nothing'; it has: coding, contacts, dumb, fresh"),
        ("nothing", "train one on labelled sequences, as the README shows, and give its file"),
        ("fresh", "the head 'fresh' of own was never trained: its weights are random"),
        ("dumb", "the settings of the head 'dumb' do not say what it predicts"),
        (tmp_path / "foreign.safetensors", "foreign.safetensors: was trained on another model than"),
        (tmp_path / "gone.safetensors", "gone.safetensors: no such file"),
        (tmp_path / "paired.txt", "own has no head"),
        (result, "metrics.json: is damaged, or none of raypipe finetune"),
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
        (["--heads", "coding", "--threshold", "1.5"], "--threshold 1.5: input should be less than 1", USAGE),
        (["--heads", "loops", "--name", "records"], "the name 'records' for predictions is taken", FAILED),
        (["--heads", "loops", "--name", "../x"], "--name ../x: use letters, digits", USAGE),
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


def test_untrained_weights_are_said(cli: Cli, ingested: Make, fresh: Path) -> None:
    ran = cli("mlm", ingested(), "--method", "wild-type", "--model", fresh, *INLINE)
    assert ran.code == DONE
    assert "warning: fresh is untrained (random weights)" in ran.err
