"""Tables of answers, and what can be made of them: Arrow, pandas, polars, lists, AnnData, files."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.answer_files import replacing
from raypipe.errors import AtlasError, RaypipeError, UsageError
from raypipe.formats import FORMATS, write_table

Vectors = Callable[[pa.Table], np.ndarray]
"""Gives each row of a table of hits its vector: (N, D) float32."""
PACKAGES = {"pandas": "pandas", "polars": "polars", "anndata": "'raypipe[anndata]'"}


class Answers(ABC):
    """What a table of answers can be turned into."""

    @abstractmethod
    def to_arrow(self) -> pa.Table:
        """As an Arrow table, without a copy."""

    @property
    @abstractmethod
    def how(self) -> dict[str, Any] | None:
        """Of a search, how it was done: see `index.search.Found`. None of other answers."""

    @property
    @abstractmethod
    def truncated(self) -> bool:
        """Whether a server's limit cut the rows short."""

    @abstractmethod
    def _vectors(self) -> np.ndarray:
        """(N, D) float32: the stored vector of each row's sequence.

        Raises:
            UsageError: the rows are no hits.
        """

    def to_pandas(self) -> Any:
        """As a pandas DataFrame.

        Raises:
            RaypipeError: pandas is not installed.
        """
        optional("pandas")
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """As a polars DataFrame.

        Raises:
            RaypipeError: polars is not installed.
        """
        return optional("polars").from_arrow(self.to_arrow())

    def to_pylist(self) -> list[dict[str, Any]]:
        """As a list of dictionaries, one a row."""
        return self.to_arrow().to_pylist()

    def to_anndata(self) -> Any:
        """As an AnnData of hits: X (N, D) float32 the stored vectors of the rows' sequences, obs the table, uns["how"].

        Raises:
            RaypipeError: anndata is not installed.
            UsageError: the rows are no hits, or lack the columns seq_id and id, one of which finds the vectors.
        """
        optional("anndata")  # before the vectors are fetched
        uns = {"how": json.dumps(self.how)} if self.how is not None else {}
        vectors = self._vectors()
        return make_anndata(vectors, self.to_arrow(), uns, vectors.shape[1])

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a file in the format of its suffix: .tsv, .csv, .jsonl, .parquet or .h5ad (see `to_anndata`).

        It is written under another name and renamed when whole.

        Raises:
            UsageError: another suffix.
            RaypipeError: the file cannot be written, or anndata is not installed.
        """
        file = Path(path)
        suffix = file.suffix.lower().removeprefix(".")
        if suffix == "h5ad":
            write_anndata(self.to_anndata(), file)
        elif suffix in FORMATS:
            write_table(self.to_arrow(), file, suffix)
        else:
            raise UsageError(f"{file}: its name shall end in .{', .'.join((*FORMATS, 'h5ad'))}, which tells the format")

    def __len__(self) -> int:
        return self.to_arrow().num_rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.to_arrow().to_batches(max_chunksize=1024):
            yield from batch.to_pylist()


class Result(Answers):
    """A table of answers."""

    def __init__(
        self,
        table: pa.Table,
        how: dict[str, Any] | None = None,
        *,
        truncated: bool = False,
        vectors: Vectors | None = None,
    ):
        self._table = table
        self._how = how
        self._truncated = truncated
        self._look_up = vectors

    def to_arrow(self) -> pa.Table:
        return self._table

    @property
    def how(self) -> dict[str, Any] | None:
        return self._how

    @property
    def truncated(self) -> bool:
        return self._truncated

    def _vectors(self) -> np.ndarray:
        if self._look_up is None:
            raise UsageError("these rows are no hits of a search, so they have no vectors; see also: raypipe export")
        if not {"seq_id", "id"} & set(self._table.column_names):
            raise UsageError("the column seq_id or id is needed to find the vectors: add one to columns")
        return self._look_up(self._table)

    def __repr__(self) -> str:
        return f"Result({self._table.num_rows} rows: {', '.join(self._table.column_names)})"


def stacked(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of one question below each other; a column that some of them lack is NULL there.

    Raises:
        AtlasError: their columns do not fit, since annotations were replaced while they were asked for.
    """
    try:
        return pa.concat_tables(tables, promote_options="default")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise AtlasError("the annotations were replaced meanwhile", code="stale", hint="ask again") from error


def optional(package: str) -> Any:
    """A package that the plain installation does not bring.

    Raises:
        RaypipeError: it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise RaypipeError(f"{package} is not installed; run: pip install {PACKAGES[package]}") from error


def make_anndata(vectors: np.ndarray | None, table: pa.Table, uns: dict[str, Any], dimension: int) -> Any:
    """An AnnData that can be written.

    Args:
        vectors: (N, D), of X; None where that is written apart.
        table: N rows, of obs. What is nested becomes JSON; other things than numbers and booleans become text.
        uns: plain values.
        dimension: D.
    """
    pandas, anndata = optional("pandas"), optional("anndata")

    def frame(length: int) -> Any:
        # Of objects: what pandas takes for text by default, not every AnnData writes.
        return pandas.DataFrame(index=pandas.Index([str(place) for place in range(length)], dtype=object))

    obs = frame(table.num_rows)
    for name, column in zip(table.column_names, table.columns, strict=True):
        obs[name] = _observed(pandas, column).set_axis(obs.index)
    return anndata.AnnData(X=vectors, obs=obs, var=frame(dimension), uns=uns)


def _observed(pandas: Any, column: pa.ChunkedArray) -> Any:
    if pa.types.is_boolean(column.type) or pa.types.is_integer(column.type):
        if column.null_count:
            return pandas.Series(column.to_pylist(), dtype="boolean" if pa.types.is_boolean(column.type) else "Int64")
        return pandas.Series(column.to_numpy())
    if pa.types.is_floating(column.type):
        return pandas.Series(column.to_numpy())
    nested = pa.types.is_nested(column.type)
    texts = [None if value is None else json.dumps(value) if nested else str(value) for value in column.to_pylist()]
    if not column.null_count:
        return pandas.Series(texts, dtype=object)
    # Plain text has no word for what is missing in a file of AnnData; categories have.
    known = pandas.Index(sorted({text for text in texts if text is not None}), dtype=object)
    return pandas.Series(pandas.Categorical(texts, categories=known))


def write_anndata(made: Any, file: Path) -> None:
    """Write an AnnData, whole or not at all."""
    with replacing(file) as stream:
        made.write_h5ad(Path(stream.name))
