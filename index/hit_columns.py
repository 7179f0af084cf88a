"""What the columns of a hit are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from index.annotation_rows import AnnotationRows
from index.annotation_tables import AnnotationTable
from index.errors import QuestionError
from index.predictions import hit_columns as predicted_columns
from index.store import Store

BASE = ("query", "rank", "id", "score", "length", "description")
ON_REQUEST = ("seq_id", "n_records")


@dataclass(frozen=True)
class HitColumns:
    """Of one state of a store; by name in a hit.

    Attributes:
        annotation: table and column.
        predicted: set of predictions and column.
        all: every name in order; predictions, and the last two, seq_id and n_records, are shown on request only.
    """

    annotation: dict[str, tuple[str, str]]
    predicted: dict[str, tuple[str, str]]
    all: list[str]

    def choose(self, columns: Sequence[str] | None) -> list[str]:
        """As `choose` of all; all but those on request if None."""
        return [*BASE, *self.annotation] if columns is None else choose(self.all, columns)


def choose(known: Sequence[str], columns: Sequence[str]) -> list[str]:
    """`columns` as they are spelled in `known`; their case does not matter.

    Raises:
        QuestionError: an unknown column (the message lists all), or one that is asked for twice.
    """
    # As in SQL the case does not matter; an exact name is preferred.
    spelled = {**{name.lower(): name for name in reversed(known)}, **{name: name for name in known}}
    wanted = [spelled.get(name) or spelled.get(name.lower()) for name in columns]
    found = [name for name in wanted if name is not None]
    if len(found) < len(columns):
        raise QuestionError(f"no column {columns[wanted.index(None)]!r}; there are: {', '.join(known)}")
    if len(set(found)) < len(found):
        raise QuestionError(f"a column is asked for twice: {', '.join(columns)}")
    return found


def hit_columns(store: Store, rows: AnnotationRows | None) -> HitColumns:
    """The columns that hits can have, by the annotations `rows`, where there are some, and the predictions."""
    known = store.kept(_nothing_yet)
    version = None if rows is None else rows.stamp
    found = known.get(version)
    if found is None:
        annotation = _annotation_columns(rows.tables if rows is not None else ())
        predicted = predicted_columns(store, [*BASE, *annotation, *ON_REQUEST])
        found = HitColumns(annotation, predicted, [*BASE, *annotation, *predicted, *ON_REQUEST])
        known.clear()
        known[version] = found
    return found


def _nothing_yet(_: Store) -> dict[tuple[int, int] | None, HitColumns]:
    return {}


def _annotation_columns(tables: Sequence[AnnotationTable]) -> dict[str, tuple[str, str]]:
    """Name in a hit -> table and column; a name that occurs twice is prefixed by its table."""
    plain = [
        (table.name, column)
        for table in tables
        for column in table.columns
        if column not in ("seq_id", "id", table.key_column)
    ]
    counts: dict[str, int] = dict.fromkeys((*BASE, *ON_REQUEST), 1)
    for _, column in plain:
        counts[column.lower()] = counts.get(column.lower(), 0) + 1
    named: dict[str, tuple[str, str]] = {}
    for table, column in plain:
        name = column if counts[column.lower()] == 1 else f"{table}_{column}"
        while name in named or (name != column and name.lower() in counts):
            name += "_"
        named[name] = (table, column)
    return named
