"""Agreement of base pairs, against counts by hand and a dense definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import ModelError
from model.structure import Pairs, parse_dot_bracket
from model.structure_metrics import PairCounts, PairScores, compare_pairs, mean_scores, pooled_scores

KNOWN = "((((....))))......"
OTHER = "(((......))).(...)"


def test_by_hand() -> None:
    counts = compare_pairs(parse_dot_bracket(OTHER), parse_dot_bracket(KNOWN), len(KNOWN))
    assert counts == PairCounts(predicted=4, known=4, same=3, right_shift=3, found_shift=3, possible=153)
    scores = counts.scores()
    assert (scores.precision, scores.recall, scores.f1) == (0.75, 0.75, 0.75)
    assert scores.mcc == pytest.approx((3 * 148 - 1) / math.sqrt(4 * 4 * 149 * 149))


def test_a_helix_that_slipped_by_one_is_found_with_a_shift() -> None:
    """On one side only: a pair that moved on both sides is another pair."""
    on_one_side = compare_pairs(parse_dot_bracket("((((...))))."), parse_dot_bracket("((((....))))"), 12)
    assert (on_one_side.same, on_one_side.right_shift, on_one_side.found_shift) == (0, 4, 4)
    on_both = compare_pairs([(0, 10)], [(1, 9)], 12)
    assert (on_both.same, on_both.right_shift, on_both.found_shift) == (0, 0, 0)


def test_several_predictions_near_one_known_pair() -> None:
    """All are right, but one known pair is found."""
    counts = compare_pairs([(2, 10), (3, 9)], [(3, 10)], 12)
    assert (counts.right_shift, counts.found_shift) == (2, 1)
    assert counts.scores().precision_shift == counts.scores().recall_shift == 1.0


def test_shifts_do_not_wrap_around_the_edge() -> None:
    length = 6
    assert compare_pairs([(0, 5)], [(1, 2)], length).right_shift == 0
    assert compare_pairs([(1, 5)], [(2, 3)], length).right_shift == 0


def test_pseudoknots_count_as_pairs() -> None:
    known = parse_dot_bracket("((..[[..))..]]")
    counts = compare_pairs(parse_dot_bracket("((......))...."), known, 14)
    assert (counts.predicted, counts.known, counts.same) == (2, 4, 2)


def test_nothing_to_divide_by() -> None:
    assert set(vars(compare_pairs([], [], 9).scores()).values()) == {1.0}
    assert set(vars(compare_pairs([(0, 5)], [], 9).scores()).values()) == {0.0}
    assert set(vars(compare_pairs([], [(0, 5)], 9).scores()).values()) == {0.0}


def test_averages_over_sequences_and_over_pairs() -> None:
    long = PairCounts(predicted=90, known=100, same=90, right_shift=90, found_shift=90, possible=20000)
    short = PairCounts(predicted=10, known=10, same=0, right_shift=5, found_shift=5, possible=100)
    assert mean_scores([long, short]).precision == pytest.approx(0.5)
    assert mean_scores([long, short]).f1 == pytest.approx(long.scores().f1 / 2)
    assert pooled_scores([long, short]).precision == pytest.approx(0.9)
    assert pooled_scores([long, short]).recall_shift == pytest.approx(95 / 110)
    for average in (mean_scores, pooled_scores):
        with pytest.raises(ModelError, match="no sequence"):
            average([])


def test_counts_of_long_sequences_do_not_overflow() -> None:
    many = [PairCounts(1000, 1000, 1000, 1000, 1000, 4096 * 4095 // 2)] * 100_000
    assert pooled_scores(many).mcc == pytest.approx(1.0)


@pytest.mark.parametrize(("pairs", "words"), [([(3, 1)], "fit"), ([(0, 9)], "fit"), ([(0, 4), (0, 4)], "twice")])
def test_pairs_that_make_no_sense_are_refused(pairs: Pairs, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        compare_pairs(pairs, [], 9)
    with pytest.raises(ModelError, match="known"):
        compare_pairs([], pairs, 9)


@st.composite
def _two(draw: st.DrawFn) -> tuple[int, Pairs, Pairs]:
    length = draw(st.integers(2, 12))
    every = [(i, j) for i in range(length) for j in range(i + 1, length)]
    some = st.lists(st.sampled_from(every), unique=True).map(tuple)
    return length, draw(some), draw(some)


@given(_two())
@settings(max_examples=150, deadline=None)
def test_as_the_dense_definition(case: tuple[int, Pairs, Pairs]) -> None:
    length, predicted, known = case
    p, k = np.zeros((2, length, length), dtype=bool)
    for mapped, pairs in ((p, predicted), (k, known)):
        for pair in pairs:
            mapped[pair] = True
    inside = np.triu(np.ones((length, length), dtype=bool), 1)

    def blurred(x: np.ndarray) -> np.ndarray:
        wide = np.pad(x, 1)
        return wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]

    counts = compare_pairs(predicted, known, length)
    assert counts.same == (p & k).sum()
    assert (counts.right_shift, counts.found_shift) == ((p & blurred(k)).sum(), (k & blurred(p)).sum())
    scores: PairScores = counts.scores()
    if predicted and known and 0 < p[inside].mean() < 1 and 0 < k[inside].mean() < 1:
        assert scores.mcc == pytest.approx(np.corrcoef(p[inside], k[inside])[0, 1])
