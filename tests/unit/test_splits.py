"""Splits by a key."""

from __future__ import annotations

import pytest

from raypipe.splits import FAMILY_SHARES, family_group, part_of

KEYS = [f"RF{number:05d}" for number in range(5000)]


def test_shares_hold_and_the_rest_is_trained_on() -> None:
    parts = [part_of(key) for key in KEYS]
    for part, share in FAMILY_SHARES.items():
        assert parts.count(part) / len(KEYS) == pytest.approx(share, abs=0.02)
    assert set(parts) == {*FAMILY_SHARES, "train"}


def test_known_keys_stay_where_they_are() -> None:
    """A figure in a paper must not change its test set with a release."""
    known = {"CL00002": "test", "RF00011": "test", "RF00022": "valid", "RF00005": "train", "CL00001": "train"}
    assert {key: part_of(key) for key in known} == known


def test_a_larger_first_share_takes_keys_from_behind_only() -> None:
    before = {key: part_of(key, {"test": 0.1, "valid": 0.1}) for key in KEYS}
    after = {key: part_of(key, {"test": 0.2, "valid": 0.1}) for key in KEYS}
    assert all(after[key] == "test" for key in KEYS if before[key] == "test")
    assert sum(part == "test" for part in after.values()) > sum(part == "test" for part in before.values())


def test_no_shares_and_whole_shares() -> None:
    assert {part_of(key, {}) for key in KEYS} == {"train"}
    assert {part_of(key, {"valid": 0.0}) for key in KEYS} == {"train"}
    assert {part_of(key, {"valid": 1.0}) for key in KEYS} == {"valid"}


@pytest.mark.parametrize("shares", [{"test": -0.1}, {"test": 0.6, "valid": 0.6}])
def test_shares_that_make_no_sense(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must not be negative, nor exceed 1 together"):
        part_of("RF00001", shares)


def test_a_clan_keeps_its_families_together() -> None:
    assert family_group("RF00001", "CL00113") == "CL00113"
    assert family_group("RF00001", None) == family_group("RF00001", "") == "RF00001"
