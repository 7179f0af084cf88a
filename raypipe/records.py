"""One record of an input file, as `raypipe/sources.py` and `raypipe/tables.py` read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Record(NamedTuple):
    """One record as given: `line` is 1-based (of the header; of the row for Parquet)."""

    line: int
    id: str
    description: str
    sequence: str


class BadRow(NamedTuple):
    """A row that is no record; it goes to the rejects."""

    line: int
    id: str | None
    reason: str


@dataclass(frozen=True)
class TableColumns:
    """Columns to read from a table; None: found by their usual names."""

    id: str | None = None
    sequence: str | None = None
