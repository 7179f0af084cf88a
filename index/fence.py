"""Which statements of strangers are answered: one SELECT that reads the store's tables and nothing else.

A statement is judged by its syntax tree: every table in it must be one of the store's, every table function one of a
few, and no function may tell of the machine, keep state, or read memory that it is pointed to. DuckDB's own locks stand
behind this (`index.sql`), and limits on time and memory (`index.fenced`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

import duckdb

from index import duck
from index.errors import QuestionError

ALLOWED = "one SELECT (or WITH, VALUES, FROM, DESCRIBE) over the tables of the atlas"
# Besides search and neighbors. Readers of files, of settings and of memory are not among them, nor is any to come.
TABLE_FUNCTIONS = frozenset(
    ["search", "neighbors", "unnest", "range", "generate_series", "generate_subscripts", "json_each", "json_tree"]
)
# Functions that tell of the server, of its process and of other sessions; that write or wait; that call SQL by text;
# and that take values for the states of aggregates, which they trust.
_REFUSED = re.compile(
    r"(?!pg_typeof$|pg_size_pretty$)pg_.*|current_(?!date$|time|localtime).*|has_.*privilege|inet_.*|"
    r"icu_(?!collate).*|duckdb_.*|raypipe_.*|__internal.*|json_(serialize|deserialize|execute).*|"
    r"(col|obj|shobj)_description|in_search_path|getenv|getvariable|get_block_size|parse_duckdb_log_message|"
    r"session_user|user|version|txid_current|stats|vector_type|write_log|sleep_ms|setseed|nextval|currval|setval|"
    r"query|query_table|combine|combine_aggr|finalize|to_aggregate_state|variant_bytes_to_variant|index_key|"
    r"hive_partition_component"
)
_NODES = frozenset(["SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"])
_SHOWN = frozenset(('"tables"',))
_NAME = re.compile(r"\w+")


def check(connection: duckdb.DuckDBPyConnection, sql: str, tables: Collection[str]) -> None:
    """Look whether `sql` may be run.

    Args:
        connection: which parses it.
        tables: that it may read.

    Raises:
        QuestionError: it may not; the message says why.
    """
    tree = _parse(connection, sql)
    try:
        nodes = list(_nodes(tree["statements"]))
    except RecursionError:
        raise QuestionError("the statement is nested too deep") from None
    known = {name.lower() for name in tables}
    ours = {name.lower() for name in _defined(nodes)}
    for node in nodes:
        kind = node.get("type")
        if kind == "BASE_TABLE":
            _check_table(node, known, ours, tables)
        elif kind == "SHOW_REF":
            _check_shown(node, known | ours)
        elif kind == "TABLE_FUNCTION":
            _check_table_function(node["function"])
        elif isinstance(kind, str) and kind.endswith("_NODE") and kind not in _NODES:
            raise QuestionError(f"{kind.removesuffix('_NODE')} is refused: give {ALLOWED}")
        if "function_name" in node:
            _check_function(node)


def check_condition(connection: duckdb.DuckDBPyConnection, where: str, tables: Collection[str]) -> None:
    """As `check`, of the condition of a filter; whether it is one is for others to see."""
    check(connection, f"SELECT (\n{where}\n)", tables)


def _parse(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    ((text,),) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
    try:
        tree = json.loads(text)
    except RecursionError:
        raise QuestionError("the statement is nested too deep") from None
    if tree["error"]:
        if tree["error_type"] == "not implemented":
            pivot = "PIVOT needs its values: ON column IN (...); " if re.match(r"\s*PIVOT", sql, re.IGNORECASE) else ""
            raise QuestionError(f"{pivot}give {ALLOWED}")
        raise QuestionError(f"{tree['error_type']}: {tree['error_message']}")
    if len(tree["statements"]) != 1:
        raise QuestionError(f"{len(tree['statements'])} SQL statements: give {ALLOWED}")
    return tree


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a tree."""
    waiting = [tree]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield found
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)


def _defined(nodes: list[dict[str, Any]]) -> Iterator[str]:
    """Names that WITH gives, anywhere in the statement.

    They count outside of their WITH as well, where something else may answer to them: so they are of letters only, as
    no file that DuckDB would read, and none is that of a view of DuckDB's own.
    """
    for node in nodes:
        for entry in (node.get("cte_map") or {}).get("map", []):
            name = entry["key"]
            if not _NAME.fullmatch(name):
                raise QuestionError(f"WITH {name!r}: take letters, digits and _ for its name")
            if name.lower() in _built_in():
                raise QuestionError(f"WITH {name!r}: DuckDB has a view of that name; take another")
            yield name


@cache
def _built_in() -> frozenset[str]:
    """The views that DuckDB has by itself and finds without a schema, in small letters."""
    with duck.new_connection() as connection:
        rows = connection.execute(
            "SELECT view_name FROM duckdb_views() WHERE internal AND schema_name <> 'information_schema'"
        ).fetchall()
    return frozenset(name.lower() for (name,) in rows)


def _check_table(node: dict[str, Any], known: set[str], ours: set[str], tables: Collection[str]) -> None:
    path = [part.lower() for part in node["qualified_name"]["path"]]
    ours_itself = len(path) == 1 and path[0] in ours
    if not ours_itself and (path[-1] not in known or path[:-1] not in ([], ["main"], ["memory", "main"])):
        named = ".".join(node["qualified_name"]["path"])
        raise QuestionError(f"no table {named!r}; there are: {', '.join(tables)}")


def _check_shown(node: dict[str, Any], known: set[str]) -> None:
    name = node["table_name"]
    if node.get("query") is None and name not in _SHOWN and name.strip('"').lower() not in known:
        raise QuestionError(f"SHOW or DESCRIBE of {name} is refused: give {ALLOWED}")


def _check_table_function(function: dict[str, Any]) -> None:
    if function.get("function_name", "").lower() not in TABLE_FUNCTIONS:
        raise QuestionError(
            f"the table function {function.get('function_name', '')!r} is refused; there are: "
            f"{', '.join(sorted(TABLE_FUNCTIONS))}"
        )


def _check_function(node: dict[str, Any]) -> None:
    name = node["function_name"]
    if _REFUSED.fullmatch(name.lower()) or node.get("export_state"):
        raise QuestionError(f"the function {name!r} is refused here")
    if node.get("schema") or node.get("catalog") or len(node.get("qualified_name", {}).get("path", [name])) > 1:
        raise QuestionError(f"the function {name!r}: name it without a schema")
