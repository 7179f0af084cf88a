"""Which column of an annotation file names records, and which sequences its values stand for.

Instead of records a file may name what another annotation table says, such as families.

RNAcentral names a sequence URS + 10 hex digits, and the same sequence in a species URS..._<taxid>. Where a key has no
record of exactly its name and one of the two sides carries the taxid, the other not, they are matched on the URS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from index.annotation_files import Staged
from index.errors import StoreError
from index.removals import placed_records
from index.store import Store

KEY_NAMES = ("seq_id", "id", "urs_taxid", "rnacentral_id", "urs", "upi", "record_id", "sequence_id", "name")
EXACT = "exact id"
STRIPPED = "URS without _taxid"
SEQ_ID = "seq_id"
_PLAIN = "regexp_full_match({0}, 'URS[0-9A-F]{{10}}')"
_WITH_TAXID = "regexp_full_match({0}, 'URS[0-9A-F]{{10}}_[0-9]+')"


@dataclass(frozen=True)
class Matched:
    """The key column (its place in the file) and the rule that applied; table `key_map` holds key, seq_id, id."""

    place: int
    rule: str


def load_records(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Make table `targets` (name, seq_id, id, place) of the records in the working database: their names are ids."""
    if store.parts("records"):
        records = f"SELECT id AS name, seq_id, id, place FROM ({placed_records(store)})"
        connection.execute(f"CREATE OR REPLACE TABLE targets AS {records}")
    else:
        connection.execute("CREATE OR REPLACE TABLE targets (name VARCHAR, seq_id BIGINT, id VARCHAR, place BIGINT)")


def load_column(connection: duckdb.DuckDBPyConnection, table: str, column: str) -> None:
    """Make table `targets` of the values of a column of an annotation table, as SQL names them."""
    connection.execute(
        f"CREATE OR REPLACE TABLE targets AS SELECT CAST({column} AS VARCHAR) AS name, seq_id, "
        f"arg_min(id, rowid) AS id, min(rowid) AS place FROM {table} WHERE {column} IS NOT NULL GROUP BY ALL"
    )


def match_keys(
    connection: duckdb.DuckDBPyConnection, staged: Staged, key: str | None, on: tuple[str, str] | None = None
) -> Matched:
    """Find the key column and fill table `key_map` from `targets`.

    Args:
        key: name of the key column; found by name, else by its values, if None.
        on: table and column whose values are the targets; else they are records.

    Raises:
        StoreError: no such column, or nothing in the file matches the store.
    """
    if on is None:
        _refuse_missing_header(connection, staged)
    names = KEY_NAMES if on is None else (on[1].lower(),)
    if key is None:
        place, rule = _find(connection, staged, names, on)
    else:
        place = _named(staged, key)
        rule = _fill(connection, staged, place, on)
    if rule is None:
        raise _no_match(connection, staged, place, on)
    return Matched(place, rule)


def key_value(place: int) -> str:
    """SQL for the key of a staged row."""
    return f"CAST(c{place} AS VARCHAR)"


def _named(staged: Staged, key: str) -> int:
    folded = [name.lower() for name in staged.columns]
    if key.lower() not in folded:
        raise StoreError(f"{staged.path}: no column {key!r}; it has: {', '.join(staged.columns)}")
    return folded.index(key.lower())


def _find(
    connection: duckdb.DuckDBPyConnection, staged: Staged, names: Sequence[str], on: tuple[str, str] | None
) -> tuple[int, str | None]:
    """The place of the key column, and what `_fill` said of it."""
    folded = [name.lower() for name in staged.columns]
    for name in names:
        if name in folded and (rule := _fill(connection, staged, folded.index(name), on)) is not None:
            return folded.index(name), rule
    counts = []
    for place in range(len(folded)):
        if folded[place] not in names and _fill(connection, staged, place, on) is not None:
            counts.append((_count(connection, "SELECT count(DISTINCT key) FROM key_map"), -place))
    if counts:
        place = -max(counts)[1]
        return place, _fill(connection, staged, place, on)
    named = [folded.index(name) for name in names if name in folded]
    return named[0] if named else 0, None


def _fill(connection: duckdb.DuckDBPyConnection, staged: Staged, place: int, on: tuple[str, str] | None) -> str | None:
    """Fill `key_map` from one column; returns the rule that applied, or None if nothing matched."""
    connection.execute(
        f"CREATE OR REPLACE TABLE keys AS SELECT DISTINCT {key_value(place)} AS key FROM {staged.table} "
        f"WHERE c{place} IS NOT NULL"
    )
    if on is None and staged.columns[place].lower() == SEQ_ID:
        # The second one since DuckDB rounds: 0.6 is no sequence 1.
        connection.execute(
            "CREATE OR REPLACE TABLE key_map AS SELECT key, seq_id, arg_min(id, place) AS id FROM keys "
            "JOIN targets ON TRY_CAST(key AS BIGINT) = seq_id AND TRY_CAST(key AS DOUBLE) = seq_id GROUP BY ALL"
        )
        return SEQ_ID if _count(connection, "SELECT count(*) FROM key_map") else None
    connection.execute(
        "CREATE OR REPLACE TABLE key_map AS SELECT key, seq_id, arg_min(id, place) AS id "
        "FROM keys JOIN targets ON name = key GROUP BY key, seq_id"
    )
    if on is not None:
        return f"{on[0]}.{on[1]}" if _count(connection, "SELECT count(*) FROM key_map") else None
    exact = _count(connection, "SELECT count(*) FROM key_map")
    for here, there in ((_PLAIN, _WITH_TAXID), (_WITH_TAXID, _PLAIN)):
        connection.execute(
            f"INSERT INTO key_map SELECT key, seq_id, arg_min(r.id, place) "
            f"FROM (SELECT key FROM keys ANTI JOIN key_map USING (key) WHERE {here.format('key')}) "
            f"JOIN (SELECT * FROM targets WHERE {there.format('id')}) r ON left(key, 13) = left(r.id, 13) "
            f"GROUP BY key, seq_id"
        )
    stripped = _count(connection, "SELECT count(*) FROM key_map") - exact
    rules = [EXACT] * bool(exact) + [STRIPPED] * bool(stripped)
    return ", else ".join(rules) or None


def _refuse_missing_header(connection: duckdb.DuckDBPyConnection, staged: Staged) -> None:
    if not staged.header:
        return
    found = connection.execute("SELECT id FROM targets WHERE id IN (SELECT unnest(?))", [staged.columns]).fetchone()
    if found is not None:
        raise StoreError(
            f"{staged.path}: line 1 should name the columns, but {found[0]!r} there is a record of the store; "
            "put a header line above it"
        )


def _no_match(
    connection: duckdb.DuckDBPyConnection, staged: Staged, place: int, on: tuple[str, str] | None
) -> StoreError:
    value = key_value(place)
    theirs = connection.execute(f"SELECT DISTINCT {value} FROM {staged.table} WHERE c{place} IS NOT NULL LIMIT 3")
    keys = ", ".join(str(row[0]) for row in theirs.fetchall()) or "nothing"
    ours = ", ".join(str(row[0]) for row in connection.execute("SELECT name FROM targets LIMIT 3").fetchall())
    what, who = ("an id of this store", "the store") if on is None else (f"in {on[0]}.{on[1]}", on[0])
    return StoreError(
        f"{staged.path}: no value of column {staged.columns[place]!r} is {what}: the file has {keys}; "
        f"{who} has {f'e.g. {ours}' if ours else 'no records'}. Name the id column with --key if it is another "
        f"({', '.join(staged.columns)})"
    )


def _count(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = connection.execute(sql).fetchone()
    return int(row[0]) if row else 0
