"""Rfam's seed alignments (Rfam.seed, Stockholm) as a table of families: what each says of itself, not its sequences."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa

from index.errors import StoreError

_MARK = "# STOCKHOLM 1."
# Tag of Stockholm -> column.
_TAGS = {"AC": "rfam_acc", "ID": "rfam_id", "DE": "description", "TP": "type", "CL": "clan", "SQ": "num_seed"}


def is_seed(first: str) -> bool:
    """Whether a file is of Stockholm, by its first line."""
    return first.startswith(_MARK)


def read_seed(connection: duckdb.DuckDBPyConnection, path: Path, stream: BinaryIO, table: str) -> list[str]:
    """Make `table` with a row of each alignment; returns the names of its columns.

    Raises:
        StoreError: an alignment has no accession or no end, or there is none.
    """
    rows: list[dict[str, str]] = []
    family: dict[str, str] = {}
    for number, raw in enumerate(stream, 1):
        if raw.startswith(b"#=GF "):
            _, tag, value = (*raw.decode("utf-8", errors="replace").split(None, 2), "", "")[:3]
            if tag in _TAGS and value.strip():
                family.setdefault(_TAGS[tag], value.strip())
        elif raw.startswith(b"//"):
            if "rfam_acc" not in family:
                raise StoreError(f"{path}: line {number}: an alignment ends that has no accession (#=GF AC)")
            rows.append(family)
            family = {}
    if family or not rows:
        what = "ends within an alignment; get it again, it is cut short" if rows else "holds no alignment that ends"
        raise StoreError(f"{path}: {what} (//)")
    columns = list(_TAGS.values())
    texts = pa.table({f"c{place}": [row.get(name) for row in rows] for place, name in enumerate(columns)})
    connection.register("seed_rows", texts.cast(pa.schema([(name, pa.string()) for name in texts.column_names])))
    connection.execute(f"CREATE TABLE {table} AS SELECT * FROM seed_rows")
    connection.unregister("seed_rows")
    return columns
