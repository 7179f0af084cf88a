"""Published checkpoints give their published fill-mask scores.

RAYPIPE_CHECKPOINTS names a folder that holds them by their names (aido.rna-650m-cds, ...), multimolecule layout.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import model

SCORES = {
    "gguc<mask>cucugguuagaccagaucugagccu": {
        "A": 0.158811,
        "R": 0.150444,
        "G": 0.142517,
        "V": 0.129848,
        "M": 0.123943,
    },
    "uagc<mask>uaucagacugauguug": {"A": 0.175760, "M": 0.149432, "R": 0.130221, "V": 0.129155, "C": 0.127049},
}


def test_fill_mask_of_650m_cds() -> None:
    root = os.environ.get("RAYPIPE_CHECKPOINTS")
    if not root:
        pytest.skip("RAYPIPE_CHECKPOINTS does not name a folder of published checkpoints")
    folder = Path(root) / "aido.rna-650m-cds"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    loaded = model.load(folder)
    for text, scores in SCORES.items():
        answer = loaded.fill_mask(text)
        assert [candidate["token_str"] for candidate in answer] == list(scores)
        for candidate in answer:
            assert candidate["score"] == pytest.approx(scores[candidate["token_str"]], abs=1e-4)
