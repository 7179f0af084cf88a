"""Which sequences match a condition in SQL over records, annotations and predictions.

The condition is parsed, every column in it is resolved to its table, and only the tables it names are joined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import duckdb
import numpy as np

from index import damage, duck
from index.annotation_tables import list_tables
from index.errors import QuestionError, StoreError
from index.predictions import make_views, schema_of
from index.schema import RECORDS, SEQUENCES
from index.sql import connect
from index.store import Store
from index.views import owners_in

PLAIN = re.compile(r"[A-Za-z_]\w*", re.ASCII)  # a name that SQL takes as it stands
# What a name means in a hit it means in a condition, also where an annotation table has a column of that name.
AS_IN_A_HIT = {"seq_id": "sequences", "length": "sequences", "id": "records", "description": "records"}


def matching_sequences(
    store: Store, where: str, *, memory_limit: str | None = None, threads: int | None = None
) -> np.ndarray:
    """The sequences for which `where` holds: sorted seq_ids, int64 (n,).

    Columns are those of `sequences`, `records` and every annotation table; a name that several tables have is written
    table.column, except `id`, `seq_id`, `length` and `description`, which alone mean what they mean in a hit. A column
    by which a table was joined to another one is that other one's.
    Columns of predictions are written set.column or, as in a hit, set_column. Without their set they are found only
    where no table has the name, so that a name alone keeps its meaning when predictions come.
    A sequence matches if any of its rows matches (any combination of rows, where the condition names several tables);
    in a sequence without rows in a table that table's columns are NULL.

    Args:
        memory_limit, threads: of DuckDB; see `index.sql.connect`.

    Raises:
        StoreError: not one SQL condition, an unknown or ambiguous column, or a value that does not fit its column.
    """
    annotated = list_tables(store)
    own = {"sequences": SEQUENCES.names, "records": RECORDS.names}
    tables = {**own, **{table.name: table.columns for table in annotated}}  # columns by table, without predictions
    keys = {(table.name, table.key_column) for table in annotated if table.meta.get("on")}
    used: set[str] = set()
    predicted = {name: schema_of(made).names for name, made in store.predictions.items()}
    with connect(store, statement=where, memory_limit=memory_limit, threads=threads) as connection:
        try:
            try:
                tree = _parse(connection, where)
                _resolve(tree["statements"][0]["node"]["select_list"][0], tables, predicted, keys, used)
            except QuestionError as error:
                raise QuestionError(f"{error}{_to_quote((*tables, *predicted), where)}") from error
            condition = _render(connection, tree)
            # Those that the text itself names are open already, in sub-queries too.
            make_views(connection, store, sorted((used & predicted.keys()) - {*duck.occurring(predicted, where)}))
            joined = "".join(
                f" LEFT JOIN {duck.identifier(table)} ON {duck.identifier(table)}.seq_id = sequences.seq_id"
                for table in (*tables, *predicted)
                if table in used and table != "sequences"
            )
            matching = f"SELECT DISTINCT sequences.seq_id FROM sequences{joined} WHERE {condition} ORDER BY 1"
            found = duck.run(connection, lambda: connection.execute(matching).fetchnumpy()["seq_id"])
        except duckdb.Error as error:
            if damage.is_damage(error):
                named = f"{where} sequences {' '.join(used)}"
                raise StoreError(damage.complaint(store, owners_in(store, named), error)) from error
            raise QuestionError(f"where {where!r}: {duck.first_lines(error)}") from error
    return np.asarray(found, dtype=np.int64)


def _to_quote(names: Iterable[str], where: str) -> str:
    """A hint, where `where` has a name bare that SQL takes for several words; else nothing."""
    text = where.lower()
    bare = [n for n in names if not PLAIN.fullmatch(n) and n.lower() in text and f'"{n.lower()}' not in text]
    # The longest is what was meant, where one name begins as another does.
    return f". Double quotes are needed around such a name: {duck.identifier(max(bare, key=len))}" if bare else ""


def _parse(connection: duckdb.DuckDBPyConnection, where: str) -> dict[str, Any]:
    """DuckDB's syntax tree of `SELECT (where)`."""
    if not where.strip():
        raise QuestionError("where is empty: give a condition, such as: taxid = 9606 AND sequences.length < 200")
    # The line break keeps a trailing comment from swallowing the bracket.
    row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT ({where}\n)"]).fetchone()
    tree = json.loads(row[0]) if row else {"error": True, "error_message": "no answer"}
    if tree["error"]:
        raise QuestionError(f"where {where!r}: not an SQL condition: {tree['error_message'].splitlines()[0]}")
    node = tree["statements"][0]["node"]
    alone = (
        len(tree["statements"]) == 1
        and node["type"] == "SELECT_NODE"
        and len(node["select_list"]) == 1
        and node["from_table"]["type"] == "EMPTY"
        and not any(node.get(name) for name in ("where_clause", "group_expressions", "having", "qualify", "modifiers"))
    )
    if not alone:
        raise QuestionError(f"where {where!r}: give one condition only, such as: taxid = 9606 AND rna_type = 'tRNA'")
    return tree


def _render(connection: duckdb.DuckDBPyConnection, tree: dict[str, Any]) -> str:
    row = connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchone()
    return f"({str(row[0]).removeprefix('SELECT ') if row else ''}\n)"


def _resolve(
    node: Any,
    tables: Mapping[str, list[str]],
    predicted: Mapping[str, list[str]],
    keys: Set[tuple[str, str | None]],
    used: set[str],
) -> None:
    """Write the table before every column of `node`, in place, and note the tables in `used`."""
    for reference in _references(node, frozenset()):
        table, rest = _owner(reference["column_names"], tables, predicted, keys)
        used.add(table)
        reference["column_names"] = [table, *rest]


def _references(node: Any, bound: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Column references below `node`; not those inside sub-queries, and not the parameters of lambdas."""
    if isinstance(node, list):
        for item in node:
            yield from _references(item, bound)
    elif isinstance(node, dict):
        kind = node.get("class")
        if kind == "SUBQUERY":
            yield from _references(node.get("child"), bound)
            return
        if kind == "LAMBDA":
            bound |= {name for item in _references(node["lhs"], frozenset()) for name in item["column_names"][:1]}
            yield from _references(node["expr"], bound)
            return
        if kind == "COLUMN_REF":
            if node["column_names"][0] not in bound:
                yield node
            return
        for value in node.values():
            yield from _references(value, bound)


def _owner(
    names: list[str],
    tables: Mapping[str, list[str]],
    predicted: Mapping[str, list[str]],
    keys: Set[tuple[str, str | None]],
) -> tuple[str, list[str]]:
    """The table of a reference, and the rest of it: the column, then fields of a struct."""
    everything = {**tables, **predicted}
    folded = {table.lower(): table for table in everything}
    first = names[0].lower()
    if len(names) > 1 and first in folded:
        table = folded[first]
        if names[1].lower() not in (column.lower() for column in everything[table]):
            raise QuestionError(f"no column {names[1]!r} in {table}; it has: {', '.join(everything[table])}")
        return table, names[1:]
    if first in AS_IN_A_HIT:
        return AS_IN_A_HIT[first], names
    # A plain name; else the name that a hit gives to a column of several tables, or to a predicted one.
    found = (
        _columns_called(first, tables)
        or _columns_called(first, everything, prefixed=True)
        or _columns_called(first, predicted)
    )
    if not found:
        known = "; ".join(f"{table}: {', '.join(columns)}" for table, columns in everything.items())
        raise QuestionError(f"no column {names[0]!r}; there are: {known}. Text values stand in single quotes")
    if len(found) > 1:
        found = [owner for owner in found if owner not in keys] or found
    if len(found) > 1:
        candidates = " or ".join(f"{table}.{column}" for table, column in found)
        raise QuestionError(f"column {names[0]!r} is ambiguous: write {candidates}")
    table, column = found[0]
    return table, [column, *names[1:]]


def _columns_called(name: str, tables: Mapping[str, list[str]], *, prefixed: bool = False) -> list[tuple[str, str]]:
    """Table and column of all that are called `name`, in small letters, with or without their table before it."""
    return [
        (table, column)
        for table, columns in tables.items()
        for column in columns
        if name == (f"{table}_{column}" if prefixed else column).lower()
    ]
