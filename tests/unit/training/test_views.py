"""Views: stretches of a sequence, changed as told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.alphabet import Alphabet
from raypipe.training.views import view

NUCLEOTIDES = Alphabet().nucleotides
SEQUENCES = st.lists(st.sampled_from(NUCLEOTIDES.tolist()), min_size=1, max_size=120).map(
    lambda ids: np.array(ids, dtype=np.uint8)
)


@settings(max_examples=100, deadline=None)
@given(
    sequence=SEQUENCES,
    crop=st.floats(0.1, 1),
    mutate=st.floats(0, 0.9),
    longest=st.integers(1, 150),
    seed=st.integers(0, 99),
)
def test_a_view_is_short_enough_and_made_of_nucleotides(
    sequence: np.ndarray, crop: float, mutate: float, longest: int, seed: int
) -> None:
    before = sequence.copy()
    found = view(sequence, NUCLEOTIDES, np.random.default_rng(seed), crop=crop, mutate=mutate, longest=longest)
    again = view(sequence, NUCLEOTIDES, np.random.default_rng(seed), crop=crop, mutate=mutate, longest=longest)
    assert np.array_equal(sequence, before)
    assert np.array_equal(found, again)
    # Every place may be doubled by an insertion.
    assert 1 <= len(found) <= 2 * min(longest, len(sequence))
    assert np.isin(found, NUCLEOTIDES).all()


@settings(max_examples=60, deadline=None)
@given(sequence=SEQUENCES, crop=st.floats(0.1, 1), seed=st.integers(0, 99))
def test_without_mutations_it_is_a_stretch_of_the_sequence(sequence: np.ndarray, crop: float, seed: int) -> None:
    found = view(sequence, NUCLEOTIDES, np.random.default_rng(seed), crop=crop, mutate=0, longest=1000)
    assert len(found) >= crop * len(sequence) - 1e-9
    assert found.tobytes() in sequence.tobytes()


def test_mutations_are_as_many_and_as_told() -> None:
    """0 to a half of the places are changed, so a quarter on average; 15 % of these are lost, 15 % are followed by one
    that was inserted, and the others are drawn anew, a quarter of them as they were."""
    rng = np.random.default_rng(0)
    sequence = np.full(1000, NUCLEOTIDES[0], dtype=np.uint8)
    views = [view(sequence, NUCLEOTIDES, rng, crop=1.0, mutate=0.5, longest=1000) for _ in range(400)]
    assert np.mean([len(found) for found in views]) == pytest.approx(1000, abs=3)
    others = np.mean([(found != NUCLEOTIDES[0]).sum() for found in views])
    # Of 250 changed places 175 are drawn anew and 37.5 inserted, three quarters of both another nucleotide.
    assert others == pytest.approx(0.75 * (175 + 37.5), rel=0.1)
