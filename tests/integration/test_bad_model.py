"""A model that cannot be had or is not the atlas's own, and settings that make no sense."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from index.store import Store
from model.config import AidoRnaConfig
from model.encoder import AidoRna
from model.keymap import expand
from raypipe.cli import DONE, FAILED, USAGE

Cli = Callable[..., Any]
INLINE = ("--executor", "inline")
MORE = ">new\nGGGGGGGGGGGG\n>again\nGGGCCCAAAUUU\n"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_embedding_with_another_model_under_the_same_name(cli: Cli, atlas: Path, other: Path) -> None:
    before = (atlas / "store.json").read_bytes()
    ran = cli("embed", atlas, "--model", other, "--name", "tiny", *INLINE)
    assert ran.code == FAILED
    assert "its vectors 'tiny' were made by" in ran.err
    assert "choose another --name" in ran.err
    assert (atlas / "store.json").read_bytes() == before
    assert cli("embed", atlas, "--model", other, *INLINE).code == DONE
    assert list(Store.open(atlas).embeddings) == ["tiny", "other"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pooling", "max", "--name", "tiny"], "pooling mean there, max asked for"),
        (["--layer", "0", "--name", "tiny"], "layer 1 there, 0 asked for"),
        (["--on-long", "reject"], "on_long window there, reject asked for"),
        (["--store-dtype", "float32"], "dtype float16 there, float32 asked for"),
        (["--dtype", "bfloat16"], "computed in float32 there, bfloat16 asked for"),
    ],
)
def test_other_settings_under_the_same_name(cli: Cli, atlas: Path, tiny: Path, options: list[str], words: str) -> None:
    ran = cli("embed", atlas, "--model", tiny, *INLINE, *options)
    assert ran.code == FAILED
    assert words in ran.err


def test_searching_with_another_model(cli: Cli, finished: Path, other: Path) -> None:
    ran = cli("search", finished, "GGUC", "--model", other)
    assert (ran.code, ran.out) == (FAILED, "")
    assert "were made by another model than" in ran.err
    assert "vectors of different models cannot be compared" in ran.err


def test_a_model_whose_files_have_changed(cli: Cli, atlas: Path, other: Path, tmp_path: Path) -> None:
    """The atlas names the folder; what lies in it now made none of its vectors."""
    manifest = json.loads((atlas / "store.json").read_text())
    manifest["embeddings"]["tiny"].update(model=str(other), model_path=str(other))
    (atlas / "store.json").write_text(json.dumps(manifest))
    ran = cli("search", atlas, "GGUC")
    assert ran.code == FAILED
    assert "vectors of different models cannot be compared" in ran.err


def genbio(folder: Path) -> Path:
    """A checkpoint as GenBio publishes them: a pickle, its own keys, 16 rows."""
    config = AidoRnaConfig(num_layers=1, hidden_size=16, num_heads=2, intermediate_size=16, vocab_size=16)
    torch.manual_seed(0)
    tensors = {name: torch.randn(value.shape) for name, value in AidoRna(config, lm_head=True).state_dict().items()}
    tensors["lm_head.decoder.weight"] = tensors["embedding.weight"]
    tensors["lm_head.decoder.bias"] = tensors["lm_head.bias"]
    folder.mkdir(parents=True)
    settings = {
        "model_type": "rnabert",
        "hidden_act": "swiglu",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 16,
        "layer_norm_eps": 1e-5,
        "normalization_type": "LayerNorm",
        "add_linear_bias": True,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    torch.save({e.theirs: tensors[e.ours] for e in expand(config, "genbio")}, folder / "pytorch_model.bin")
    return folder


def test_a_genbio_checkpoint_gets_the_command_that_converts_it(cli: Cli, tmp_path: Path) -> None:
    folder = genbio(tmp_path / "what it's called" / "AIDO.RNA-650M")
    Path("in.fa").write_text(MORE)
    ran = cli("embed", "in.fa", "-o", "atlas", "--model", folder, *INLINE)
    assert ran.code == FAILED
    assert not Path("atlas").exists()
    command = ran.command()
    assert command[:3] == ["model", "convert", str(folder)]
    assert cli(*command).code == DONE
    assert cli("embed", "in.fa", "-o", "atlas", "--model", command[3], "--name", "x", *INLINE).code == DONE


def folder_with(**files: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "m").mkdir()
        for name, text in files.items():
            (folder / "m" / name.replace("_json", ".json")).write_text(text)
        return str(folder / "m")

    return make


CONFIG = json.dumps(AidoRnaConfig(num_layers=1, hidden_size=16, num_heads=2, intermediate_size=16).to_json())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda _: "nanno", "no model 'nanno': give a folder, a hub id (ORG/NAME), or one of: nano, aido.rna-1.6b"),
        (lambda _: "nobody/nothing", "the files of nobody/nothing are neither in the cache nor could they be fetched"),
        (lambda _: "aido.rna-650m@no-such-revision", "hf download multimolecule/aido.rna-650m"),
        (lambda _: "/no/such/folder", "/no/such/folder"),
        (lambda _: "models/of/mine", "models/of/mine"),
        (lambda _: "nano/", "nano/: no such folder; give the folder that holds the checkpoint's config.json"),
        (folder_with(), "holds no config.json"),
        (folder_with(config_json="{"), "config.json cannot be read"),
        (folder_with(config_json='{"model_type": "bert"}'), "model_type is 'bert'"),
        (folder_with(config_json=CONFIG), "m holds no model.safetensors"),
    ],
    ids=["name", "hub", "revision", "path", "relative path", "slash", "empty", "damaged", "bert", "no weights"],
)
def test_a_model_that_cannot_be_had(cli: Cli, tmp_path: Path, model: Callable[[Path], str], words: str) -> None:
    """Said before anything is read or made."""
    Path("in.fa").write_text(MORE)
    ran = cli("embed", "in.fa", "-o", "atlas", "--model", model(tmp_path), *INLINE)
    assert ran.code == FAILED
    assert words in ran.err
    assert not Path("atlas").exists()


def test_a_complaint_of_the_hub_is_told_once(cli: Cli) -> None:
    ran = cli("model", "info", "my model/x")
    assert ran.code == FAILED
    assert ran.err.count("Repo id must") == 1


def test_weights_that_are_cut_short(cli: Cli, atlas: Path, other: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    for file in other.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    ran = cli("embed", atlas, "--model", folder, *INLINE)
    assert ran.code == FAILED
    assert "model.safetensors" in ran.err
    assert "damaged or cut short" in ran.err


def test_the_whole_story_of_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYPIPE_DEBUG", raising=False)
    model = ("fill-mask", "A<mask>", "--model", "nanno")
    for asked in ((*model, "--debug"), ("--debug", *model)):
        ran = cli(*asked)
        assert ran.code == FAILED
        assert "Traceback (most recent call last)" in ran.err
        assert ran.err.split(" raypipe: ")[1].startswith("no model 'nanno'")
    # Of one command, not of the next one.
    assert "Traceback" not in cli(*model).err
    monkeypatch.setenv("RAYPIPE_DEBUG", "1")
    assert "Traceback" in cli(*model).err
    assert "--debug" in cli("--help").out


def test_an_untrained_model_says_so(cli: Cli, atlas: Path, fresh: Path) -> None:
    assert "warning: fresh is untrained (random weights)" in cli("embed", atlas, "--model", fresh, *INLINE).err
    assert "untrained" not in cli("embed", atlas, "--model", "nano", *INLINE).err


# Settings


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--layer", "99"], USAGE, "--layer 99: tiny has 1 layers; give 0 to 1, or -1 for the last"),
        (["--name", "a/b"], USAGE, "--name a/b: use letters, digits, '.', '_' and '-' only"),
        (["--layer", "-2"], USAGE, "--layer -2: input should be greater than or equal to -1"),
        (["--pooling", "median"], USAGE, "--pooling median: input should be 'mean', 'cls' or 'max'"),
        (["--shard-tokens", "0"], USAGE, "--shard-tokens 0: input should be greater than or equal to 1"),
        (
            ["--dtype", "float64", "--workers", "x"],
            USAGE,
            "--dtype float64: input should be 'float32', 'bfloat16', 'float16' or",
        ),
        (["--workers", "x"], USAGE, "--workers x: input should be a valid integer"),
        (["--bogus"], USAGE, "Unknown option: --bogus"),
        (["-o", "elsewhere"], USAGE, "is an atlas; embed it alone, or name inputs and -o ATLAS"),
    ],
)
def test_settings_that_make_no_sense(
    cli: Cli, atlas: Path, tiny: Path, options: list[str], code: int, words: str
) -> None:
    ran = cli("embed", atlas, "--model", tiny, *INLINE, *options)
    assert ran.code == code
    assert words in ran.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("poling: max\n", ["poling", "settings.yaml", "--pooling"]),
        ("pooling: median\n", ["settings.yaml: pooling: median: input should be 'mean', 'cls' or 'max'"]),
        ("- pooling\n", ["settings.yaml", "holds no settings; write them in lines such as: pooling: mean"]),
        ("layer: 1\npooling: [\n", ["settings.yaml", "no YAML", "line 3"]),
        (None, ["settings.yaml", "cannot be read (No such file or directory)"]),
    ],
    ids=["unknown key", "bad value", "list", "no YAML", "no file"],
)
def test_a_settings_file_that_makes_no_sense(cli: Cli, atlas: Path, text: str | None, words: list[str]) -> None:
    if text is not None:
        Path("settings.yaml").write_text(text)
    ran = cli("embed", atlas, "--config", "settings.yaml", *INLINE)
    assert ran.code == USAGE
    assert all(word in ran.err for word in words), ran.err


def test_precedence_of_settings(cli: Cli, atlas: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of "model" above all: it is the name of a verb too, and cyclopts passes over such keys of a flat file."""
    Path("settings.yaml").write_text(f"model: {tiny}\npooling: max\nlayer: 0\nstore_dtype: float32\n")
    monkeypatch.setenv("RAYPIPE_EMBED_LAYER", "1")
    assert cli("embed", atlas, "--config", "settings.yaml", "--store-dtype", "float16", *INLINE).code == DONE
    made = Store.open(atlas).embeddings["tiny-max"]
    assert (made.pooling, made.layer, made.dtype) == ("max", 1, "float16")
    monkeypatch.setenv("RAYPIPE_EMBED_LAYER", "last")
    ran = cli("embed", atlas, *INLINE)
    assert ran.code == USAGE
    assert "RAYPIPE_EMBED_LAYER=last: input should be a valid integer" in ran.err
    # What one command line was given is not the next one's.
    monkeypatch.delenv("RAYPIPE_EMBED_LAYER")
    ran = cli("embed", atlas, "--model", tiny, *INLINE)
    assert (ran.code, "nothing to embed" in ran.err) == (DONE, True)


def test_the_settings_file_may_come_from_the_environment(
    cli: Cli, atlas: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("settings.yaml").write_text(f"model: {tiny}\npooling: cls\n")
    monkeypatch.setenv("RAYPIPE_CONFIG", "settings.yaml")
    assert cli("embed", atlas, *INLINE).code == DONE
    assert "tiny-cls" in Store.open(atlas).embeddings
