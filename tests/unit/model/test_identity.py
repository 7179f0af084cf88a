"""Fingerprints, the shipped checkpoint, and that cheap things stay cheap."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import model
from model import CheckpointError
from model.make_nano import make_nano


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


def test_nano_is_reproducible_bit_for_bit(tmp_path: Path) -> None:
    make_nano(tmp_path / "nano")
    for file in ("config.json", "vocab.txt", "model.safetensors"):
        assert (tmp_path / "nano" / file).read_bytes() == (model.shipped_checkpoint() / file).read_bytes()


def test_nano_says_that_it_is_untrained() -> None:
    nano = model.load("nano")
    assert nano.name == "nano"
    assert nano.trained is False
    assert nano.entry is model.registry.get("nano")
    assert nano.config == model.registry.get("nano").config
    assert not nano.has_pooler
    assert nano.has_lm_head
    assert "UNTRAINED" in (model.shipped_checkpoint() / "README.md").read_text()
    assert nano.embed(["ACGU"]).shape == (1, 128)


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
