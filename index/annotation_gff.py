"""The attributes of GFF3 (ID=x;Name=y;...) as columns."""

from __future__ import annotations

import duckdb

from index import duck
from index.annotation_shapes import GFF

MOST_ATTRIBUTES = 100


def spread_attributes(connection: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    """Replace the last column of `table`, which holds GFF3 as `annotation_shapes.GFF` has it, by one of each attribute.

    They are called as the file calls them, but for those of the other columns' names; the most frequent come first. If
    there are more than MOST_ATTRIBUTES, the rest stay together in a last column, attributes.

    Returns:
        The names of all columns.
    """
    last = f"c{len(GFF) - 1}"
    parts = f"list_transform(string_split({last}, ';'), lambda x: ltrim(x))"
    found = connection.execute(
        f"SELECT key FROM (SELECT trim(split_part(unnest({parts}), '=', 1)) AS key FROM {table} "
        f"WHERE contains({last}, '=')) WHERE key <> '' GROUP BY key ORDER BY count(*) DESC, key"
    ).fetchall()
    keys = [str(key) for (key,) in found]
    spread = keys[:MOST_ATTRIBUTES]
    kept = len(keys) > len(spread) or not keys
    columns, taken = GFF[:-1], {name.lower() for name in GFF}
    chosen = [f"c{place}" for place in range(len(columns))]
    for key in spread:
        name = key
        while name.lower() in taken:
            name = f"attribute_{name}"
        taken.add(name.lower())
        value = f"list_filter(parts, lambda x: starts_with(x, {duck.literal(key + '=')}))[1][{len(key) + 2}:]"
        chosen.append(f"nullif(url_decode({value}), '') AS c{len(chosen)}")
        columns = [*columns, name]
    if kept:
        chosen.append(f"{last} AS c{len(chosen)}")
        columns = [*columns, GFF[-1]]
    connection.execute(
        f"CREATE TABLE spread AS SELECT {', '.join(chosen)} FROM (SELECT *, {parts} AS parts FROM {table})"
    )
    connection.execute(f"DROP TABLE {table}; ALTER TABLE spread RENAME TO {table}")
    return columns
