"""Which part each row belongs to, where relatives are kept together or kept away from the test part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raypipe.cleaning import md5
from raypipe.clusters import cluster, related
from raypipe.errors import UsageError
from raypipe.finetuning.examples import part_by, word
from raypipe.finetuning.rows import Row
from raypipe.finetuning.settings import FinetuneSettings
from raypipe.finetuning.tables import TESTED
from raypipe.splits import part_of

NEAR_TEST = "near the test part"
"""The part of rows that neither teach nor are measured on."""


# In this order: the name of a group stands before those of its clusters.
GROUP, CLUSTER = "1 group", "2 cluster"


def parts_of(settings: FinetuneSettings, rows: Sequence[Row]) -> list[str]:
    """The part of every row.

    Rows are kept together that share a value of the group columns, or with `cluster` a cluster of sequences, directly
    or through others. With `test_where` the rows that it chooses are the test part; what is kept together with them, or
    with `cluster` related to one of them, is `NEAR_TEST`.

    Args:
        settings: of the run.
        rows: all of them, those that are too long to be used included: their relatives are theirs.

    Raises:
        InputError: the split column holds something else than the names of parts.
        UsageError: the condition chooses no row.
    """
    if settings.cluster is None and settings.test_where is None:
        return [part_by(settings, row) for row in rows]
    sequences = [row.sequence for row in rows]
    names = _together(settings, rows)
    shares = {"valid": settings.valid} if settings.test_where else {"test": settings.test, "valid": settings.valid}
    parts = [part_of(name, shares) for name in names]
    if settings.test_where is None:
        return parts
    tested = np.array([bool(row.values[TESTED]) for row in rows], bool)
    if not tested.any():
        raise UsageError(f"--test-where {settings.test_where!r}: chooses none of {len(rows):,} rows")
    groups = {name for name, test in zip(names, tested.tolist(), strict=True) if test}
    near = np.array([name in groups for name in names], bool)
    others = np.flatnonzero(~tested & ~near)
    if settings.cluster is not None:
        known = [sequence for sequence, test in zip(sequences, tested.tolist(), strict=True) if test]
        near[others[related([sequences[place] for place in others.tolist()], known, settings.cluster)]] = True
    return [
        "test" if test else NEAR_TEST if close else part
        for part, test, close in zip(parts, tested.tolist(), near.tolist(), strict=True)
    ]


def _together(settings: FinetuneSettings, rows: Sequence[Row]) -> list[str]:
    """A name for every row, the same one for those that are kept together."""
    groups = [next(filter(None, (word(row.values[name]) for name in settings.group_column)), "") for row in rows]
    sequences = [row.sequence for row in rows]
    # Without clusters each sequence is one of its own.
    names = (
        [md5(sequence.encode("ascii")) for sequence in sequences]
        if settings.cluster is None
        else cluster(sequences, settings.cluster)
    )
    if not any(groups):
        return names
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(key: tuple[str, str]) -> tuple[str, str]:
        while (upper := parent.setdefault(key, key)) != key:
            parent[key] = parent[upper]
            key = upper
        return key

    for name, group in zip(names, groups, strict=True):
        if group:
            # The smaller one stands for both, and a group before a cluster, so that the order of rows is of no matter.
            one, other = sorted((root((CLUSTER, name)), root((GROUP, group))))
            parent[other] = one
    return [root((GROUP, group) if group else (CLUSTER, name))[1] for name, group in zip(names, groups, strict=True)]
