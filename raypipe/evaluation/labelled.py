"""The labelled set of `raypipe eval retrieval`: distinct sequences with their family, clan and cluster.

Shapes: n distinct sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from index.retrieval import NO_GROUP
from raypipe.cleaning import clean, md5
from raypipe.errors import InputError
from raypipe.evaluation.columns import find_column, id_and_sequence, read_columns, texts
from raypipe.evaluation.settings import NO_COLUMN, RetrievalSettings
from raypipe.splits import family_group, part_of


@dataclass(frozen=True)
class Labelled:
    """Distinct sequences in the order of their md5, which knows nothing of families, so that ties may go by it.

    Attributes:
        ids: of the first row of each sequence.
        sequences: upper case, U.
        family, cluster: (n,) int64 codes. clan: (n,) int64, NO_GROUP where there is none.
        family_names, clan_names: what the codes stand for.
        parts: (n,) str, the part of the split that each one's family is in.
        counts: what was read and what became of it, for the report.
    """

    ids: list[str]
    sequences: list[str]
    family: np.ndarray
    clan: np.ndarray
    cluster: np.ndarray
    family_names: list[str]
    clan_names: list[str]
    parts: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True)
class _Rows:
    """The table's rows, label by label."""

    ids: list[str]
    sequences: list[str]
    family: list[str]
    clan: list[str]
    cluster: list[str]


def read_labelled(path: str, settings: RetrievalSettings) -> Labelled:
    """Read the table, take each distinct sequence once, and check that the labels can be asked for.

    Raises:
        InputError: no table, a column is missing or empty, or a sequence is no RNA.
    """
    table = read_columns(path)
    if not table.num_rows:
        raise InputError(f"{path}: has no rows")
    id_column, sequence_column = id_and_sequence(path, table, settings.id_column, settings.sequence_column)
    rows = _Rows(
        texts(path, table, id_column),
        texts(path, table, sequence_column),
        _labels(path, table, settings.family_column, "--family-column", "family"),
        _optional(path, table, settings.clan_column, "--clan-column", "clan"),
        _optional(path, table, settings.cluster_column, "--cluster-column", "cluster"),
    )
    clans = _clans_of_families(path, rows)
    keys = _distinct(path, rows)
    # By md5: the order of the table, in which families often lie together, must not decide ties.
    chosen = [keys[key] for key in sorted(keys)]
    family, family_names = _codes([rows.family[row] for row in chosen])
    clan, clan_names = _codes([clans[rows.family[row]] for row in chosen])
    # Without a cluster of its own a sequence is alone in one.
    cluster, _ = _codes([rows.cluster[row] or f"\0{row}" for row in chosen])
    part = {name: part_of(family_group(name, clans[name])) for name in clans}
    labelled = [row for row, name in enumerate(rows.family) if name]
    pairs = {(md5(_canonical(path, rows, row)), rows.family[row]) for row in labelled}
    return Labelled(
        ids=[rows.ids[row] for row in chosen],
        sequences=[_canonical(path, rows, row).decode("ascii") for row in chosen],
        family=family,
        clan=clan,
        cluster=cluster,
        family_names=family_names,
        clan_names=clan_names,
        parts=np.array([part[rows.family[row]] for row in chosen]),
        counts={
            "rows": table.num_rows,
            "rows_without_family": table.num_rows - len(labelled),
            "repeated_rows": len(labelled) - len(chosen),
            "sequences": len(chosen),
            "sequences_of_several_families": len(pairs) - len(chosen),
            "sequences_without_cluster": sum(not rows.cluster[row] for row in chosen),
            "families": len(family_names),
            "clans": len(clan_names),
            "clusters": int(cluster.max()) + 1,
        },
    )


def _labels(path: str, table: pa.Table, name: str, option: str, what: str, other: str = "") -> list[str]:
    values = texts(path, table, find_column(path, table, name, (), option))
    if not any(values):
        raise InputError(
            f"{path}: column {name!r} is empty in every row; name the column of the {what} with {option}{other}"
        )
    return values


def _optional(path: str, table: pa.Table, name: str, option: str, what: str) -> list[str]:
    if name == NO_COLUMN:
        return [""] * table.num_rows
    other = f", or say {option} {NO_COLUMN}"
    if name not in table.column_names:
        raise InputError(
            f"{path}: no column {name!r}; it has: {', '.join(table.column_names)}; name the column of the {what} with "
            f"{option}{other}"
        )
    return _labels(path, table, name, option, what, other)


def _clans_of_families(path: str, rows: _Rows) -> dict[str, str]:
    """The clan of every family, "" where it has none.

    Raises:
        InputError: a family has two.
    """
    clans: dict[str, str] = {}
    for row, (family, clan) in enumerate(zip(rows.family, rows.clan, strict=True), 1):
        if family and clan and clans.get(family, "") not in ("", clan):
            raise InputError(
                f"{path}, row {row}, {rows.ids[row - 1]}: family {family} has two clans, {clans[family]} and {clan}; "
                "give it one"
            )
        if family:
            clans[family] = clans.get(family) or clan
    return clans


def _distinct(path: str, rows: _Rows) -> dict[str, int]:
    """By md5 the first row of each distinct sequence that has a family."""
    found: dict[str, int] = {}
    for row, family in enumerate(rows.family):
        if family:
            found.setdefault(md5(_canonical(path, rows, row)), row)
    return found


def _canonical(path: str, rows: _Rows, row: int) -> bytes:
    sequence, reason = clean(rows.sequences[row])
    if reason is not None:
        raise InputError(f"{path}, row {row + 1}, {rows.ids[row] or 'no id'}: {reason}")
    return sequence


def _codes(labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """(n,) int64 codes of labels, NO_GROUP for ""; and the labels by code."""
    names = sorted(set(labels) - {""})
    code = {"": NO_GROUP, **{name: number for number, name in enumerate(names)}}
    return np.array([code[label] for label in labels], dtype=np.int64), names
