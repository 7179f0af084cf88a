"""Write a table as TSV, CSV, JSON lines or Parquet."""

from __future__ import annotations

import io
import json
import math
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.errors import RaypipeError

FORMATS = ("tsv", "csv", "jsonl", "parquet")
_CSV_QUOTED = re.compile(r'[",\r\n]')
_TSV_SPACES = str.maketrans("\t\n\r", "   ")
Destination = Path | BinaryIO | TextIO | None


def write_table(table: pa.Table, destination: Destination, format: str, header: bool = True) -> None:
    """Write `table`.

    NULL is an empty field, null in JSON lines; lists and structs are JSON. In TSV a tab or line break inside a value
    becomes one space, since readers of TSV know no escapes; CSV quotes where needed. Floats are as short as reads back
    the same, but `score` has six decimals, in text formats. A number that is not finite is null in JSON.

    Args:
        destination: a file, written under another name and renamed when whole; an open stream; standard output if None.
        format: "tsv", "csv", "jsonl" or "parquet".
        header: whether TSV and CSV begin with the column names.

    Raises:
        RaypipeError: an unknown format, Parquet to a terminal or a text stream, or a file that cannot be written.
    """
    if format not in FORMATS:
        raise RaypipeError(f"no format {format!r}; there are: {', '.join(FORMATS)}")
    if isinstance(destination, str | os.PathLike):
        _write_file(table, Path(destination), format, header)
        return
    try:
        if format == "parquet":
            _write_parquet_stream(table, destination)
            return
        stream = sys.stdout if destination is None else destination
        for text in _text(table, format, header):
            _put(stream, text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        where = "standard output" if destination is None else "the stream"
        raise RaypipeError(f"{where}: cannot be written ({error.strerror or error})") from error


def write_batches(tables: Iterable[pa.Table], stream: BinaryIO, format: str, header: bool = True) -> None:
    """Write tables of one schema below each other, as `write_table` writes one; there is at least one.

    Raises:
        RaypipeError: an unknown format.
    """
    if format not in FORMATS:
        raise RaypipeError(f"no format {format!r}; there are: {', '.join(FORMATS)}")
    if format == "parquet":
        rest = iter(tables)
        first = next(rest)
        with pq.ParquetWriter(stream, first.schema, compression="zstd") as writer:
            writer.write_table(first)
            for table in rest:
                writer.write_table(table.cast(first.schema))
        return
    for number, table in enumerate(tables):
        for text in _text(table, format, header and number == 0):
            stream.write(text.encode("utf-8"))


def text_rows(table: pa.Table, format: str) -> Iterator[str]:
    """The rows of `table` as lines of "tsv", "csv" or "jsonl", without line breaks at their ends."""
    return (line.removesuffix("\n") for line in _text(table, format, header=False))


def _write_file(table: pa.Table, path: Path, format: str, header: bool) -> None:
    # A pipe, a device or a link (/dev/stdout is one) is not to be replaced by a file.
    whole = not path.is_symlink() and (not path.exists() or path.is_file())
    target = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}") if whole else path
    try:
        try:
            if format == "parquet":
                with target.open("wb") as stream:
                    pq.write_table(table, stream)
            else:
                with target.open("w", encoding="utf-8", newline="") as stream:
                    stream.writelines(_text(table, format, header))
            if whole:
                os.replace(target, path)
        finally:
            if whole:
                target.unlink(missing_ok=True)
    except OSError as error:
        raise RaypipeError(f"{path}: cannot be written ({error.strerror or error})") from error


def _write_parquet_stream(table: pa.Table, destination: Destination) -> None:
    stream: Any = sys.stdout.buffer if destination is None else destination
    if isinstance(stream, io.TextIOBase):
        raise RaypipeError("Parquet is binary: it cannot be written to a text stream")
    if stream.isatty():
        raise RaypipeError("Parquet is binary: send it to a file or a pipe, not to the terminal")
    # Through memory: the writer wants to seek, which a pipe cannot.
    sink = io.BytesIO()
    pq.write_table(table, sink)
    stream.write(sink.getbuffer())
    stream.flush()


def _put(stream: Any, text: str) -> None:
    stream.write(text if isinstance(stream, io.TextIOBase) else text.encode("utf-8"))


def _text(table: pa.Table, format: str, header: bool) -> Iterator[str]:
    names = table.column_names
    if format == "jsonl":
        cells = [_json_cell(table.schema.field(place)) for place in range(len(names))]
        for row in _rows(table):
            pairs = {name: cell(value) for name, cell, value in zip(names, cells, row, strict=True)}
            yield json.dumps(pairs, ensure_ascii=False, allow_nan=False) + "\n"
        return
    line = _tsv_line if format == "tsv" else _csv_line
    if header:
        yield line(names)
    cells = [_text_cell(table.schema.field(place)) for place in range(len(names))]
    for row in _rows(table):
        yield line([cell(value) for cell, value in zip(cells, row, strict=True)])


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    for batch in table.to_batches(max_chunksize=8192):
        columns = [column.to_pylist() for column in batch.columns]
        yield from zip(*columns, strict=True)


def _tsv_line(values: list[str]) -> str:
    return "\t".join(value.translate(_TSV_SPACES) for value in values) + "\n"


def _csv_line(values: list[str]) -> str:
    # Not the csv module: it leaves a lone carriage return unquoted, which its own reader takes for a line's end.
    quoted = ['"' + value.replace('"', '""') + '"' if _CSV_QUOTED.search(value) else value for value in values]
    return (",".join(quoted) or '""') + "\n"


def _text_cell(column: pa.Field) -> Callable[[Any], str]:
    if pa.types.is_floating(column.type):
        return _float_text(column)
    if pa.types.is_boolean(column.type):
        return lambda value: "" if value is None else "true" if value else "false"
    if pa.types.is_nested(column.type):
        plain = _plain(column.type)
        return lambda value: "" if value is None else json.dumps(plain(value), ensure_ascii=False)
    plain = _plain(column.type)
    return lambda value: "" if value is None else str(plain(value))


def _json_cell(column: pa.Field) -> Callable[[Any], Any]:
    if column.name == "score" and pa.types.is_floating(column.type):
        return lambda value: None if value is None or not math.isfinite(value) else round(value, 6)
    plain = _plain(column.type)
    return lambda value: None if value is None else plain(value)


def _float_text(column: pa.Field) -> Callable[[Any], str]:
    if column.name == "score":
        return lambda value: "" if value is None else f"{value:.6f}"
    scalar = _float_type(column.type)
    return lambda value: "" if value is None else str(scalar(value))


def _float_type(type_: pa.DataType) -> Any:
    return {pa.float16(): np.float16, pa.float32(): np.float32}.get(type_, np.float64)


def _plain(type_: pa.DataType) -> Callable[[Any], Any]:
    """A function that turns a value of `type_` into what JSON knows."""
    if pa.types.is_floating(type_):
        scalar = _float_type(type_)
        return lambda value: float(str(scalar(value))) if math.isfinite(value) else None
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        inner = _plain(type_.value_type)
        return lambda value: [None if item is None else inner(item) for item in value]
    if pa.types.is_struct(type_):
        fields = {field.name: _plain(field.type) for field in type_}
        return lambda value: {
            name: None if value[name] is None else field(value[name]) for name, field in fields.items()
        }
    if pa.types.is_map(type_):
        inner = _plain(type_.item_type)
        return lambda value: {str(name): None if item is None else inner(item) for name, item in value}
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_) or pa.types.is_string(type_):
        return lambda value: value
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_):
        return lambda value: value.hex()
    return lambda value: value.isoformat() if hasattr(value, "isoformat") else str(value)
