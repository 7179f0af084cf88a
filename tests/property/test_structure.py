"""Decoding against the enumeration of every pairing, and the texts of a structure as round trips."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.decode import decode_structure
from model.structure import Pairs, Structure, parse_dot_bracket
from model.structure_files import parse_bpseq, parse_ct

LONGEST = 10
CANONICAL = {"AU", "UA", "GC", "CG", "GU", "UG"}
# Quarters add up exactly, so that ties are common; the last three are no neighbours of anything.
VALUES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.sampled_from([0.3, 0.6180339887, 0.9999]))


def crosses(one: tuple[int, int], other: tuple[int, int]) -> bool:
    (a, b), (c, d) = sorted((one, other))
    return a < c < b < d


@cache
def pairings(positions: tuple[int, ...]) -> list[Pairs]:
    """Every way to pair some of the positions, crossing ones included."""
    if len(positions) < 2:
        return [()]
    head, rest = positions[0], positions[1:]
    found = list(pairings(rest))
    for at, partner in enumerate(rest):
        found += [((head, partner), *others) for others in pairings(rest[:at] + rest[at + 1 :])]
    return found


@cache
def nested_pairings(length: int) -> list[Pairs]:
    return [p for p in pairings(tuple(range(length))) if not any(crosses(*two) for two in combinations(p, 2))]


@st.composite
def maps(draw: st.DrawFn) -> tuple[np.ndarray, str]:
    """A symmetric map, some of it above any threshold, and its sequence."""
    sequence = draw(st.text("ACGUGCNt", min_size=1, max_size=LONGEST))
    length = len(sequence)
    above = np.triu_indices(length, 1)
    count = len(above[0])
    values = np.zeros((length, length))
    values[above] = draw(st.lists(VALUES, min_size=count, max_size=count))
    return values + values.T, sequence


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    """Any sequence with any pairing."""
    sequence = draw(st.text("ACGUNacgtRY-.*", min_size=1, max_size=40))
    order = draw(st.permutations(range(len(sequence))))
    count = draw(st.integers(0, len(sequence) // 2))
    pairs = [(min(two), max(two)) for two in zip(order[:count], order[count : 2 * count], strict=True)]
    return Structure(sequence, tuple(pairs))


SETTINGS = st.fixed_dictionaries(
    {
        "threshold": st.sampled_from([0.0, 0.25, 0.4, 0.5, 0.8]),
        "canonical": st.booleans(),
        "min_loop": st.integers(0, 3),
    }
)


def allowed(values: np.ndarray, sequence: str, threshold: float, canonical: bool, min_loop: int) -> set:
    letters = sequence.upper().replace("T", "U")
    return {
        (i, j)
        for i, j in combinations(range(len(letters)), 2)
        if values[i, j] > threshold
        and j - i - 1 >= min_loop
        and (not canonical or letters[i] + letters[j] in CANONICAL)
    }


@settings(max_examples=150, deadline=None)
@given(maps(), SETTINGS)
def test_decoding_finds_the_best_of_all_nested_pairings(given_map: tuple[np.ndarray, str], options: dict) -> None:
    values, sequence = given_map
    candidates = allowed(values, sequence, **options)

    def score(pairs: Pairs) -> float:
        return sum(values[pair] - options["threshold"] for pair in pairs)

    found = decode_structure(values, sequence, **options)
    assert set(found.pairs) <= candidates
    assert not any(crosses(*two) for two in combinations(found.pairs, 2))
    best = max(score(pairs) for pairs in nested_pairings(len(sequence)) if candidates.issuperset(pairs))
    assert abs(score(found.pairs) - best) < 1e-9
    assert found == decode_structure(values, sequence, **options)


@settings(max_examples=150, deadline=None)
@given(maps(), SETTINGS)
def test_pseudoknots_come_on_top(given_map: tuple[np.ndarray, str], options: dict) -> None:
    values, sequence = given_map
    candidates = allowed(values, sequence, **options)
    nested = set(decode_structure(values, sequence, **options).pairs)
    knotted = set(decode_structure(values, sequence, pseudoknots=True, **options).pairs)
    assert nested <= knotted <= candidates
    for pair in knotted - nested:
        assert any(crosses(pair, other) for other in nested)
    # Nothing that could still be added is left out.
    taken = {position for pair in knotted for position in pair}
    assert not [pair for pair in candidates if not taken.intersection(pair)]


@settings(max_examples=150, deadline=None)
@given(structures())
def test_texts_give_the_structure_back(structure: Structure) -> None:
    assert len(structure.dot_bracket) == len(structure.sequence)
    assert parse_dot_bracket(structure.dot_bracket) == structure.pairs
    for name in (None, "a name"):
        assert parse_bpseq(structure.bpseq(name)) == structure
    assert parse_ct(structure.ct("1 title")) == structure
    assert all(text.endswith("\n") for text in (structure.bpseq(), structure.ct()))


@settings(max_examples=100, deadline=None)
@given(structures().filter(lambda structure: len(structure.pairs) <= 9))
def test_layers_are_nested_and_the_first_has_the_most_pairs(structure: Structure) -> None:
    layers = structure.layers
    assert sorted(pair for layer in layers for pair in layer) == list(structure.pairs)
    for place, layer in enumerate(layers):
        assert layer == tuple(sorted(layer))
        assert not any(crosses(*two) for two in combinations(layer, 2))
        left = [pair for later in layers[place:] for pair in later]
        larger = combinations(left, len(layer) + 1)
        assert all(any(crosses(*two) for two in combinations(pairs, 2)) for pairs in larger)
