"""Stored vectors by row, where they lie in their Parquet file: a row group need not be unpacked for one of them.

That goes for files as `raypipe embed` writes them: uncompressed, plain encoding, no NULL. What is needed of the format
is where the pages are, and where the values begin in each: the headers of pages are read, as the Parquet specification
has them (a struct in Thrift's compact protocol), when the first row of their row group is asked for.
"""

from __future__ import annotations

import mmap
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

MOST_OPEN = 256
COLUMN = "embedding"
_DATA_PAGE, _PLAIN = 0, 0
_TYPES = {"FLOAT": np.dtype("<f4"), "FIXED_LEN_BYTE_ARRAY": np.dtype("<f2")}


class UnknownLayoutError(Exception):
    """The file is not as this module knows them; pyarrow may read it all the same."""


def take_rows(file: Path, rows: np.ndarray, dimension: int) -> np.ndarray:
    """Vectors float32 (n, D) of one file, by their row numbers (n,).

    Raises:
        UnknownLayoutError: it cannot be read so.
        OSError: it cannot be opened.
    """
    status = file.stat()
    return _opened(file, status.st_ino, status.st_mtime_ns, status.st_size).take(rows, dimension)


class _VectorFile:
    """One file, mapped; safe to use from several threads."""

    def __init__(self, file: Path):
        with file.open("rb") as stream:
            self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            held = pq.ParquetFile(stream)
            places = [place for place, column in enumerate(held.schema) if column.path.split(".")[0] == COLUMN]
            if len(places) != 1:
                raise UnknownLayoutError(f"{file}: {len(places)} columns of vectors")
            column = held.schema.column(places[0])
            if (column.max_repetition_level, column.max_definition_level) != (1, 1):
                raise UnknownLayoutError(f"{file}: vectors may be NULL")
            groups = [held.metadata.row_group(group) for group in range(held.metadata.num_row_groups)]
        chunks = [group.column(places[0]) for group in groups]
        for chunk in chunks:
            if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page or chunk.physical_type not in _TYPES:
                raise UnknownLayoutError(f"{file}: vectors are compressed")
        self._type = _TYPES[chunks[0].physical_type] if chunks else _TYPES["FLOAT"]
        self._ends = np.cumsum([group.num_rows for group in groups])
        self._chunks = [(chunk.data_page_offset, chunk.num_values) for chunk in chunks]
        self._pages: dict[int, tuple[np.ndarray, list[int]]] = {}

    def take(self, rows: np.ndarray, dimension: int) -> np.ndarray:
        result = np.empty((len(rows), dimension), np.float32)
        groups = np.searchsorted(self._ends, rows, side="right")
        for place, (row, group) in enumerate(zip(rows.tolist(), groups.tolist(), strict=True)):
            start = int(self._ends[group - 1]) if group else 0
            result[place] = self._values(group, (row - start) * dimension, dimension)
        return result

    def _values(self, group: int, first: int, count: int) -> np.ndarray:
        """`count` values of a row group from its value `first` on; a page may end between them."""
        firsts, offsets = self._pages.get(group) or self._find_pages(group)
        if first + count > firsts[-1]:
            raise UnknownLayoutError("fewer values than rows")
        parts: list[np.ndarray] = []
        page = int(np.searchsorted(firsts, first, side="right")) - 1
        while count:
            here = min(count, int(firsts[page + 1]) - first)
            offset = offsets[page] + (first - int(firsts[page])) * self._type.itemsize
            parts.append(np.frombuffer(self._bytes, self._type, here, offset))
            first, count, page = first + here, count - here, page + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _find_pages(self, group: int) -> tuple[np.ndarray, list[int]]:
        """The first value of each page of a row group and the number of all, and where in the file the values begin."""
        at, expected = self._chunks[group]
        firsts, offsets = [0], []
        while firsts[-1] < expected:
            header, at = _read_struct(self._bytes, at)
            about = header.get(5)
            size = header.get(3)
            values = about.get(1) if isinstance(about, dict) and about.get(2) == _PLAIN else None
            if header.get(1) != _DATA_PAGE or not isinstance(size, int) or not isinstance(values, int) or values < 1:
                raise UnknownLayoutError("a page of another kind")
            start = at
            for _ in range(2):  # the levels of repetition, and of definition: their bytes, counted before them
                start += 4 + int.from_bytes(self._bytes[start : start + 4], "little")
            if start + values * self._type.itemsize != at + size:
                raise UnknownLayoutError("a page of another size")
            firsts.append(firsts[-1] + values)
            offsets.append(start)
            at += size
        self._pages[group] = found = np.array(firsts), offsets
        return found


@lru_cache(maxsize=MOST_OPEN)
def _opened(file: Path, inode: int, changed: int, size: int) -> _VectorFile:
    return _VectorFile(file)


def _read_struct(data: mmap.mmap, at: int) -> tuple[dict[int, int | dict], int]:  # type: ignore[type-arg]
    """A struct of whole numbers, texts and structs, as far as it matters here: its fields by number, and its end."""
    fields: dict[int, int | dict] = {}  # type: ignore[type-arg]
    field = 0
    while head := data[at]:
        at += 1
        kind = head & 15
        if head >> 4:
            field += head >> 4
        else:
            number, at = _read_number(data, at)
            field = (number >> 1) ^ -(number & 1)
        if kind in (1, 2):  # true, false
            fields[field] = 2 - kind
        elif kind in (4, 5, 6):
            number, at = _read_number(data, at)
            fields[field] = (number >> 1) ^ -(number & 1)
        elif kind == 8:
            length, at = _read_number(data, at)
            at += length
        elif kind == 12:
            fields[field], at = _read_struct(data, at)
        else:
            raise UnknownLayoutError(f"a field of kind {kind} in the header of a page")
    return fields, at + 1


def _read_number(data: mmap.mmap, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
