"""What an evaluation found, as a table for people, TSV or JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

from raypipe.answer_files import opened

ReportFormat = Literal["text", "tsv", "json"]


class Column(NamedTuple):
    """A column of the table for people.

    Attributes:
        key: of the rows.
        title: its head.
        form: how a number is written, as `format` takes it; "" for names, which stand at the left.
    """

    key: str
    title: str
    form: str = ""


class Table(NamedTuple):
    """Rows as people are shown them."""

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        about: the input, the protocol and what was counted, for JSON.
        lines: the same in words, above the table.
        columns: of the table for people.
        rows: results, one of a method each; TSV and JSON hold all keys.
        notes: what to know besides, below the table.
        tables: what people are shown in place of `columns` of all `rows`.
    """

    about: Mapping[str, Any]
    lines: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = field(default=())
    tables: Sequence[Table] = field(default=())


def write_report(report: Report, form: ReportFormat, output: Path | None, settings: Mapping[str, Any]) -> None:
    """Write a report to standard output, or to a file with the settings beside it.

    Args:
        report: what was found.
        form: text, tsv or json. JSON holds the settings itself; beside the others they stand in FILE.settings.json.
        output: None is standard output.
        settings: as resolved.

    Raises:
        RaypipeError: the file cannot be written.
    """
    with opened(output) as stream:
        if form == "json":
            found = {**report.about, "rows": report.rows, "notes": report.notes, "settings": settings}
            json.dump(_plain(found), stream, indent=2)
            stream.write("\n")
        elif form == "tsv":
            _write_tsv(report, stream)
        else:
            _write_text(report, stream)
    if output is not None and form != "json":
        with opened(settings_file(output)) as stream:
            json.dump(_plain(dict(settings)), stream, indent=2)
            stream.write("\n")


def settings_file(output: Path) -> Path:
    """Where the settings of a report stand."""
    return output.with_name(f"{output.name}.settings.json")


def _write_tsv(report: Report, stream: TextIO) -> None:
    keys = list(dict.fromkeys(key for row in report.rows for key in row))
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerow(keys)
    for row in report.rows:
        values = [_plain(row.get(key)) for key in keys]
        writer.writerow(["" if value is None else value for value in values])


def _write_text(report: Report, stream: TextIO) -> None:
    tables = report.tables or [Table(report.columns, report.rows)]
    blocks = [report.lines, *map(_lines_of, tables), report.notes]
    stream.write("\n\n".join("\n".join(block) for block in blocks if block) + "\n")


def _lines_of(table: Table) -> list[str]:
    cells = [[_cell(row.get(column.key), column.form) for column in table.columns] for row in table.rows]
    titles = [column.title for column in table.columns]
    names = [not column.form for column in table.columns]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    lines = []
    for row in [titles, *cells]:
        padded = [
            text.ljust(width) if name else text.rjust(width)
            for text, width, name in zip(row, widths, names, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def _cell(value: Any, form: str) -> str:
    value = _plain(value)
    return "-" if value is None else format(value, form if not isinstance(value, str) else "")


def _plain(value: Any) -> Any:
    """For JSON, which knows no NaN; a path is text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) or math.isinf(value) else value
    return str(value) if isinstance(value, Path) else value
