"""Hits and annotations of an atlas as tables: rows come in batches and are written as they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from index import duck, sql
from index.annotation_tables import AnnotationTable, list_tables
from index.errors import QuestionError
from index.graph import open_graph
from index.hit_columns import choose
from index.hits import check_columns, hit_table
from index.store import Store
from raypipe.answer_files import replacing
from raypipe.errors import UsageError
from raypipe.exporting.described import Described, wanted_sequences
from raypipe.formats import write_batches

FORMATS = ("csv", "tsv", "jsonl", "parquet")
ROWS = 16_384
OF_ROWS = ("seq_id", "id")


def write_rows(output: Path, format: str, batches: Iterator[pa.Table], header: bool = True) -> int:
    """Write tables of one schema, of which there is at least one, below each other; returns the number of rows."""
    rows = 0

    def counted() -> Iterator[pa.Table]:
        nonlocal rows
        for table in batches:
            rows += table.num_rows
            yield table

    with replacing(output) as file:
        write_batches(counted(), file, format, header)
    return rows


def graph_hits(
    store: Store, k: int | None, min_score: float | None, where: str | None, columns: Sequence[str] | None
) -> Iterator[pa.Table]:
    """The neighbours of every sequence, as hits of it: from the graph that `raypipe neighbors` made.

    Args:
        k: the first so many of each sequence; all if None.
        where: of the hits, whose ranks stay what they are.

    Raises:
        StoreError: no such graph, or it is stale or damaged; no such column or condition.
        UsageError: more neighbours than the graph has.
    """
    chosen = check_columns(store, columns)
    graph = open_graph(store)
    if k is not None and k > graph.info.k:
        raise UsageError(f"-k {k}: the graph holds {graph.info.words}; make a larger one: raypipe neighbors -k {k}")
    wanted = wanted_sequences(store, where)
    with Described.opened(store) as described:
        show = partial(hit_table, store, described, columns=chosen)
        yield show([], np.empty((0, 1), np.int64), np.empty((0, 1), np.float32))
        for edges in graph.edges():
            kept = wanted[edges[1]]
            kept &= edges[3] <= (graph.info.k if k is None else k)
            if min_score is not None:
                kept &= edges[2] >= min_score
            lines = np.flatnonzero(kept)
            for start in range(0, len(lines), ROWS):
                queries, hits, scores, ranks = (values[lines[start : start + ROWS]] for values in edges)
                names = described.table(queries, ["id"])["id"].to_pylist()
                table = show(names, hits[:, None], scores[:, None].astype(np.float32))
                if "rank" in chosen:
                    place = chosen.index("rank")
                    table = table.set_column(place, table.field(place), pa.array(ranks, pa.int32()))
                yield table


def annotation_rows(
    store: Store, names: Sequence[str] | None, where: str | None, columns: Sequence[str] | None
) -> Iterator[pa.Table]:
    """The rows of annotation tables: id, seq_id, length of the sequence, then the columns of the tables.

    Args:
        names: of the tables; those behind the first are joined to its rows by seq_id, every row with every row. If
            None the only one.
        where: condition on the rows.

    Raises:
        UsageError: no table, or several and none is named.
        StoreError: no such table or column, no condition, or a damaged file.
    """
    tables = named_tables(store, names)
    source, known = joined(tables)
    chosen = list(known) if columns is None else choose(list(known), columns)
    selected = ", ".join(f"{known[name]} AS {duck.identifier(name)}" for name in chosen)
    return answers(store, f"SELECT {selected} FROM {source}{condition(where)}", {})


def named_tables(store: Store, names: Sequence[str] | None) -> list[AnnotationTable]:
    """The annotation tables that are asked for.

    Raises:
        UsageError: none is named, and there is not exactly one.
        QuestionError: no such table.
    """
    known = {table.name.lower(): table for table in list_tables(store)}
    listed = ", ".join(table.name for table in known.values()) or "none"
    if names is None and len(known) != 1:
        raise UsageError(f"--table: name one or more of the annotation tables; there are: {listed}")
    asked = list(known) if names is None else [name.lower() for name in names]
    if unknown := [name for name in asked if name not in known]:
        raise QuestionError(f"no annotation table {unknown[0]!r}; there are: {listed}")
    if len(set(asked)) < len(asked):
        raise UsageError(f"--table: a table is named twice: {', '.join(asked)}")
    return [known[name] for name in asked]


def joined(tables: Sequence[AnnotationTable]) -> tuple[str, dict[str, str]]:
    """SQL behind FROM for tables and the sequences, and SQL for every column by its name in the answer."""
    first = duck.identifier(tables[0].name)
    source = f"{first} JOIN sequences USING (seq_id)"  # by which a condition may name it without a table
    known = {"id": f"{first}.id", "seq_id": f"{first}.seq_id", "length": "sequences.length"}
    for table in tables:
        owner = duck.identifier(table.name)
        if table is not tables[0]:
            source += f" LEFT JOIN {owner} USING (seq_id)"
        for column in table.columns:
            if column in OF_ROWS:
                continue
            taken = column.lower() in (name.lower() for name in known)
            known[f"{table.name}_{column}" if taken else column] = f"{owner}.{duck.identifier(column)}"
    return source, known


def condition(where: str | None) -> str:
    """SQL for a condition, if there is one; a comment at its end swallows nothing."""
    return "" if where is None else f" WHERE ({where}\n)"


def answers(store: Store, statement: str, registered: dict[str, pa.Table]) -> Iterator[pa.Table]:
    """The answer to one SELECT in batches, at least one.

    Args:
        registered: further tables by name.

    Raises:
        QuestionError: it is no such statement, or DuckDB's own complaint.
    """
    with sql.connect(store, statement=statement) as connection:
        try:
            found = connection.extract_statements(statement)
            if len(found) != 1 or found[0].type != duckdb.StatementType.SELECT:
                raise QuestionError("--where: give one condition, such as: rna_type = 'tRNA'")
            for name, table in registered.items():
                connection.register(name, table)
            reader: Any = duck.run(connection, lambda: connection.sql(statement).to_arrow_reader(ROWS))
            yield reader.schema.empty_table()
            while (batch := duck.run(connection, partial(next, reader, None))) is not None:
                yield pa.Table.from_batches([batch])
        except duckdb.Error as error:
            raise QuestionError(duck.first_lines(error)) from error
