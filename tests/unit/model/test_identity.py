"""Fingerprints, the shipped checkpoint, and that cheap things stay cheap."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import model
from model import CheckpointError
from model.predictions import ContactPrediction
from model.structure import parse_dot_bracket
from model.structure_metrics import compare_pairs


def test_a_fingerprint_survives_moving_and_only_moving(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(tiny, folder)
    original = model.fingerprint(tiny)
    assert len(original) == 64
    assert model.fingerprint(folder) == original == model.load(folder).fingerprint

    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"raypipe": {"source": "there"}}, indent=7))
    assert model.fingerprint(folder) == original
    (folder / "config.json").write_text(json.dumps(settings | {"layer_norm_eps": 1e-6}))
    assert model.fingerprint(folder) != original
    (folder / "config.json").write_text(json.dumps(settings))

    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert model.fingerprint(folder) != original
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert model.fingerprint(folder) == original

    tokens = list(model.Alphabet().tokens)
    tokens[-1], tokens[-2] = tokens[-2], tokens[-1]
    (folder / "vocab.txt").write_text("\n".join(tokens))
    assert model.fingerprint(folder) != original
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="raypipe model convert"):
        model.fingerprint(folder)


def test_nano_is_what_the_registry_and_its_card_say() -> None:
    nano = model.load("nano")
    entry = model.registry.get("nano")
    assert nano.name == "nano"
    assert nano.trained is entry.trained is True
    assert nano.entry is entry
    for name in ("num_layers", "hidden_size", "num_heads", "intermediate_size", "norm", "linear_bias"):
        assert getattr(nano.config, name) == getattr(entry.config, name)
    assert not nano.has_pooler
    assert nano.has_lm_head
    assert {name: head.trained for name, head in nano.heads.items()} == {"rna_type": True, "structure": True}
    assert nano.embed(["ACGU"]).shape == (1, nano.config.hidden_size)
    folder = model.shipped_checkpoint()
    assert (folder / "model.safetensors").stat().st_size <= 20_000_000
    card = (folder / "README.md").read_text()
    assert f"{sum(tensor.numel() for tensor in load_file(folder / 'model.safetensors').values()):,}" in card


def test_the_heads_of_nano_know_a_trna() -> None:
    """tRNA-Phe of yeast, and of man; the cloverleaf that all textbooks show."""
    sequences = [
        "GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCCUGUGUUCGAUCCACAGAAUUCGCACCA",
        "GCCGAAAUAGCUCAGUUGGGAGAGCGUUAGACUGAAGAUCUAAAGGUCCCUGGUUCGAUCCCGGGUUUCGGCACCA",
    ]
    cloverleaf = "(((((((..((((........)))).(((((.......))))).....(((((.......))))))))))))...."
    said = model.load("nano").predict(sequences, ["rna_type", "structure"])
    assert [getattr(one, "label", None) for one in said["rna_type"]] == ["tRNA", "tRNA"]
    for one in said["structure"]:
        assert isinstance(one, ContactPrediction)
        assert one.structure is not None
        pairs = compare_pairs(one.structure.pairs, parse_dot_bracket(cloverleaf), len(cloverleaf))
        assert pairs.scores().f1 > 0.9


def test_torch_is_loaded_at_first_use_only() -> None:
    program = (
        "import sys, model\n"
        "model.registry.names(), model.fingerprint('nano'), model.shipped_checkpoint('nano')\n"
        "model.AidoRnaConfig.from_json(model.shipped_checkpoint('nano')), model.Alphabet().encode(['ACGU'])\n"
        "assert 'torch' not in sys.modules and 'safetensors' not in sys.modules\n"
        "model.load\n"
        "assert 'torch' in sys.modules\n"
    )
    root = Path(model.__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)
    assert set(model.__all__) <= set(dir(model))
    with pytest.raises(AttributeError, match="nonsense"):
        model.nonsense  # noqa: B018
