"""Masked-LM scores against a plain loop that masks one letter of the text at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import model
from model.alphabet import Alphabet
from model.checkpoint import write_checkpoint
from model.config import AidoRnaConfig
from model.errors import CheckpointError
from model.packing import Layout
from model.scoring import masked_logits, nucleotide_log_probabilities, pseudo_likelihood, variant_effects
from model.windows import Long, cut

ALPHABET = Alphabet()
TEXTS = ["GGCUACGAUNRYCGA", "A", "", "acgtacgtt", "CCCCC", "GGGAAACCCUUUGGGAAACCCUUU", "CCGCC"]
BOUND = 1e-5


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> model.Model:
    return model.load(tiny)


@pytest.fixture(scope="module", params=[9, 10])
def narrow(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_config: AidoRnaConfig,
    random_tensors: Callable[..., dict[str, torch.Tensor]],
) -> model.Model:
    """A context of 7 nucleotides (stride 3, up to three windows cover one), or of 8 (stride 4, up to two)."""
    config = replace(tiny_config, max_positions=request.param)
    folder = tmp_path_factory.mktemp("narrow") / "narrow"
    write_checkpoint(folder, config.to_json(), random_tensors(config, lm_head=True), ALPHABET)
    return model.load(folder)


def masked(loaded: model.Model, texts: list[str], max_tokens: int = 8192, long: Long = "window") -> list[np.ndarray]:
    tokens = loaded.alphabet.encode(texts)
    windows = cut(tokens.lengths, size=loaded.config.context, long=long)
    return masked_logits(loaded.module, loaded.alphabet, tokens, windows, max_tokens=max_tokens)


def by_text(loaded: model.Model, text: str) -> np.ndarray:
    """One text after another, each with one letter replaced by <mask>."""
    rows = [loaded.logits([text[:i] + "<mask>" + text[i + 1 :]])[0][1 + i] for i in range(len(text))]
    return np.stack(rows) if rows else np.empty((0, len(loaded.alphabet)), dtype=np.float32)


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max(initial=0) <= BOUND * np.abs(theirs).max(initial=0)


@pytest.mark.parametrize("max_tokens", [1, 40, 8192])
def test_equals_masking_the_text(loaded: model.Model, max_tokens: int) -> None:
    for text, ours in zip(TEXTS, masked(loaded, TEXTS, max_tokens), strict=True):
        close(ours, by_text(loaded, text))


@pytest.mark.parametrize("max_tokens", [1, 25, 8192])
def test_windows_equal_masking_the_text(narrow: model.Model, max_tokens: int) -> None:
    # One short enough, ends of every kind, and the same text twice.
    texts = ["GGCUACG", *("GGCUACGAUCCAUAGGCAUNAUG"[:n] for n in (8, 9, 13, 23, 23)), ""]
    for text, ours in zip(texts, masked(narrow, texts, max_tokens), strict=True):
        close(ours, by_text(narrow, text))


def test_truncated(narrow: model.Model) -> None:
    text = "GGCUACGAUCCAUAG"
    kept = text[: narrow.config.context]
    close(masked(narrow, ["ACG", text], long="truncate")[1], by_text(narrow, kept))


def test_company_does_not_matter(loaded: model.Model) -> None:
    for text, together in zip(TEXTS, masked(loaded, TEXTS), strict=True):
        close(together, masked(loaded, [text])[0])
    assert masked(loaded, []) == []
    assert masked(loaded, [""])[0].shape == (0, len(ALPHABET))


def test_a_masked_letter_is_not_seen(loaded: model.Model) -> None:
    """The row of a position does not depend on the letter that stands there; other rows do."""
    first, second = masked(loaded, ["GGCUACGAU", "GGCUNCGAU"])
    close(first[4], second[4])
    assert np.abs(first[3] - second[3]).max() > 100 * BOUND * np.abs(first).max()


@pytest.mark.parametrize("budget", [30, 200])
def test_packed_within_the_budget_and_scored_at_masks_only(loaded: model.Model, budget: int) -> None:
    layouts: list[Layout] = []
    scored: list[int] = []
    lm_head = loaded.module.lm_head
    assert lm_head is not None
    hooks = [
        loaded.module.register_forward_hook(lambda _, inputs, __: layouts.append(inputs[1])),
        lm_head.register_forward_hook(lambda _, inputs, __: scored.append(len(inputs[0]))),
    ]
    lengths = [5, 9, 5, 26, 40, 5]
    try:
        masked(loaded, ["A" * n for n in lengths], budget)
    finally:
        for hook in hooks:
            hook.remove()
    assert all(layout.tokens <= budget or len(layout.lengths) == 1 for layout in layouts)
    assert scored == [len(layout.lengths) for layout in layouts]
    segments = [length for layout in layouts for length in layout.lengths]
    assert segments == sorted((n + 2 for n in lengths for _ in range(n)), reverse=True)
    # No batch could have taken the first copy of the next one.
    for batch, following in pairwise(layouts):
        assert batch.tokens + following.lengths[0] > budget


def test_probabilities_are_over_nucleotides_alone() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (6, len(ALPHABET))).astype(np.float32)
    logs = nucleotide_log_probabilities(logits, ALPHABET)
    assert (logs.shape, logs.dtype) == ((6, 4), np.float32)
    assert np.exp(logs).sum(1) == pytest.approx(np.ones(6))
    columns = [ALPHABET.id[letter] for letter in "ACGU"]
    assert np.diff(logs, axis=1) == pytest.approx(np.diff(logits[:, columns], axis=1), abs=1e-5)
    # What other tokens get does not matter, nor does size.
    others = [i for i in range(len(ALPHABET)) if i not in columns]
    logits[:, others] += 1000
    assert nucleotide_log_probabilities(logits + 1e4, ALPHABET) == pytest.approx(logs, abs=5e-3)
    assert nucleotide_log_probabilities(logits[:0], ALPHABET).shape == (0, 4)
    with pytest.raises(CheckpointError, match="no C"):
        nucleotide_log_probabilities(logits, Alphabet((*ALPHABET.tokens[:6], *"AGU")))


def ids(text: str) -> np.ndarray:
    return ALPHABET.encode([text])[0][1:-1]


def test_a_model_that_knows_nothing_has_perplexity_four() -> None:
    uniform = np.full((7, 4), np.log(0.25), dtype=np.float32)
    found = pseudo_likelihood(uniform, ids("ACGUNGG"), ALPHABET)
    assert found.scored == 6
    assert found.pll == pytest.approx(6 * np.log(0.25))
    assert found.perplexity == pytest.approx(4)


def test_pseudo_likelihood_by_hand() -> None:
    logs = np.log(
        np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25], [0.2, 0.5, 0.2, 0.1]])
    )
    found = pseudo_likelihood(logs, ids("UA<mask>C"), ALPHABET)
    assert found.scored == 3
    assert found.pll == pytest.approx(np.log(0.4) + np.log(0.7) + np.log(0.5))
    assert found.perplexity == pytest.approx((0.4 * 0.7 * 0.5) ** (-1 / 3))


@pytest.mark.parametrize("text", ["", "NN", "<mask>X."])
def test_nothing_to_score(text: str) -> None:
    found = pseudo_likelihood(np.zeros((len(ids(text)), 4), dtype=np.float32), ids(text), ALPHABET)
    assert (found.pll, found.scored) == (0, 0)
    assert np.isnan(found.perplexity)


def test_an_impossible_sequence_is_infinitely_perplexing() -> None:
    assert pseudo_likelihood(np.full((1, 4), -1000.0), ids("A"), ALPHABET).perplexity == float("inf")


def test_variant_effects_by_hand() -> None:
    logs = np.log(np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.15, 0.05]]))
    effects = variant_effects(logs, ids("gNt"), ALPHABET, "masked")
    assert (effects.sequence, effects.method) == ("GNU", "masked")
    assert effects.scores.dtype == effects.log_probabilities.dtype == np.float32
    assert np.exp(effects.scores[0]) == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3])
    assert effects.scores[0, 2] == effects.scores[2, 3] == 0
    assert np.isnan(effects.scores[1]).all()
    rows = effects.rows()
    assert [row["notation"] for row in rows] == ["G1A", "G1C", "G1U", "U3A", "U3C", "U3G"]
    assert [row["position"] for row in rows] == [1, 1, 1, 3, 3, 3]
    last = rows[-1]
    assert (last["ref"], last["alt"]) == ("U", "G")
    assert last["log_p_ref"] == pytest.approx(np.log(0.05))
    assert last["log_p_alt"] == pytest.approx(np.log(0.15))
    assert last["score"] == pytest.approx(np.log(3))


def test_letters_that_are_no_nucleotides() -> None:
    effects = variant_effects(np.zeros((4, 4)), ids("<mask>RX."), ALPHABET, "wild-type")
    assert effects.sequence == "NRX."
    assert np.isnan(effects.scores).all()
    assert effects.rows() == []
    assert variant_effects(np.zeros((0, 4)), ids(""), ALPHABET, "masked").rows() == []
