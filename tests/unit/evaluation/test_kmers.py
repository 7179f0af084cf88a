"""Profiles of k-mers against counting by dictionary."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.evaluation.kmers import KmerProfiles


def slow_cosine(one: str, other: str, k: int) -> float:
    """By dictionaries of words."""
    counts = []
    for text in (one, other):
        words = (text[place : place + k] for place in range(len(text) - k + 1))
        counts.append(Counter(word for word in words if set(word) <= set("ACGU")))
    shared = sum(counts[0][word] * counts[1][word] for word in counts[0])
    norms = [sum(number**2 for number in count.values()) ** 0.5 for count in counts]
    return shared / (norms[0] * norms[1]) if norms[0] and norms[1] else 0.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("ACGUN", max_size=30), min_size=1, max_size=8), st.integers(1, 4))
def test_cosines_of_counts(sequences: list[str], k: int) -> None:
    found = KmerProfiles(sequences, k).scores(np.arange(len(sequences)))
    expected = [[slow_cosine(one, other, k) for other in sequences] for one in sequences]
    assert found == pytest.approx(np.array(expected), abs=1e-6)


def test_words_do_not_reach_over_the_end_of_a_sequence() -> None:
    assert KmerProfiles(["AAC", "GUU", "CGU"], 2).scores(np.array([0, 1, 2])).round(3).tolist() == [
        [1, 0, 0],
        [0, 1, 0.5],
        [0, 0.5, 1],
    ]


def test_equal_profiles_score_alike_to_the_bit() -> None:
    rng = np.random.default_rng(1)
    texts = ["".join(rng.choice(list("ACGU"), 200)) for _ in range(20)]
    scores = KmerProfiles([*texts, *texts], 6).scores(np.arange(20))
    assert np.array_equal(scores[:, :20], scores[:, 20:])
