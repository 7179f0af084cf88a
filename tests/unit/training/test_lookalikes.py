"""Shared stretches, against a search by Python strings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.alphabet import Alphabet
from raypipe.training import lookalikes
from raypipe.training.lookalikes import STRETCH, share_stretch

ALPHABET = Alphabet()


def shares(texts: list[str], known: list[bool]) -> list[bool]:
    ids = np.array([ALPHABET.id[letter] for letter in "".join(texts)], dtype=np.uint8)
    offsets = np.cumsum([0, *map(len, texts)])
    return share_stretch(ids, offsets, np.array(known), ALPHABET.nucleotides).tolist()


def by_hand(texts: list[str], known: list[bool]) -> list[bool]:
    stretches = [
        {text[i : i + STRETCH] for i in range(len(text) - STRETCH + 1) if set(text[i : i + STRETCH]) <= set("ACGU")}
        for text in texts
    ]
    wanted = set().union(*(found for found, told in zip(stretches, known, strict=True) if told))
    return [bool(found & wanted) for found in stretches]


@pytest.mark.parametrize("at_once", [50, 4_000_000])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_like_a_search_by_hand(at_once: int, data) -> None:
    """Sequences cut out of one common text, some with an N in it."""
    common = "".join(np.random.default_rng(0).choice(list("ACGU"), 200))
    cuts = data.draw(
        st.lists(st.tuples(st.integers(0, 190), st.integers(1, 70), st.booleans()), min_size=1, max_size=9)
    )
    texts = [common[start : start + length] for start, length, _ in cuts]
    texts = [
        f"{text[: len(text) // 2]}N{text[len(text) // 2 :]}" if n else text
        for text, (*_, n) in zip(texts, cuts, strict=True)
    ]
    known = data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)))
    before, lookalikes._AT_ONCE = lookalikes._AT_ONCE, at_once
    try:
        assert shares(texts, known) == by_hand(texts, known)
    finally:
        lookalikes._AT_ONCE = before


def test_neighbours_in_the_file_make_no_stretch() -> None:
    """The end of one and the beginning of the next are no stretch of 32."""
    half = "ACGGUUACCGAUUGCA"
    assert shares([half, half, half + half], [False, False, True]) == [False, False, True]
