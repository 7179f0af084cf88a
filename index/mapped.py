"""Tables that are looked up by row number: Arrow files of one record batch, mapped into memory.

Nothing is decoded and nothing is read but the pages that a look-up touches, so a row costs microseconds however large
the table is. Parquet cannot do that: there a whole row group is unpacked for one row. The price is that nothing is
compressed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from index.errors import StoreError

CHUNK = 1 << 22
MOST_SHORT = 2**31 - 1  # bytes of text that 32-bit offsets reach
_OPTIONS = pa.ipc.IpcWriteOptions(allow_64bit=True)


def can_map(type_: pa.DataType) -> bool:
    """Whether a column of `type_` can be in such a table: numbers, dates, truth values and texts, but no lists."""
    return _is_text(type_) or pa.types.is_boolean(type_) or (pa.types.is_primitive(type_) or _is_decimal(type_))


def write_mapped(file: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write `batches` as one table, however large, in little memory.

    The columns are collected in files beside `file`, which have to be one after another in it.

    Args:
        schema: of the batches; every type as `can_map` has it.
    """
    spools = [_Spool(file.with_name(f"{file.name}.{place}"), column.type) for place, column in enumerate(schema)]
    try:
        with ExitStack() as opened:
            for spool in spools:
                opened.enter_context(spool.opened())
            for batch in batches:
                for spool, column in zip(spools, batch.columns, strict=True):
                    spool.add(column)
        arrays = [spool.array() for spool in spools]
        fields = [pa.field(field.name, array.type) for field, array in zip(schema, arrays, strict=True)]
        whole = pa.record_batch(arrays, schema=pa.schema(fields))
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, whole.schema, options=_OPTIONS) as writer:
            writer.write_batch(whole)
    finally:
        for spool in spools:
            spool.remove()


def open_mapped(file: Path) -> pa.RecordBatch:
    """The table in `file`, mapped; safe to be read from several threads, also when the file is removed meanwhile.

    Raises:
        StoreError: it is damaged.
    """
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(file))).get_batch(0)
        batch.validate()
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{file}: damaged ({error})") from error
    return batch


def places(rows: np.ndarray) -> pa.Array:
    """Row numbers (n,) as `take` has them; a negative one stands for a row of NULL."""
    return pa.array(rows, mask=rows < 0) if len(rows) and rows.min() < 0 else pa.array(rows)


def take(column: pa.Array, rows: pa.Array) -> pa.Array:
    """Values of a mapped column by row; texts as the usual string type."""
    taken = column.take(rows)
    return taken.cast(pa.string()) if taken.type == pa.large_string() else taken


def numbers(column: pa.Array) -> np.ndarray:
    """A mapped column of whole numbers without NULL as NumPy sees it, not copied."""
    # Not to_numpy: that loads pandas, where it is installed, which takes more memory than a small index.
    values = column.buffers()[1]
    whole = np.frombuffer(b"" if values is None else values, column.type.to_pandas_dtype())
    return whole[column.offset : column.offset + len(column)]


def _is_text(type_: pa.DataType) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_)


def _is_decimal(type_: pa.DataType) -> bool:
    return pa.types.is_decimal128(type_) or pa.types.is_decimal256(type_)


class _Spool:
    """One column as it comes in: its values, the ends of its texts, and which rows are not NULL, each in a file."""

    def __init__(self, file: Path, type_: pa.DataType):
        self._type = type_
        self._files = {kind: Path(f"{file}.{kind}") for kind in ("values", "ends", "valid")}
        self._streams: dict[str, BinaryIO] = {}
        self._rows = self._nulls = self._bytes = 0

    def opened(self) -> ExitStack:
        stack = ExitStack()
        self._streams = {kind: stack.enter_context(file.open("wb")) for kind, file in self._files.items()}
        if _is_text(self._type):
            self._streams["ends"].write(np.zeros(1, np.int64).tobytes())
        return stack

    def add(self, column: pa.Array) -> None:
        self._rows += len(column)
        self._nulls += column.null_count
        self._streams["valid"].write(column.is_valid().cast(pa.uint8()).to_numpy().tobytes())
        if _is_text(self._type):
            column = column.fill_null("").cast(pa.large_string())
            buffers = pa.concat_arrays([column]).buffers() if column.offset else column.buffers()
            ends = np.frombuffer(buffers[1], np.int64)[: len(column) + 1]
            self._streams["ends"].write((ends[1:] - ends[0] + self._bytes).tobytes())
            if buffers[2] is not None:
                self._streams["values"].write(memoryview(buffers[2])[ends[0] : ends[-1]])
            self._bytes += int(ends[-1] - ends[0])
        elif pa.types.is_boolean(self._type):
            self._streams["values"].write(column.fill_null(False).cast(pa.uint8()).to_numpy().tobytes())
        elif len(column):
            width = self._type.bit_width // 8
            start = column.offset * width
            self._streams["values"].write(memoryview(column.buffers()[1])[start : start + len(column) * width])

    def array(self) -> pa.Array:
        valid = self._packed("valid") if self._nulls else None
        if not _is_text(self._type):
            values = self._packed("values") if pa.types.is_boolean(self._type) else self._buffer("values")
            return pa.Array.from_buffers(self._type, self._rows, [valid, values], null_count=self._nulls)
        short = self._bytes <= MOST_SHORT
        if short:
            self._rewrite("ends", np.int64, lambda ends: ends.astype(np.int32))
        type_ = pa.string() if short else pa.large_string()
        buffers = [valid, self._buffer("ends"), self._buffer("values")]
        return pa.Array.from_buffers(type_, self._rows, buffers, null_count=self._nulls)

    def _packed(self, kind: str) -> pa.Buffer:
        self._rewrite(kind, np.uint8, lambda truths: np.packbits(truths, bitorder="little"))
        return self._buffer(kind)

    def _rewrite(self, kind: str, dtype: type, change) -> None:  # type: ignore[no-untyped-def]
        """Put `change` of its numbers into the file, a piece (of whole bytes when it is packed to bits) at a time."""
        old = self._files[kind]
        new = old.with_name(f"{old.name}.new")
        with old.open("rb") as source, new.open("wb") as target:
            while len(piece := np.fromfile(source, dtype, CHUNK)):
                target.write(change(piece).tobytes())
        new.replace(old)

    def _buffer(self, kind: str) -> pa.Buffer:
        file = self._files[kind]
        return pa.memory_map(str(file)).read_buffer() if file.stat().st_size else pa.py_buffer(b"")

    def remove(self) -> None:
        for file in self._files.values():
            file.unlink(missing_ok=True)
