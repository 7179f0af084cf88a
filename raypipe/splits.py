"""Deterministic splits by a key: what shares a key (a family, a clan, a cluster, a sequence) is never torn apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

FAMILY_SHARES: Mapping[str, float] = {"test": 0.15, "valid": 0.05}
"""Shares of the groups of families that never teach `nano`: its retrieval is measured on `test`."""


def part_of(key: str, shares: Mapping[str, float] = FAMILY_SHARES) -> str:
    """The part that `key` belongs to, the same on every machine and in every release.

    Args:
        key: what is kept together, such as the clan of a family, else the family.
        shares: part -> its share of all keys, from 0 to 1 together; the rest is "train". The parts lie one after
            another, so that making the first share larger takes keys from those behind it only.

    Returns:
        A name out of `shares`, or "train".

    Raises:
        ValueError: shares that are negative or more than 1 together.
    """
    if any(share < 0 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"the shares of a split must not be negative, nor exceed 1 together: {dict(shares)}")
    place = place_of(key)
    stop = 0.0
    for part, share in shares.items():
        stop += share
        if place < stop:
            return part
    return "train"


def place_of(key: str) -> float:
    """Where `key` lies, from 0 to below 1, each place as likely; the same on every machine and in every release."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64


def family_group(family: str, clan: str | None) -> str:
    """The key by which families are split: the clan, whose families are related, else the family itself."""
    return clan or family
