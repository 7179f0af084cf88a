"""Reading checkpoints: every published arrangement loads alike, every fault is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import model
from model import AidoRnaConfig, CheckpointError

SEQS = ["ACGUACGGAU", "GGC", "AUNRYXUUUAGCGAU"]
Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors], Tensors]


def _variant(tiny: Path, folder: Path, change: Change) -> Path:
    shutil.copytree(tiny, folder)
    tensors = change(load_file(tiny / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("prefix", ["", "aido_rna.", "model."])
def test_prefixes(tiny: Path, tmp_path: Path, prefix: str) -> None:
    folder = _variant(
        tiny, tmp_path / "x", lambda tensors: {k.replace("aido_rna.", prefix): v for k, v in tensors.items()}
    )
    expected, loaded = model.load(tiny), model.load(folder)
    assert (loaded.pooler_output(SEQS) == expected.pooler_output(SEQS)).all()
    assert all((a == b).all() for a, b in zip(loaded.logits(SEQS), expected.logits(SEQS), strict=True))


def test_shards(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").unlink()
    tensors = load_file(tiny / "model.safetensors")
    names = sorted(tensors)
    weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({n: tensors[n] for n in names if weight_map[n] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert (model.load(folder).embed(SEQS) == model.load(tiny).embed(SEQS)).all()
    assert len(model.fingerprint(folder)) == 64

    index.write_text(json.dumps({"weight_map": weight_map | {"aido_rna.extra": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"promises tensor aido_rna\.extra"):
        model.load(folder)
    index.write_text(json.dumps({"weight_map": weight_map | {"aido_rna.extra": "../elsewhere.safetensors"}}))
    with pytest.raises(CheckpointError, match="not a file of its own folder"):
        model.load(folder)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="weight_map"):
        model.load(folder)
    index.write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-00002-of-00002\.safetensors"):
        model.load(folder)


def test_a_tied_decoder_may_be_written_out(tiny: Path, tmp_path: Path) -> None:
    def with_copies(tensors: Tensors) -> Tensors:
        return tensors | {
            "lm_head.decoder.weight": tensors["aido_rna.embeddings.word_embeddings.weight"].clone(),
            "lm_head.decoder.bias": tensors["lm_head.bias"].clone(),
        }

    loaded = model.load(_variant(tiny, tmp_path / "x", with_copies))
    assert loaded.module.lm_head is not None
    assert loaded.module.lm_head.decoder is None
    assert not loaded.report.notes
    for ours, theirs in zip(loaded.logits(SEQS), model.load(tiny).logits(SEQS), strict=True):
        assert (ours == theirs).all()


def test_the_files_own_decoder_is_preferred(tiny: Path, tmp_path: Path) -> None:
    own = torch.randn(26, 32, generator=torch.Generator().manual_seed(1))
    bias = torch.randn(26, generator=torch.Generator().manual_seed(2))
    folder = _variant(tiny, tmp_path / "x", lambda t: t | {"lm_head.decoder.weight": own, "lm_head.decoder.bias": bias})
    loaded = model.load(folder)
    assert "decoder matrix of its own" in loaded.report.notes[0]
    assert "the latter is used" in loaded.report.notes[1]
    head = loaded.module.lm_head
    assert head is not None
    for row, states in zip(loaded.logits(SEQS), loaded.encode(SEQS), strict=True):
        with torch.no_grad():
            expected = head.norm(torch.nn.functional.gelu(head.dense(torch.from_numpy(states)))) @ own.T + bias
        assert np.allclose(row, expected.numpy(), atol=1e-4)


def test_missing_and_misshapen_tensors_are_named(tiny: Path, tmp_path: Path) -> None:
    key = "aido_rna.encoder.layer.1.attention.self.key.weight"
    folder = _variant(tiny, tmp_path / "a", lambda t: {k: v for k, v in t.items() if k != key})
    with pytest.raises(CheckpointError, match=f"missing tensor {key}"):
        model.load(folder)
    folder = _variant(tiny, tmp_path / "b", lambda t: t | {key: torch.zeros(32, 31)})
    with pytest.raises(CheckpointError, match=rf"{key} has the shape \[32, 31\].*\[32, 32\]"):
        model.load(folder)
    folder = _variant(tiny, tmp_path / "c", lambda t: t | {"aido_rna.surprise": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="unknown tensor"):
        model.load(folder)
    folder = _variant(tiny, tmp_path / "d", lambda t: t | {key: torch.zeros(32, 32, dtype=torch.int64)})
    with pytest.raises(CheckpointError, match=r"torch\.int64"):
        model.load(folder)


def test_a_missing_pooler_is_reported_and_never_made_up(tiny: Path, tmp_path: Path) -> None:
    folder = _variant(tiny, tmp_path / "x", lambda t: {k: v for k, v in t.items() if "pooler" not in k})
    loaded = model.load(folder)
    assert not loaded.has_pooler
    assert any(line.startswith("no pooler") for line in loaded.report.lines())
    with pytest.raises(model.ModelError, match="has no pooler"):
        loaded.pooler_output(SEQS)


def test_folders_that_cannot_be_loaded(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a checkpoint folder nor a name"):
        model.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        model.load(tmp_path)
    with pytest.raises(model.ModelError, match="does not ship"):
        model.load("aido.rna-650m")
    folder = tmp_path / "x"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        model.load(folder)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        model.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        model.load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"raypipe model convert {folder}"):
        model.load(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "rnabert"}))
    with pytest.raises(CheckpointError, match=rf"GenBio.*raypipe model convert {folder} {folder}-converted$"):
        model.load(folder)


def test_vocabulary_and_configuration_must_agree(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(tiny, folder)
    (folder / "vocab.txt").write_text("\n".join([*model.Alphabet().tokens, "?"]))
    with pytest.raises(CheckpointError, match="27 tokens"):
        model.load(folder)
    (folder / "vocab.txt").unlink()
    assert (model.load(folder).embed(SEQS) == model.load(tiny).embed(SEQS)).all()


def test_writing_never_overwrites(tiny: Path, tmp_path: Path, tiny_config: AidoRnaConfig) -> None:
    from model.checkpoint import write_checkpoint

    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "precious").write_text("data")
    with pytest.raises(CheckpointError, match="exists already"):
        write_checkpoint(tmp_path / "x", tiny_config.to_json(), {}, model.Alphabet())
    (tmp_path / "file").write_text("data")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_checkpoint(tmp_path / "file" / "y", tiny_config.to_json(), {}, model.Alphabet())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "x"]
    assert (tiny / "model.safetensors").stat().st_mode & 0o777 == (tiny / "config.json").stat().st_mode & 0o777
