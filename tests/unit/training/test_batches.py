"""Packed batches: where segments lie, what is masked, what is asked."""

from __future__ import annotations

import numpy as np
import pytest

from model.alphabet import Alphabet
from raypipe.errors import UsageError
from raypipe.training.batches import Packed
from raypipe.training.corpus import TRAIN, VALID
from raypipe.training.feed import StepMaker, inline
from tests.pretraining import CONTEXT, PAIRS, family_corpus, make_corpus_of, small, step_maker

ALPHABET = Alphabet()


def same(one: Packed, other: Packed) -> bool:
    return (
        np.array_equal(one.ids, other.ids)
        and np.array_equal(one.asked, other.asked)
        and np.array_equal(one.labels, other.labels)
        and np.array_equal(one.rows, other.rows)
        and one.lengths == other.lengths
    )


def segments(batch: Packed, ids: np.ndarray) -> list[np.ndarray]:
    return np.split(ids, np.cumsum(batch.lengths)[:-1])


def unmasked(batch: Packed) -> np.ndarray:
    ids = batch.ids.copy()
    ids[batch.asked] = batch.labels
    return ids


def test_segments_are_framed_sorted_and_those_of_the_corpus() -> None:
    corpus = make_corpus_of([80, 10, 30, 55, 30])
    (batch,) = step_maker(corpus, small(valid_share=0)).make(0)
    assert sorted(batch.lengths, reverse=True) == list(batch.lengths)
    for row, piece in zip(batch.rows, segments(batch, unmasked(batch)), strict=True):
        assert piece[0] == ALPHABET.id["<cls>"]
        assert piece[-1] == ALPHABET.id["<eos>"]
        # The longest is over the context, so a stretch of it is read.
        assert len(piece) - 2 == min(corpus.lengths[row], CONTEXT)
        assert piece[1:-1].astype(np.uint8).tobytes() in corpus[row].tobytes()
    assert sorted(batch.rows) == list(range(5))


def test_a_sequence_over_the_context_is_read_in_other_stretches() -> None:
    maker = step_maker(make_corpus_of([200]), small())
    starts = {unmasked(maker.make(step)[0]).tobytes() for step in range(8)}
    assert len(starts) > 4


def test_shares_of_the_mask() -> None:
    maker = step_maker(make_corpus_of([50] * 400), small(batch_tokens=30_000, mask_rate=0.2))
    (batch,) = maker.make(0)
    nucleotides = len(batch.ids) - 2 * len(batch.lengths)
    assert len(batch.asked) / nucleotides == pytest.approx(0.2, abs=0.005)
    shown = batch.ids[batch.asked]
    assert np.mean(shown == ALPHABET.id["<mask>"]) == pytest.approx(0.8, abs=0.02)
    assert np.mean(shown == batch.labels) == pytest.approx(0.1, abs=0.02)
    assert np.isin(batch.labels, ALPHABET.nucleotides).all()


def test_views_are_asked_for_only_where_they_are_masked() -> None:
    settings = small(**PAIRS, mask_views=0.5)
    batch = step_maker(family_corpus(), settings).make(0)[-1]
    asked = np.zeros(len(batch.ids), dtype=bool)
    asked[batch.asked] = True
    any_asked = np.array([piece.any() for piece in segments(batch, asked)])
    hidden = np.array([(piece == ALPHABET.id["<mask>"]).any() for piece in segments(batch, batch.ids)])
    assert 0 < any_asked.sum() < len(any_asked)
    assert not (hidden & ~any_asked).any()
    assert batch.family is not None
    assert len(batch.family) == len(batch.lengths)
    assert not len(step_maker(family_corpus(), small(**PAIRS, mask_views=0)).make(0)[-1].asked)


def test_workers_read_what_one_would_read_in_turn() -> None:
    """Two workers' batches of a step are those of one that accumulates two; contrastive batches are each its own."""
    corpus = family_corpus()
    alone = step_maker(corpus, small(**PAIRS, accumulate=2))
    pair = [step_maker(corpus, small(**PAIRS), rank, 2) for rank in range(2)]
    for step in (0, 5):
        *wanted, _ = alone.make(step)
        for batch, maker in zip(wanted, pair, strict=True):
            assert same(maker.make(step)[0], batch)
        views = [maker.make(step)[-1] for maker in pair]
        assert not same(*views)
    assert alone.epoch(5) == pair[0].epoch(5) == pair[1].epoch(5)


def test_batches_made_ahead_are_the_same() -> None:
    maker = step_maker(family_corpus(), small(**PAIRS, steps=5))
    ahead = list(inline(step_maker(family_corpus(), small(**PAIRS, steps=5)), 2))
    assert len(ahead) == 3
    for step, batches in enumerate(ahead, 2):
        assert all(same(*pair) for pair in zip(batches, maker.make(step), strict=True))


def test_validation_is_always_the_same_and_of_its_part_only() -> None:
    corpus = family_corpus()
    first, second = (step_maker(corpus, small(**PAIRS, valid_batches=3, seed=seed)).validation for seed in (0, 1))
    assert len(first) > 3
    assert all(same(*pair) for pair in zip(first, second, strict=True))
    for batch in first:
        assert (corpus.part[batch.rows] == VALID).all()
    plain = np.concatenate([batch.rows for batch in first if batch.family is None])
    assert len(np.unique(plain)) == len(plain)
    # Views are mutated: what they are asked for is no measure of reading RNA.
    assert all(len(batch.asked) == 0 for batch in first if batch.family is not None)
    weightless = make_corpus_of([30] * 9, part=[VALID] * 4 + [TRAIN] * 5, weight=[0.0] * 2 + [1.0] * 7)
    judged = np.concatenate([batch.rows for batch in step_maker(weightless, small()).validation])
    assert sorted(judged.tolist()) == [2, 3]


def test_contrastive_learning_with_nothing_to_draw_is_refused() -> None:
    settings = small(**{**PAIRS, "singles": 0})
    with pytest.raises(UsageError, match="no sequence to train on has a family in family_column, and singles is 0"):
        StepMaker(make_corpus_of([30] * 5), ALPHABET, settings, CONTEXT)
