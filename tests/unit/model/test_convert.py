"""The converter: rows of the vocabulary, which row is U, shards, prefixes, pickles that are refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import model
from model import AidoRnaConfig, CheckpointError, HeadConfig, ModelError
from model.convert import convert
from model.heads import make_head
from model.keymap import expand

SEQS = ["ACGUACGGAU", "GGC", "AUNRYXUUUAGCGAU"]
Tensors = dict[str, torch.Tensor]


def _genbio_settings(config: AidoRnaConfig) -> dict[str, Any]:
    return {
        "model_type": "rnabert",
        "hidden_act": "swiglu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "vocab_size": config.vocab_size,
        "layer_norm_eps": config.norm_eps,
        "normalization_type": "RMSNorm" if config.norm == "rmsnorm" else "LayerNorm",
        "add_linear_bias": config.linear_bias,
    }


@pytest.fixture
def genbio(tmp_path: Path, tiny_config: AidoRnaConfig, random_tensors: Callable[..., Tensors]) -> Path:
    """A GenBio checkpoint whose LM head is tied, with its decoder written out, as GenBio saves it."""
    config = replace(tiny_config, vocab_size=16)
    tensors = random_tensors(config, lm_head=True)
    tensors["lm_head.decoder.weight"] = tensors["embedding.weight"]
    tensors["lm_head.decoder.bias"] = tensors["lm_head.bias"]
    named = {e.theirs: tensors[e.ours] for e in expand(config, "genbio")}
    folder = tmp_path / "some-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_genbio_settings(config)))
    torch.save(named, folder / "pytorch_model.bin")
    return folder


ROWS = {"<pad>": 0, "<cls>": 2, "<eos>": 3, "<unk>": 4, "<mask>": 1, "<null>": 15, "A": 5, "C": 7, "G": 6, "N": 10}
MEANS = {
    "R": "AG",
    "Y": "CU",
    "S": "CG",
    "W": "AU",
    "K": "GU",
    "M": "AC",
    "B": "CGU",
    "D": "AGU",
    "H": "ACU",
    "V": "ACG",
    "X": "ACGU",
}


@pytest.mark.parametrize(("u_row", "old_u"), [("U", 9), ("T", 8)])
def test_rows_of_the_vocabulary(genbio: Path, tmp_path: Path, u_row: Any, old_u: int) -> None:
    old = torch.load(genbio / "pytorch_model.bin", weights_only=True)
    convert(genbio, tmp_path / "out", u_row)
    new = load_file(tmp_path / "out" / "model.safetensors")
    ids = model.Alphabet().id
    for name, was in (
        ("aido_rna.embeddings.word_embeddings.weight", "bert.embeddings.word_embeddings.weight"),
        ("lm_head.bias", "cls.predictions.decoder.bias"),
    ):
        rows, before = new[name], old[was]
        assert len(rows) == 26
        for token, row in (ROWS | {"U": old_u}).items():
            assert torch.equal(rows[ids[token]], before[row])
        for letter, bases in MEANS.items():
            mean = torch.stack([rows[ids[base]] for base in bases]).mean(0)
            assert torch.allclose(rows[ids[letter]], mean, atol=1e-7)
    noise = new["aido_rna.embeddings.word_embeddings.weight"][[ids[token] for token in ".*-I"]]
    assert 0.01 < noise.std() < 0.03
    assert (new["lm_head.bias"][[ids[token] for token in ".*-I"]] == 0).all()
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["raypipe"] == {"source": "some-model", "source_layout": "genbio", "u_row": u_row}
    loaded = model.load(tmp_path / "out")
    assert loaded.config.lm_norm_eps == loaded.config.norm_eps
    # The averaging identity of the published description: an ambiguity letter's logit is the mean of its bases'.
    logits = loaded.logits(SEQS)[2]
    assert logits[:, ids["R"]] == pytest.approx((logits[:, ids["A"]] + logits[:, ids["G"]]) / 2, abs=1e-5)


@pytest.mark.parametrize(
    ("folder", "name_or_path", "row"),
    [
        ("AIDO.RNA-650M", None, "U"),
        ("AIDO.RNA-650M-CDS", None, "T"),
        ("GB.RNA-1.6B-CDS", None, "T"),
        ("x", "genbio-ai/AIDO.RNA-1.6B", "U"),
        ("x", "genbio-ai/AIDO.RNA-1.6B-CDS", "T"),
        ("AIDO.RNA-650M", "genbio-ai/AIDO.RNA-650M-CDS", "disagree"),
        ("AIDO.RNA-1M-MARS", None, "the sources disagree"),
        ("x", None, "neither"),
    ],
)
def test_which_row_is_u(genbio: Path, tmp_path: Path, folder: str, name_or_path: str | None, row: str) -> None:
    source = genbio.rename(tmp_path / folder)
    if name_or_path:
        settings = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(settings | {"_name_or_path": name_or_path}))
    if row in ("U", "T"):
        notes = convert(source, tmp_path / "out")
        assert f"row of {row}: the rule" in notes[0]
        said = json.loads((tmp_path / "out" / "config.json").read_text())["raypipe"]
        assert (said["u_row"], said["source"]) == (row, name_or_path or folder)
        convert(tmp_path / "out", tmp_path / "again")
        known = model.registry.recognise(name_or_path or folder)
        assert model.load(tmp_path / "out").entry is model.load(tmp_path / "again").entry is known is not None
    else:
        with pytest.raises(ModelError, match=f"--u-row.*{row}"):
            convert(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        convert(source, tmp_path / "out", "T")


def test_genbio_shards_convert_to_the_same_file(genbio: Path, tmp_path: Path) -> None:
    convert(genbio, tmp_path / "whole", "U")
    tensors = torch.load(genbio / "pytorch_model.bin", weights_only=True)
    (genbio / "pytorch_model.bin").unlink()
    files = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    weight_map = {name: files[i % 2] for i, name in enumerate(tensors)}
    for file in files:
        torch.save({n: v for n, v in tensors.items() if weight_map[n] == file}, genbio / file)
    (genbio / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    convert(genbio, tmp_path / "sharded", "U")
    assert model.fingerprint(tmp_path / "whole") == model.fingerprint(tmp_path / "sharded")
    assert sorted(p.name for p in (tmp_path / "sharded").iterdir()) == [
        "config.json",
        "model.safetensors",
        "vocab.txt",
    ]


@pytest.mark.parametrize("prefix", ["aido_rna.", "model."])
@pytest.mark.parametrize("container", ["safetensors", "pickle"])
def test_multimolecule_is_normalised(tiny: Path, tmp_path: Path, prefix: str, container: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny, source)
    tensors = {k.replace("aido_rna.", prefix): v for k, v in load_file(source / "model.safetensors").items()}
    tensors["lm_head.decoder.weight"] = tensors[f"{prefix}embeddings.word_embeddings.weight"].clone()
    tensors["token_head.decoder.weight"] = torch.ones(3, 32)
    (source / "model.safetensors").unlink()
    if container == "pickle":
        torch.save(tensors, source / "pytorch_model.bin")
    else:
        save_file(tensors, source / "model.safetensors")
    assert convert(source, tmp_path / "out") == []
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert set(out) == {*load_file(tiny / "model.safetensors"), "token_head.decoder.weight"}
    assert (model.load(tmp_path / "out").pooler_output(SEQS) == model.load(tiny).pooler_output(SEQS)).all()
    with pytest.raises(ModelError, match="GenBio's files only"):
        convert(source, tmp_path / "other", "U")


def test_what_cannot_be_converted(genbio: Path, tmp_path: Path) -> None:
    weights = genbio / "pytorch_model.bin"
    good = torch.load(weights, weights_only=True)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        convert(tmp_path / "nowhere", tmp_path / "out", "U")
    weights.write_bytes(pickle.dumps({"a": Path("code")}, protocol=2))
    with pytest.raises(CheckpointError, match="a pickle can run code"):
        convert(genbio, tmp_path / "out", "U")
    weights.write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        convert(genbio, tmp_path / "out", "U")
    torch.save({"state_dict": good}, weights)
    with pytest.raises(CheckpointError, match="not a plain dictionary of tensors"):
        convert(genbio, tmp_path / "out", "U")
    torch.save(good | {"bert.encoder.layer.0.adapter.weight": torch.zeros(1)}, weights)
    with pytest.raises(CheckpointError, match=r"unknown tensor 'bert\.encoder\.layer\.0\.adapter\.weight'"):
        convert(genbio, tmp_path / "out", "U")
    torch.save(good | {"bert.encoder.ln.weight": torch.zeros(3)}, weights)
    with pytest.raises(CheckpointError, match=r"bert\.encoder\.ln\.weight has the shape \[3\]"):
        convert(genbio, tmp_path / "out", "U")
    torch.save(good | {"bert.encoder.rotary.inv_freq": torch.zeros(3)}, weights)
    notes = convert(genbio, tmp_path / "out", "U")
    assert notes[1].startswith("not carried over: bert.encoder.rotary.inv_freq")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(genbio, tmp_path / "out", "U")
    weights.unlink()
    with pytest.raises(CheckpointError, match="holds neither"):
        convert(genbio, tmp_path / "out2", "U")
    with pytest.raises(ModelError, match="u_row is U or T"):
        convert(genbio, tmp_path / "out2", "X")  # type: ignore[arg-type]


def test_the_lightning_checkpoint_of_the_structure_model(genbio: Path, tmp_path: Path) -> None:
    """Names as its training program writes them; the head's weights and threshold arrive, the trunk is the same."""
    trunk = torch.load(genbio / "pytorch_model.bin", weights_only=True)
    head = make_head(HeadConfig("structure"), 32).state_dict()
    theirs = {"projection": "in_to_conv", "prediction": "conv_to_output", "conv1": "0", "conv2": "3", "conv3": "6"}
    state: Tensors = {"threshold": torch.tensor(0.31)}
    state |= {f"backbone.encoder.{k.removeprefix('bert.')}": v for k, v in trunk.items() if k.startswith("bert.")}
    for key, value in head.items():
        stem, _, leaf = key.rpartition(".")
        if stem.startswith("convnet"):
            _, block, conv = stem.split(".")
            state[f"adapter.resnet.res2D_blocks.{block}.residual_block.{theirs[conv]}.{leaf}"] = value
        else:
            state[f"adapter.{theirs[stem]}.{leaf}"] = value
    source = tmp_path / "structure"
    source.mkdir()
    shutil.copy(genbio / "config.json", source)
    torch.save({"state_dict": state, "epoch": 3}, source / "model.ckpt")
    notes = convert(source, tmp_path / "out", u_row="U")
    assert any("0.31" in note for note in notes)
    loaded = model.load(tmp_path / "out")
    assert loaded.heads["structure"].config.threshold == pytest.approx(0.31)
    assert not loaded.has_lm_head
    for key, value in loaded.head_module("structure").state_dict().items():
        assert torch.equal(value, head[key])
    convert(genbio, tmp_path / "plain", u_row="U")
    assert (model.load(tmp_path / "plain").embed(SEQS) == loaded.embed(SEQS)).all()
    convert(tmp_path / "out", tmp_path / "again")
    assert model.load(tmp_path / "again").heads["structure"].config.threshold == pytest.approx(0.31)
    for damage, message in (
        ({"state_dict": state | {"adapter.nose": torch.ones(1)}}, "unknown tensor 'adapter.nose'"),
        ({"weights": state}, "holds no state_dict"),
    ):
        torch.save(damage, source / "model.ckpt")
        with pytest.raises(CheckpointError, match=message):
            convert(source, tmp_path / "bad", u_row="U")
    torch.save(state, source / "second.ckpt")
    with pytest.raises(CheckpointError, match=r"2 Lightning checkpoints"):
        convert(source, tmp_path / "bad", u_row="U")
