"""Masked marginals against the reference's own logits at the <mask> tokens of the golden texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import model
from model.scoring import masked_logits, nucleotide_log_probabilities, variant_effects
from model.windows import cut

BOUND = 1e-5


def test_masked_positions_have_the_references_scores(shared: Path) -> None:
    folder = shared / "golden" / "masked-lm"
    texts = json.loads((folder / "sequences.json").read_text())["sequences"]
    reference = load_file(folder / "expected.safetensors")["logits"]
    loaded = model.load(folder)
    alphabet = loaded.alphabet
    compared = 0
    for text, theirs in zip(texts, reference, strict=True):
        place = text.find("<mask>")
        if place < 0:
            continue
        # With any letter in the mask's place: it is masked again when its turn comes.
        tokens = alphabet.encode([text.replace("<mask>", "G")])
        windows = cut(tokens.lengths, size=loaded.config.context, long="error")
        ours = masked_logits(loaded.module, alphabet, tokens, windows, max_tokens=2000)[0]
        assert np.abs(ours[place] - theirs[place + 1]).max() <= BOUND * np.abs(theirs).max()
        effects = variant_effects(nucleotide_log_probabilities(ours, alphabet), tokens[0][1:-1], alphabet, "masked")
        wanted = theirs[place + 1, [alphabet.id[x] for x in "ACGU"]] - theirs[place + 1, alphabet.id["G"]]
        assert np.abs(effects.scores[place] - wanted).max() <= BOUND * np.abs(theirs).max()
        compared += 1
    assert compared == 5
