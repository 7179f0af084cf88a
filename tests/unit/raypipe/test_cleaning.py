"""What a sequence may hold, and the words for what it may not."""

from __future__ import annotations

import hashlib

import pytest

from raypipe.cleaning import clean, md5


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("ACGU", b"ACGU"),
        ("acgu", b"ACGU"),
        ("TtUu", b"UUUU"),
        ("NRYSWKMBDHVXI", b"NRYSWKMBDHVXI"),
        ("nryswkmbdhvxi", b"NRYSWKMBDHVXI"),
    ],
)
def test_case_t_and_ambiguity_codes_become_one_form(given: str, canonical: bytes) -> None:
    assert clean(given) == (canonical, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "empty sequence"),
        ("MKVLA", "letter 'L' at position 4 is no nucleotide; this looks like protein"),
        ("ACG12U", "digit '1' at position 4; remove numbering"),
        ("AC GU", "blank inside the sequence at position 3; remove blanks"),
        ("AC\tGU", "blank inside the sequence at position 3; remove blanks"),
        ("AC\xa0GU", "blank inside the sequence at position 3; remove blanks"),
        ("AC-GU", "alignment character '-' at position 3; remove gaps"),
        ("AC.GU", "alignment character '.' at position 3; remove gaps"),
        ("ACGU>b", "'>' at position 5: the line break before the next record is missing"),
        ("ACé", "character 'é' at position 3 is no nucleotide code"),
        ("AC!", "character '!' at position 3 is no nucleotide code"),
        ("AC\0", "character '\\x00' at position 3 is no nucleotide code"),
    ],
)
def test_a_refusal_names_the_character_its_place_and_the_remedy(given: str, words: str) -> None:
    canonical, reason = clean(given)
    assert canonical == b""
    assert reason is not None
    assert words in reason


def test_md5_is_rnacentrals() -> None:
    """Of the upper-case DNA form: "acgu", "ACGT" and "ACGU" share one key."""
    expected = hashlib.md5(b"ACGTN").hexdigest()
    assert {md5(clean(given)[0]) for given in ("acgun", "ACGTN", "ACGUn")} == {expected}
