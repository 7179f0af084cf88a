"""A labelled sequence as it was read, and what was not taken."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from raypipe.answer_files import replacing
from raypipe.errors import InputError
from raypipe.text_forms import cell


class Row(NamedTuple):
    """One sequence of the input, and the values of the columns that were asked for, as they stand there.

    `line` is that of a text file where the record begins, from 1, or the number of the row in Parquet.
    """

    file: str
    line: int
    id: str
    sequence: str
    values: dict[str, Any]


class Refused(NamedTuple):
    """One row that is not used; `broken` where something has to be mended, else it was left out on purpose."""

    file: str
    line: int
    id: str | None
    reason: str
    broken: bool


@dataclass
class Rejects:
    """Everything that is not used.

    Attributes:
        rows: in the order in which they were found.
        unread: rows that `--where` did not choose.
        kinds: how many were left out, by a word on why.
    """

    rows: list[Refused] = field(default_factory=list)
    unread: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def broken(self, file: str, line: int, id_: str | None, reason: str) -> None:
        """A row that cannot be used as it is."""
        self.rows.append(Refused(file, line, id_, reason, True))

    def left_out(self, row: Row, kind: str, reason: str) -> None:
        """A row that is good but not wanted."""
        self.kinds[kind] += 1
        self.rows.append(Refused(row.file, row.line, row.id, reason, False))

    @property
    def num_broken(self) -> int:
        return sum(row.broken for row in self.rows)

    def check(self, total: int, share: float) -> None:
        """Refuse data of which too much is broken.

        Args:
            total: rows that were read.
            share: `--max-rejects`.

        Raises:
            InputError: with the first rows and their reasons.
        """
        bad = [row for row in self.rows if row.broken]
        if not bad or len(bad) <= share * total:
            return
        shown = "; ".join(f"{row.file}, line {row.line}, {row.id or 'no id'}: {row.reason}" for row in bad[:3])
        more = f"; and {len(bad) - 3:,} more" if len(bad) > 3 else ""
        raise InputError(
            f"{len(bad):,} of {total:,} rows cannot be used, more than --max-rejects {share:g} allows: {shown}{more}"
        )

    def write(self, path: Path) -> None:
        """As TSV: file, line, id, what became of it, reason."""
        with replacing(path) as file:
            file.write(b"file\tline\tid\twhat\treason\n")
            for row in self.rows:
                what = "rejected" if row.broken else "left out"
                text = "\t".join(map(cell, (row.file, row.line, row.id, what, row.reason)))
                file.write(f"{text}\n".encode())
