"""What a step reads: budgets, weights, families, and that a number always gives the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.training.corpus import LEFT_OUT, TRAIN, VALID
from raypipe.training.draws import Epochs, Families, Reader
from raypipe.training.labels import UNKNOWN
from tests.pretraining import CONTEXT, family_corpus, make_corpus_of

LENGTHS = st.lists(st.integers(1, 150), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, budget=st.integers(64, 500), seed=st.integers(0, 9), data=st.data())
def test_an_epoch_fits_its_budget_and_reads_by_weight(lengths: list[int], budget: int, seed: int, data) -> None:
    weight = data.draw(
        st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.0, 2.5]), min_size=len(lengths), max_size=len(lengths))
    )
    part = data.draw(st.lists(st.sampled_from([TRAIN, VALID, LEFT_OUT]), min_size=len(lengths), max_size=len(lengths)))
    corpus = make_corpus_of(lengths, weight=weight, part=part)
    epochs = Epochs(corpus, budget, CONTEXT, seed)
    batches = epochs.batches(0)
    size = np.minimum(lengths, CONTEXT) + 2
    for batch in batches:
        assert len(batch) == 1 or size[batch].sum() <= budget
    visits = np.bincount(np.concatenate([*batches, np.array([], dtype=int)]).astype(int), minlength=len(lengths))
    expected = np.where(corpus.part == TRAIN, corpus.weight, 0)
    assert (visits >= np.floor(expected)).all()
    assert (visits <= np.ceil(expected)).all()
    again = epochs.batches(0)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))


def test_no_step_but_one_is_over_a_few_short_sequences() -> None:
    lengths = np.random.default_rng(1).integers(5, 60, 4000).tolist()
    epochs = Epochs(make_corpus_of(lengths), 500, CONTEXT, 0)
    size = np.array(lengths) + 2
    small_ones = [batch for batch in epochs.batches(0) if size[batch].sum() < 500 - size.max()]
    assert len(small_ones) <= 1


def test_weights_hold_in_expectation() -> None:
    weight = [0.05, 0.3, 1.0, 2.3] * 50
    epochs = Epochs(make_corpus_of([20] * 200, weight=weight), 500, CONTEXT, 0)
    visits = np.bincount(np.concatenate([np.concatenate(epochs.batches(epoch)) for epoch in range(100)]))
    for value in set(weight):
        mean = visits[np.array(weight) == value].mean() / 100
        # Of 5,000 draws of a fraction f the mean strays by sqrt(f (1 - f) / 5000), at most 0.007.
        assert mean == pytest.approx(value, abs=0.03)


def test_epochs_differ_and_follow_the_seed() -> None:
    corpus = make_corpus_of([30] * 50)
    first, second = (np.concatenate(Epochs(corpus, 200, CONTEXT, 0).batches(epoch)) for epoch in (0, 1))
    other = np.concatenate(Epochs(corpus, 200, CONTEXT, 1).batches(0))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.sort(first), np.arange(50))


def test_a_reader_gives_the_batches_of_all_epochs_by_number() -> None:
    # Weights make epochs of different lengths.
    epochs = Epochs(make_corpus_of([25] * 40, weight=[0.5] * 40), 100, CONTEXT, 3)
    expected = [batch for epoch in range(4) for batch in epochs.batches(epoch)]
    reader = Reader(epochs)
    lengths = [len(epochs.batches(epoch)) for epoch in range(4)]
    assert len(set(lengths)) > 1
    for number in [*range(len(expected)), 2, lengths[0], 0]:
        assert np.array_equal(reader[number], expected[number])
    assert reader.epoch_of(0) == 0
    assert reader.epoch_of(lengths[0]) == 1
    assert reader.epoch_of(lengths[0] + 1) == pytest.approx(1 + 1 / lengths[1])
    assert Reader(epochs).epoch_of(sum(lengths)) == 4
    assert reader.count(2) == lengths[0] + lengths[1]
    assert reader.count(1.5) == lengths[0] + round(lengths[1] / 2)
    assert reader.count(0.001) == 1


def test_what_weighs_nothing_is_never_drawn() -> None:
    corpus = family_corpus()
    corpus.weight[corpus.family == 1] = 0
    for number in range(20):
        drawn = Families(corpus, TRAIN, 0).draw(number, groups=9, per_group=2, per_family=2, singles=5)
        assert 1 not in drawn.family
        assert (corpus.weight[drawn.rows] > 0).all()


def test_families_are_drawn_whole_and_only_of_their_part() -> None:
    corpus = family_corpus()
    families = Families(corpus, TRAIN, 0)
    # 6 families are trained on, 2 of them one clan.
    assert len(families) == 5
    drawn = families.draw(7, groups=4, per_group=2, per_family=2, singles=3)
    assert (corpus.part[drawn.rows] == TRAIN).all()
    pairs = len(drawn.rows) - 6
    assert pairs in (8, 10)
    known = drawn.rows[:pairs]
    assert np.array_equal(corpus.family[known], drawn.family[:pairs])
    assert np.array_equal(corpus.group[known], drawn.group[:pairs])
    assert (np.bincount(drawn.family[:pairs])[np.unique(drawn.family[:pairs])] == 2).all()
    assert len(np.unique(drawn.group[:pairs])) == 4
    singles = drawn.rows[pairs:]
    assert np.array_equal(singles[::2], singles[1::2])
    # A single of a known family is one of it; one of none is of a family of its own.
    for row, family in zip(singles, drawn.family[pairs:], strict=True):
        assert family == (corpus.family[row] if corpus.family[row] != UNKNOWN else -2 - row)
    again = Families(corpus, TRAIN, 0).draw(7, groups=4, per_group=2, per_family=2, singles=3)
    assert np.array_equal(again.rows, drawn.rows)
    assert again.rng.random() == drawn.rng.random()
    other = families.draw(8, groups=4, per_group=2, per_family=2, singles=3)
    assert not np.array_equal(other.rows, drawn.rows)


def test_every_group_is_as_likely_as_any() -> None:
    # One family of 95 members, five of one.
    family = [0] * 95 + [1, 2, 3, 4, 5]
    families = Families(make_corpus_of([20] * 100, family=family), TRAIN, 0)
    drawn = [families.draw(n, groups=1, per_group=1, per_family=2, singles=0).family[0] for n in range(600)]
    assert np.bincount(drawn) == pytest.approx(np.full(6, 100), abs=40)


def test_singles_follow_the_weights() -> None:
    corpus = make_corpus_of([20] * 3, weight=[1.0, 0.0, 9.0])
    families = Families(corpus, TRAIN, 0)
    rows = np.concatenate([families.draw(n, groups=0, per_group=1, per_family=2, singles=1).rows for n in range(400)])
    counts = np.bincount(rows, minlength=3) / 800
    assert counts == pytest.approx([0.1, 0.0, 0.9], abs=0.05)
