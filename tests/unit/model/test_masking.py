"""The masking of pre-training: proportions by the binomial law (5 sigma, fixed seeds), and what it never touches."""

from __future__ import annotations

import numpy as np
import pytest

from model.alphabet import SPECIAL_TOKENS, Alphabet, Tokens
from model.errors import CheckpointError, ModelError
from model.masking import IGNORED, mask_tokens

ALPHABET = Alphabet()
NUCLEOTIDES = ALPHABET.nucleotides.tolist()
MASK = ALPHABET.id["<mask>"]


def random_tokens(lengths: list[int], letters: str = "ACGU", seed: int = 0) -> Tokens:
    rng = np.random.default_rng(seed)
    return ALPHABET.encode(["".join(rng.choice(list(letters), n)) for n in lengths])


def within(successes: int, trials: int, share: float) -> bool:
    return abs(successes - trials * share) <= 5 * np.sqrt(trials * share * (1 - share))


def fates(tokens: Tokens, masked: Tokens, labels: np.ndarray) -> tuple[int, int, int]:
    """How many of the chosen became <mask>, another nucleotide, or stayed."""
    chosen = labels != IGNORED
    hidden = masked.ids[chosen] == MASK
    stayed = masked.ids[chosen] == tokens.ids[chosen]
    return int(hidden.sum()), int((~hidden & ~stayed).sum()), int(stayed.sum())


def chosen_by_sequence(tokens: Tokens, labels: np.ndarray) -> np.ndarray:
    return np.add.reduceat(labels != IGNORED, tokens.offsets[:-1])


def test_ids_of_the_nucleotides() -> None:
    assert [ALPHABET.tokens[i] for i in NUCLEOTIDES] == list("ACGU")
    with pytest.raises(CheckpointError, match="no G"):
        _ = Alphabet((*SPECIAL_TOKENS, *"ACU")).nucleotides


def test_proportions() -> None:
    tokens = random_tokens([200] * 3000)
    masked, labels = mask_tokens(tokens, ALPHABET, np.random.default_rng(1))
    # 0.15 * 200 is whole, so there is no chance in it.
    assert (chosen_by_sequence(tokens, labels) == 30).all()
    total = 30 * 3000
    assert sum(found := fates(tokens, masked, labels)) == total
    assert all(within(count, total, share) for count, share in zip(found, (0.8, 0.1, 0.1), strict=True)), found


def test_labels_are_what_stood_there_and_the_rest_is_as_it_was() -> None:
    tokens = random_tokens([50, 1, 300, 7], "ACGUNRYX.*-I")
    before = tokens.ids.copy()
    masked, labels = mask_tokens(tokens, ALPHABET, np.random.default_rng(2))
    chosen = labels != IGNORED
    assert (tokens.ids == before).all()
    assert masked.ids is not tokens.ids
    assert (masked.ids.dtype, labels.dtype, labels.shape) == (np.uint8, np.int64, tokens.ids.shape)
    assert (masked.offsets == tokens.offsets).all()
    assert (masked.ids[~chosen] == before[~chosen]).all()
    assert (labels[chosen] == before[chosen]).all()


def test_only_nucleotides_are_chosen_and_put_in() -> None:
    tokens = ALPHABET.encode(["ACGU<mask>NRYSWKMBDHV.X*-I" * 40, "N" * 50 + "G"])
    counts = set()
    for seed in range(20):
        masked, labels = mask_tokens(tokens, ALPHABET, np.random.default_rng(seed), rate=0.9)
        assert set(labels[labels != IGNORED].tolist()) <= set(NUCLEOTIDES)
        assert set(masked.ids[labels != IGNORED].tolist()) <= {*NUCLEOTIDES, MASK}
        counts.add(tuple(chosen_by_sequence(tokens, labels).tolist()))
    assert counts == {(144, 1)}  # 0.9 of 160, and the only one


def test_another_nucleotide_is_each_of_the_three_others() -> None:
    tokens = random_tokens([1000] * 200)
    masked, labels = mask_tokens(tokens, ALPHABET, np.random.default_rng(3), rate=0.5, mask=0.0, random=1.0)
    chosen = labels != IGNORED
    for old in NUCLEOTIDES:
        new = masked.ids[chosen & (tokens.ids == old)]
        assert not (new == old).any()
        for other in set(NUCLEOTIDES) - {old}:
            assert within(int((new == other).sum()), len(new), 1 / 3)


def test_every_position_and_every_fate_alike() -> None:
    count, length = 20_000, 20
    tokens = random_tokens([length] * count)
    masked, labels = mask_tokens(tokens, ALPHABET, np.random.default_rng(4))
    rows = labels.reshape(count, length + 2)
    per_position = (rows != IGNORED).sum(0)
    assert per_position[0] == per_position[-1] == 0
    assert all(within(int(hits), count, 0.15) for hits in per_position[1:-1])
    hidden = (masked.ids.reshape(rows.shape) == MASK).sum(0)
    assert all(within(int(hits), count, 0.12) for hits in hidden[1:-1])
    # Pairs too: 3 of 20 without repetition.
    both = int(((rows[:, 3] != IGNORED) & (rows[:, 4] != IGNORED)).sum())
    assert within(both, count, 3 / 20 * 2 / 19)


@pytest.mark.parametrize(("length", "share"), [(7, 0.05), (10, 0.5), (33, 0.95)])
def test_the_number_is_rounded_by_chance(length: int, share: float) -> None:
    """0.15 n is 1.05, 1.5, 4.95: the share of sequences that get one more is the fraction."""
    tokens = random_tokens([length] * 5000)
    _, labels = mask_tokens(tokens, ALPHABET, np.random.default_rng(5))
    more = chosen_by_sequence(tokens, labels) - int(0.15 * length)
    assert set(more.tolist()) == {0, 1}
    assert within(int(more.sum()), 5000, share)


def test_a_short_sequence_still_asks_for_one() -> None:
    tokens = random_tokens([0, 1, 2, 3, 4, 5, 6] * 100)
    _, labels = mask_tokens(tokens, ALPHABET, np.random.default_rng(6))
    assert chosen_by_sequence(tokens, labels).tolist() == [0, 1, 1, 1, 1, 1, 1] * 100


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["NNNN", "<mask>N", "RYX"]])
def test_nothing_to_choose_from(texts: list[str]) -> None:
    tokens = ALPHABET.encode(texts)
    masked, labels = mask_tokens(tokens, ALPHABET, np.random.default_rng(0))
    assert masked.ids.tolist() == tokens.ids.tolist()
    assert labels.tolist() == [IGNORED] * len(tokens.ids)


def test_everything_can_be_chosen() -> None:
    tokens = random_tokens([5, 40, 0, 17])
    masked, labels = mask_tokens(tokens, ALPHABET, np.random.default_rng(0), rate=1, mask=1, random=0)
    assert chosen_by_sequence(tokens, labels).tolist() == [5, 40, 0, 17]
    assert (masked.ids[labels != IGNORED] == MASK).all()


def test_the_seed_decides() -> None:
    tokens = random_tokens([80] * 50)
    first, again, other = (mask_tokens(tokens, ALPHABET, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert (first[0].ids == again[0].ids).all()
    assert (first[1] == again[1]).all()
    assert (first[1] != other[1]).any()
    rng = np.random.default_rng(7)
    mask_tokens(tokens, ALPHABET, rng)
    assert (mask_tokens(tokens, ALPHABET, rng)[1] != first[1]).any()


@pytest.mark.parametrize(
    "shares", [{"rate": 0}, {"rate": 1.5}, {"rate": float("nan")}, {"mask": 0.95}, {"random": -0.1}, {"mask": -1}]
)
def test_shares_that_make_no_sense(shares: dict[str, float]) -> None:
    with pytest.raises(ModelError, match="must"):
        mask_tokens(random_tokens([5]), ALPHABET, np.random.default_rng(0), **shares)
