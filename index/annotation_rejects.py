"""Rows of an annotation file that cannot be read: counted, and kept aside with their line and the reason."""

from __future__ import annotations

from pathlib import Path

import duckdb

from index import duck
from index.annotation_shapes import Shape
from index.errors import StoreError

HOW_TO_RECODE = "if it is Latin-1, convert it: iconv -f latin1 -t utf8 {path}"
SHOWN = 1000  # characters of a row that are kept
_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons"}
_FASTA = "##FASTA"


def keep_aside(connection: duckdb.DuckDBPyConnection, path: Path, table: str, shape: Shape) -> int:
    """Put what DuckDB could not read of `path` into the table `rejected`, with line, reason and text.

    Lines are counted as DuckDB does it: a line break within quotation marks is none.

    Args:
        table: with the rows that could be read.

    Returns:
        How many rows they are.

    Raises:
        StoreError: they are half of the rows, or more; the first is named.
    """
    columns = len(shape.columns)
    # What DuckDB says stops at the first column too many; but a quoted field may have the delimiter in it.
    counted, said = "len(text) - len(replace(text, chr(9), '')) + 1", r"regexp_extract(message, 'Found: (\d+)', 1)"
    found = counted if shape.delimiter == "\t" else said
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE bad AS SELECT line, any_value(csv_line) AS text, "
        "list(error_type::VARCHAR) AS kinds, arg_min(error_message, column_idx) AS message "
        "FROM reject_errors GROUP BY line"
    )
    connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
    if shape.comments:
        connection.execute(
            "DELETE FROM bad WHERE line >= (SELECT min(line) FROM bad WHERE starts_with(text, ?)) "
            "OR text[1] = '#' OR regexp_matches(text, '^(track|browser)\\s')",
            [_FASTA],
        )
    connection.execute(
        f"""INSERT INTO rejected SELECT line, CASE
                WHEN list_contains(kinds, 'INVALID ENCODING') THEN 'not UTF-8'
                WHEN list_contains(kinds, 'UNQUOTED VALUE') THEN 'a quotation mark is out of place or never closed'
                WHEN list_contains(kinds, 'LINE SIZE OVER MAXIMUM') THEN 'the line is too long'
                WHEN list_has_any(kinds, ['TOO MANY COLUMNS', 'MISSING COLUMNS'])
                    THEN ({found})::VARCHAR || ' columns instead of {columns}'
                ELSE message END, text[:{SHOWN}] FROM bad ORDER BY line"""
    )
    # A quotation mark that is never closed takes all lines behind it.
    (rejected,) = connection.execute(
        "SELECT coalesce(sum(greatest(1, len(text) - len(replace(text, chr(10), '')))), 0)::BIGINT FROM bad"
    ).fetchall()[0]
    connection.execute("DROP TABLE bad")
    if rejected:
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0]
        if rejected >= rows:
            raise _mostly_bad(connection, path, shape, rejected, rows + rejected)
    return int(rejected)


def _mostly_bad(
    connection: duckdb.DuckDBPyConnection, path: Path, shape: Shape, rejected: int, rows: int
) -> StoreError:
    [(line, reason)] = connection.execute("SELECT line, reason FROM rejected ORDER BY line LIMIT 1").fetchall()
    if reason == "not UTF-8":
        text = f"is not UTF-8; {HOW_TO_RECODE.format(path=path)}"
    elif "columns instead" in reason:
        text = f"has {reason}; check its {_SEPARATORS[shape.delimiter]}"
    else:
        text = f"cannot be read: {reason}"
    others = f" ({rejected:,} of {rows:,} rows cannot be read)" if rows > 1 else ""
    return StoreError(f"{path}: line {line} {text}{others}")


def first_of(connection: duckdb.DuckDBPyConnection, count: int = 3) -> list[str]:
    """The first rejected rows, in words."""
    rows = connection.execute(f"SELECT line, reason FROM rejected ORDER BY line LIMIT {count}").fetchall()
    return [f"line {line}: {reason}" for line, reason in rows]


def write_rejects(connection: duckdb.DuckDBPyConnection, target: str, name: str, path: Path) -> None:
    """Add the rows of `rejected` to `target`, as SQL names it, for the annotation table `name`."""
    connection.execute(
        f"INSERT INTO {target} SELECT {duck.literal(name)}, {duck.literal(path)}, line, reason, text FROM rejected "
        "ORDER BY line"
    )
