"""What the annotations of a store say of its sequences: a text for some of them, as numbers.

Legend: S sequences, P pairs of a sequence and one of its texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from index import duck
from index.annotation_tables import AnnotationTable, list_tables
from index.sql import query
from index.store import Store
from raypipe.errors import UsageError
from raypipe.splits import family_group

UNKNOWN = -1


@dataclass(frozen=True)
class Labels:
    """A text for some of the sequences.

    Attributes:
        names: the distinct texts.
        codes: (S,) int32, the place of each sequence's text in `names`, UNKNOWN where it has none.
        rows, all_codes: (P,) every pair of a sequence and one of its texts; some have several.
        table: that they stand in; None where nothing was asked for.
        column: of the table.
    """

    names: tuple[str, ...]
    codes: np.ndarray
    rows: np.ndarray
    all_codes: np.ndarray
    table: AnnotationTable | None = None
    column: str = ""

    def look_up(self, values: Sequence[Any], otherwise: Any) -> np.ndarray:
        """(S,) of the values of each sequence's text, given in the order of `names`."""
        return np.array([*values, otherwise])[self.codes]


def read_labels(store: Store, column: str | None, setting: str, count: int) -> Labels:
    """An annotation column of all sequences; of several values of one the first by alphabet.

    Args:
        store: with annotations.
        column: its name, as table.column where several tables have it; None gives no texts.
        setting: what names the column, for messages.
        count: S.

    Raises:
        UsageError: no such column, or it says nothing.
    """
    codes = np.full(count, UNKNOWN, dtype=np.int32)
    if column is None:
        return Labels((), codes, codes[:0], codes[:0])
    table, _, name = column.rpartition(".")
    tables = list_tables(store)
    owners = [found for found in tables if name in found.columns and table in ("", found.name)]
    if len(owners) != 1:
        known = ", ".join(f"{found.name}.{c}" for found in tables for c in found.columns if c not in ("seq_id", "id"))
        why = "is in several tables, write table.column" if owners else "is no annotation column"
        raise UsageError(f"{setting}: {column!r} {why}; there are: {known or 'none; give --annotations NAME=FILE'}")
    value = f"CAST({duck.identifier(name)} AS VARCHAR)"
    found = query(
        store,
        f"SELECT DISTINCT seq_id, {value} AS value FROM {duck.identifier(owners[0].name)} WHERE {value} <> ''",
    )
    if not len(found):
        raise UsageError(f"{setting}: {column!r} has no value for any sequence")
    texts = found["value"].combine_chunks().dictionary_encode()
    names = np.array(texts.dictionary.to_pylist())
    order = np.argsort(names)
    place = np.empty(len(names), dtype=np.int32)
    place[order] = np.arange(len(names))
    rows, all_codes = found["seq_id"].to_numpy().astype(np.int64), place[texts.indices.to_numpy()]
    # Written from the last by alphabet to the first, which stays.
    backwards = np.lexsort((rows, -all_codes))
    codes[rows[backwards]] = all_codes[backwards]
    return Labels(tuple(names[order].tolist()), codes, rows, all_codes, owners[0], name)


def group_names(store: Store, families: Labels, clans: Labels) -> list[str]:
    """What keeps related families together, for each of them: its clan, else the family.

    Where both stand in one table a clan is that of the families of its rows, or a sequence of several families would
    lend each of them the clans of the others; else it is that of the sequence's families. Of several the commonest.
    """
    clan_of: dict[str, str] = {}
    if families.table is not None and clans.table is not None:
        one, other = duck.identifier(families.table.name), duck.identifier(clans.table.name)
        family = f"CAST(a.{duck.identifier(families.column)} AS VARCHAR)"
        clan = f"CAST({'a' if one == other else 'b'}.{duck.identifier(clans.column)} AS VARCHAR)"
        joined = "" if one == other else f"JOIN {other} b USING (seq_id)"
        found = query(
            store,
            f"SELECT {family} AS family, {clan} AS clan FROM {one} a {joined} WHERE {family} <> '' AND {clan} <> '' "
            f"GROUP BY 1, 2 ORDER BY count(*), 2 DESC",
        )
        # Later ones stay: the commonest, and of equally common ones the first by alphabet.
        clan_of = dict(zip(found["family"].to_pylist(), found["clan"].to_pylist(), strict=True))
    return [family_group(name, clan_of.get(name)) for name in families.names]


def coded(names: Sequence[str], codes: np.ndarray) -> np.ndarray:
    """(S,) int32 codes of the names of what has `codes`; UNKNOWN stays."""
    number = {name: code for code, name in enumerate(sorted(set(names)))}
    return np.array([*(number[name] for name in names), UNKNOWN], dtype=np.int32)[codes]
