"""Equality with multimolecule 0.0.8 and GenBio's code on tiny checkpoints, on real tokens, in float32.

Differences are measured against the largest absolute value of the reference; two float32 programs that add in another
order agree to some 1e-6, and each is as far from the exact result.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import model

BOUND = 1e-5


def _case(shared: Path, name: str) -> tuple[Path, dict[str, np.ndarray], dict[str, object], list[str]]:
    folder = shared / "golden" / name
    about = json.loads((folder / "sequences.json").read_text())
    return folder, load_file(folder / "expected.safetensors"), about, about["sequences"]


def _difference(ours: np.ndarray, reference: np.ndarray) -> float:
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def _real(reference: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """(..., S, L, X) padded -> one (..., length, X) per sequence."""
    return [reference[..., i, : int(row.sum()), :] for i, row in enumerate(mask)]


def _flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays, axis=-2)


def test_token_ids_are_the_references(shared: Path) -> None:
    for name in ("base", "masked-lm"):
        folder, expected, _, texts = _case(shared, name)
        tokens = model.load(folder).alphabet.encode(texts)
        for i, row in enumerate(expected["attention_mask"]):
            assert tokens[i].tolist() == expected["input_ids"][i, : row.sum()].tolist()


def test_every_hidden_state(shared: Path) -> None:
    folder, expected, _, texts = _case(shared, "base")
    states = _flat(model.load(folder).hidden_states(texts))
    reference = _flat(_real(expected["hidden_states"], expected["attention_mask"]))
    assert len(states) == 5
    for ours, theirs in zip(states, reference, strict=True):
        assert _difference(ours, theirs) <= BOUND


def test_last_hidden_state_and_pooler(shared: Path) -> None:
    folder, expected, _, texts = _case(shared, "base")
    loaded = model.load(folder)
    last = _real(expected["last_hidden_state"], expected["attention_mask"])
    assert _difference(_flat(loaded.encode(texts)), _flat(last)) <= BOUND
    assert loaded.has_pooler
    assert _difference(loaded.pooler_output(texts), expected["pooler_output"]) <= BOUND
    means = np.stack([row[1:-1].mean(0) for row in last])
    assert _difference(loaded.embed(texts), means) <= BOUND


def test_masked_lm_logits_and_loss(shared: Path) -> None:
    folder, expected, _, texts = _case(shared, "masked-lm")
    loaded = model.load(folder)
    logits = _real(expected["logits"], expected["attention_mask"])
    assert _difference(_flat(loaded.logits(texts)), _flat(logits)) <= BOUND
    assert loaded.loss(texts, expected["labels"]) == pytest.approx(float(expected["loss"]), rel=BOUND)


@pytest.mark.parametrize("name", ["genbio_layernorm", "genbio_rmsnorm", "genbio_dna_letters"])
def test_genbio_through_the_converter(shared: Path, tmp_path: Path, name: str) -> None:
    folder, expected, about, texts = _case(shared, name)
    u_row = about["u_row"]
    assert u_row in ("U", "T")
    model.convert.convert(folder, tmp_path / "converted", u_row)
    loaded = model.load(tmp_path / "converted")
    mask = expected["attention_mask"]
    reference = _flat(_real(expected["hidden_states"], mask))
    for ours, theirs in zip(_flat(loaded.hidden_states(texts)), reference, strict=True):
        assert _difference(ours, theirs) <= BOUND
    # Columns of A, C, G, U and N, which both vocabularies have.
    theirs = _flat(_real(expected["logits"], mask))[:, [5, 7, 6, 9 if u_row == "U" else 8, 10]]
    ours = _flat(loaded.logits(texts))[:, [loaded.alphabet.id[letter] for letter in "ACGUN"]]
    assert _difference(ours, theirs) <= BOUND
    # The other choice of row gives another model, so the choice is tested by the lines above.
    model.convert.convert(folder, tmp_path / "other", "T" if u_row == "U" else "U")
    other = _flat(model.load(tmp_path / "other").hidden_states(texts))[-1]
    assert _difference(other, reference[-1]) > 100 * BOUND


def test_attentions(shared: Path) -> None:
    folder, expected, _, texts = _case(shared, "base")
    maps = model.load(folder).attentions(texts)
    for i, mask in enumerate(expected["attention_mask"]):
        n = int(mask.sum())
        reference = expected["attentions"][:, i, :, :n, :n]
        assert _difference(maps[i], reference) <= BOUND


HEADS = {
    "sequence-binary": "sequence",
    "sequence-multiclass": "sequence",
    "sequence-multilabel": "sequence",
    "sequence-regression": "sequence",
    "token-multiclass": "token",
    "token-regression": "token",
    "contact-binary": "contact",
    "secondary-structure": "structure",
}


@pytest.mark.parametrize("name", HEADS)
def test_task_heads(shared: Path, name: str) -> None:
    """Logits and loss; where texts are of one length, since padding counts in the reference."""
    folder, expected, _, texts = _case(shared, name)
    loaded = model.load(folder)
    assert list(loaded.heads) == [HEADS[name]]
    assert not loaded.report.dropped
    logits = np.stack(loaded.logits(texts))
    reference = expected["logits"].reshape(logits.shape)
    assert _difference(logits, reference) <= BOUND
    if name != "secondary-structure":  # whose case has no labels
        assert loaded.loss(texts, expected["labels"]) == pytest.approx(float(expected["loss"]), rel=BOUND)
    assert loaded.has_pooler == name.startswith("sequence")
    assert not loaded.has_lm_head
