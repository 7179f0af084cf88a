"""Maps of sequences of one length, made together as on a GPU, against maps made one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import model
from model import HeadConfig
from model.head_runs import ALIKE_PAIRS

HEADS = {
    "near": HeadConfig("contact", "binary"),
    "touch": HeadConfig("contact", "multilabel", 2, transform="nonlinear"),
    "fold": HeadConfig("structure"),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("pairs", [2 * 20**2, 1 << 20])
def test_maps_of_one_length_are_made_together(
    tiny: Path, tmp_path: Path, name: str, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside sequences of other lengths, of one nucleotide, or in several windows."""
    rng = np.random.default_rng(0)
    lengths = (20, 20, 7, 20, 1, 1, 20, 7, 20, *([] if name == "fold" else [1030]))
    seqs = ["".join(rng.choice(list("ACGU"), length)) for length in lengths]
    loaded = model.load(tiny)
    loaded.add_head(name, HEADS[name])
    with torch.no_grad():
        for parameter in loaded.head_module(name).parameters():
            parameter.normal_(0, 0.4)
    file = loaded.save_head(name, tmp_path / f"{name}.safetensors", trained=True)
    alone = loaded.logits(seqs, head=name)
    monkeypatch.setitem(ALIKE_PAIRS, "cpu", pairs)
    loaded = model.load(tiny)
    loaded.load_head(file)
    seen: list[tuple[int, ...]] = []
    loaded.head_module(name).register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[:-1])))
    for ours, theirs in zip(loaded.logits(seqs, head=name), alone, strict=True):
        known = np.isfinite(theirs)
        assert (known == np.isfinite(ours)).all()
        assert np.abs(ours[known] - theirs[known]).max(initial=0) <= 1e-5 * np.abs(theirs[known]).max(initial=1)
    together = [(5, 20), (2, 7), (2, 1)] if pairs == 1 << 20 else [(2, 20), (2, 20), (1, 20), (2, 7), (2, 1)]
    assert [shape for shape in seen if len(shape) == 2] == together
