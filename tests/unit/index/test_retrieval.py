"""Ranks and measures against an implementation that takes its time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.retrieval import (
    NO_GROUP,
    Found,
    Question,
    average_precision,
    measure,
    questions_of,
    rank_all,
    rank_listed,
    ranking,
)


def slow_ranks(scores: list[float], group: list[int], left_out: list[int], query: int) -> tuple[list[int], int]:
    """Ranks of the relevant rows, one row after another."""
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    ranks, counted = [], 0
    for row in order:
        if left_out[row] == left_out[query]:
            continue
        counted += 1
        if group[row] == group[query] and group[row] != NO_GROUP:
            ranks.append(counted)
    return ranks, counted


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], np.ndarray]:
    """Families, clans, clusters and scores; few values, so that many scores are equal."""
    n = draw(st.integers(2, 24))
    family = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    of_family = draw(st.lists(st.integers(NO_GROUP, 1), min_size=5, max_size=5))
    cluster = draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    values = draw(st.lists(st.integers(-3, 3), min_size=n * n, max_size=n * n))
    clan = [of_family[name] for name in family]
    return family, clan, cluster, np.array(values, dtype=np.float32).reshape(n, n) / 3


@settings(deadline=None, max_examples=60)
@given(worlds())
def test_ranks_are_those_of_the_slow_way(world: tuple[list[int], list[int], list[int], np.ndarray]) -> None:
    family, clan, cluster, scores = world
    labels = {"family": (family, cluster), "clan": (clan, family)}
    questions = questions_of(*map(np.array, (family, clan, cluster)))
    expected = {}
    for name, (group, left_out) in labels.items():
        ranks = {row: slow_ranks(scores[row].tolist(), group, left_out, row)[0] for row in range(len(family))}
        expected[name] = {row: found for row, found in ranks.items() if found}
        assert np.flatnonzero(questions[name].answerable()).tolist() == list(expected[name])
    asked = {name: (questions[name], np.array(list(expected[name]), np.int64)) for name in labels}
    for name, found in rank_all(lambda rows: scores[rows], asked).items():
        assert found.first.tolist() == [ranks[0] for ranks in expected[name].values()]
        wanted = [sum(i / r for i, r in enumerate(ranks, 1)) / len(ranks) for ranks in expected[name].values()]
        assert found.precision == pytest.approx(wanted)


@settings(deadline=None, max_examples=60)
@given(worlds())
def test_a_tool_that_lists_everything_ranks_as_the_scores_do(
    world: tuple[list[int], list[int], list[int], np.ndarray],
) -> None:
    family, clan, cluster, scores = world
    rows = np.arange(len(family))
    for question in questions_of(*map(np.array, (family, clan, cluster))).values():
        queries = np.flatnonzero(question.answerable())
        hits = {int(row): ranking(rows[::-1], scores[row][::-1]) for row in queries}
        listed = rank_listed(hits, question, queries)
        ranked = rank_all(lambda asked: scores[asked], {"it": (question, queries)})["it"]
        assert listed.first.tolist() == ranked.first.tolist()
        assert listed.precision == pytest.approx(ranked.precision)


def test_what_a_tool_does_not_list_is_never_found() -> None:
    question = Question(np.array([0, 0, 0, 1, 1]), np.arange(5))
    hits = {0: np.array([0, 3, 1]), 3: np.array([3])}
    found = rank_listed(hits, question, np.array([0, 1, 3]))
    # Of two relevant rows one is found, at rank 2: (1/2) * (1/2). Query 1 is not in the list at all.
    assert found.first.tolist() == [2, np.inf, np.inf]
    assert found.precision.tolist() == [0.25, 0, 0]


def test_large_blocks_and_many_queries_give_what_single_lines_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(300, 300)).astype(np.float32)
    question = Question(rng.integers(0, 20, 300), rng.integers(0, 60, 300))
    queries = np.flatnonzero(question.answerable())
    heights: list[int] = []

    def score(rows: np.ndarray) -> np.ndarray:
        heights.append(len(rows))
        return scores[rows]

    whole = rank_all(score, {"it": (question, queries)})["it"]
    monkeypatch.setattr("index.retrieval._BLOCK_BYTES", 7 * scores[0].nbytes)
    blocks, heights[:] = max(heights), []
    small = rank_all(score, {"it": (question, queries)})["it"]
    assert blocks > 7 == max(heights)
    assert np.array_equal(whole.first, small.first)
    assert np.array_equal(whole.precision, small.precision)


def test_scores_that_are_no_numbers_are_refused() -> None:
    question = Question(np.array([0, 0]), np.array([0, 1]))
    scores = np.array([[1, np.nan], [0, 1]], dtype=np.float32)
    with pytest.raises(ValueError, match="no number"):
        rank_all(lambda rows: scores[rows], {"it": (question, np.array([0, 1]))})


def test_average_precision_counts_what_was_not_found() -> None:
    assert average_precision(np.array([1, 2, 3]), 3) == 1
    assert average_precision(np.array([1, 4]), 4) == pytest.approx((1 + 2 / 4) / 4)
    assert average_precision(np.array([], dtype=np.int64), 2) == 0


def test_means_over_queries_and_over_groups() -> None:
    # A family of three queries, all right, and one of a single query, wrong but among the first ten.
    found = Found(np.arange(4), np.array([1, 1, 1, 10.0]), np.array([1, 1, 1, 0.2]))
    made = measure(found, np.array([7, 7, 7, 9]))
    assert (made.queries, made.groups) == (4, 2)
    assert (made.top1, made.macro_top1) == (0.75, 0.5)
    assert (made.any10, made.macro_any10) == (1, 1)
    assert made.mean_average_precision == pytest.approx(0.8)
    assert made.macro_mean_average_precision == pytest.approx(0.6)
    # Sums of deviations of the two groups: 3 - 3 * 0.75 and 0 - 0.75; (2 / 1) * (0.75² + 0.75²), over 4 queries.
    assert made.top1_error == pytest.approx(math.sqrt(2 * 2 * 0.75**2) / 4)


def test_one_group_says_nothing_of_its_error() -> None:
    made = measure(Found(np.arange(2), np.array([1, 2.0]), np.array([1, 0.5])), np.array([3, 3]))
    assert math.isnan(made.top1_error)


def test_error_is_that_of_groups_drawn_again() -> None:
    """Against the bootstrap over groups, on groups of one size."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(200), 5)
    right = (rng.random(200)[groups] < 0.5) & (rng.random(1000) < 0.9)
    found = Found(np.arange(1000), np.where(right, 1.0, 2.0), right.astype(float))
    means = right.reshape(200, 5).mean(axis=1)
    drawn = means[rng.integers(0, 200, (4000, 200))].mean(axis=1)
    assert measure(found, groups).top1_error == pytest.approx(drawn.std(), rel=0.05)


def test_ranking_takes_the_best_score_of_each_row() -> None:
    assert ranking(np.array([5, 3, 5, 1]), np.array([1.0, 2, 3, 2])).tolist() == [5, 1, 3]
