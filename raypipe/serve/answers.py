"""Answers as JSON or as Arrow streams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from raypipe.serve.requests import ARROW, JSON, SETTINGS


def wants_arrow(request: Request) -> bool:
    """Whether the client would have an Arrow stream."""
    return ARROW in request.headers.get("accept", "")


def send_json(value: Any, status: int = 200) -> Response:
    """As JSON; what is no number is null, bytes are base64."""
    body = to_json(value, inf_nan_mode="null", bytes_mode="base64", serialize_unknown=True)
    return Response(body, status_code=status, media_type=JSON)


def send_arrow(table: pa.Table, beside: Mapping[str, Any] | None = None) -> Response:
    """As one table; `beside` stands as JSON in the schema's metadata."""
    if beside is not None:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), SETTINGS: json.dumps(dict(beside))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return Response(sink.getvalue().to_pybytes(), media_type=ARROW)


def columns_of(table: pa.Table) -> list[list[Any]]:
    """Its columns as Python values that JSON has."""
    return [_values(column) for column in table.columns]


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Its rows as dictionaries."""
    names = table.column_names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns_of(table), strict=True)]


def vector_table(vectors: np.ndarray, beside: Mapping[str, Any]) -> Response:
    """(N, D) float32 as an Arrow table of one column."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return send_arrow(pa.table({"embedding": column}), beside)


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_decimal(column.type):
        # DuckDB's sums of integers come as these.
        whole = column.type.scale == 0
        return [None if value is None else int(value) if whole else float(value) for value in column.to_pylist()]
    if column.null_count == 0 and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return column.to_numpy().tolist()
    return column.to_pylist()
