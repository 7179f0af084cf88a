"""Stored vectors: checked, streamed in batches, or picked by row.

Shapes: n rows of a batch, D values per vector.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.errors import QuestionError, StoreError
from index.parquet import open_parquet
from index.places import Place, at_once, transport_errors
from index.schema import read_footer, vector_type
from index.store import Embedding, Store
from index.vector_pages import UnknownLayoutError, take_rows

BATCH_BYTES = 32 << 20
# Between these, a number keeps all its digits as a halffloat.
SMALLEST_HALF, LARGEST_HALF = 2.0**-14, 65_504.0
FEW = 16  # a row by itself costs as much as that many when whole row groups are unpacked


@dataclass(frozen=True)
class Part:
    """One finished file of vectors."""

    path: Place
    rows: int
    bytes: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        """How index.json names it."""
        return {"name": self.path.name, "rows": self.rows, "bytes": self.bytes, "digest": self.digest}


def finished_parts(store: Store, embedding: Embedding, known: Sequence[Part] = ()) -> list[Part]:
    """The files of a set of vectors, each made by the set's own model.

    Args:
        known: files that need not be opened: they are what they were.

    Raises:
        StoreError: a file is damaged, of another model, layer or pooling, or of another dimension.
    """
    opened = {part.path: part for part in known}
    paths = store.set_parts(embedding)
    return at_once(lambda path: opened.get(path) or _open_part(store, embedding, path), paths, store.root)


def batches(parts: Sequence[Part], dimension: int) -> Iterator[tuple[Place, np.ndarray, np.ndarray]]:
    """Stream vectors in stored order, about 32 MiB at a time.

    Yields:
        The file, seq_ids int64 (n,), vectors float32 (n, D).
    """
    rows = max(1, BATCH_BYTES // (4 * dimension))
    for part in parts:
        try:
            with open_parquet(part.path) as file:
                for batch in file.iter_batches(rows, columns=["seq_id", "embedding"]):
                    yield (
                        part.path,
                        batch["seq_id"].to_numpy(),
                        _matrix(batch["embedding"], dimension, part.path),
                    )
        except (pa.ArrowException, OSError) as error:
            raise _damaged(part.path, error) from error


def unit_rows(vectors: np.ndarray, labels: np.ndarray, what: str) -> np.ndarray:
    """`vectors` (n, D) scaled to length 1, float32.

    Args:
        labels: (n,), how to name a row in the error.
        what: what the rows are, with their file: the start of the error.

    Raises:
        StoreError: rows without a direction: not finite, or zero.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    bad = ~np.isfinite(norms) | (norms == 0)
    if bad.any():
        names = ", ".join(str(label) for label in labels[bad][:5])
        more = f" and {bad.sum() - 5} more" if bad.sum() > 5 else ""
        raise QuestionError(
            f"{what} {names}{more}: the vector is zero or not finite, so it has no direction to compare"
        )
    return (vectors / norms[:, None]).astype(np.float32)


def as_stored(vectors: np.ndarray, dtype: str) -> np.ndarray:
    """Vectors with as many digits as a set of `dtype` holds, float32 (n, D).

    Whitening magnifies what is rounded away: a query that is not rounded would be a little off its own stored vector.
    The exponent is left alone: what is too small or large for float16 stays what it is.
    """
    if dtype != "float16":
        return vectors
    with np.errstate(over="ignore"):
        rounded = vectors.astype(np.float16).astype(np.float32)
    sizes = np.abs(vectors)
    beyond = ((sizes < SMALLEST_HALF) & (sizes > 0)) | (sizes > LARGEST_HALF)
    if beyond.any():
        parts, exponents = np.frexp(vectors[beyond])
        rounded[beyond] = np.ldexp(np.round(parts * 2**11) / 2**11, exponents).astype(np.float32)
    return rounded


def take(parts: Sequence[Part], rows: np.ndarray, dimension: int) -> np.ndarray:
    """Vectors as stored, by their row number over all `parts`: float32 (n, D) in the order of `rows`."""
    result = np.empty((len(rows), dimension), dtype=np.float32)
    ends = np.cumsum([part.rows for part in parts])
    owners = np.searchsorted(ends, rows, side="right")
    for owner in np.unique(owners):
        part = parts[owner]
        places = np.flatnonzero(owners == owner)
        local = rows[places] - (ends[owner] - part.rows)
        try:
            if isinstance(part.path, Path) and len(local) * FEW < part.rows:
                with suppress(UnknownLayoutError, ValueError, IndexError, KeyError):  # pyarrow says what is wrong
                    result[places] = take_rows(part.path, local, dimension)
                    continue
            with open_parquet(part.path) as file:
                _take_from(file, part.path, local, places, result)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(part.path, error) from error
    return result


def _take_from(file: pq.ParquetFile, path: Place, local: np.ndarray, places: np.ndarray, result: np.ndarray) -> None:
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
    groups = np.searchsorted(ends, local, side="right")
    for group in np.unique(groups):
        chosen = groups == group
        offsets = local[chosen] - (ends[group] - file.metadata.row_group(group).num_rows)
        column = file.read_row_group(int(group), columns=["embedding"])["embedding"].combine_chunks()
        result[places[chosen]] = _matrix(column, result.shape[1], path)[offsets]


def _open_part(store: Store, embedding: Embedding, path: Place) -> Part:
    try:
        with open_parquet(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        size, digest = path.stat().st_size, _footer_digest(path)
        footer = read_footer(schema.metadata)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    found = footer.get("fingerprint")
    if found != embedding.fingerprint:
        raise StoreError(
            f"{path}: made by another model or setting (fingerprint {str(found)[:16]}, that of {embedding.name!r} is "
            f"{embedding.fingerprint[:16]}); remove the file and run: raypipe embed {store.root}"
        )
    wanted = vector_type(embedding.dimension, embedding.dtype)
    if "embedding" not in schema.names or schema.field("embedding").type != wanted:
        held = schema.field("embedding").type if "embedding" in schema.names else "no vectors"
        raise StoreError(f"{path}: holds {held} instead of {wanted}; remove it and run: raypipe embed {store.root}")
    return Part(path, rows, size, digest)


def _footer_digest(path: Place) -> str:
    """sha256 of the Parquet footer, which describes every column chunk: cheap, and survives copying the store."""
    with transport_errors(path), path.open("rb") as stream:
        stream.seek(-8, 2)
        (length,) = struct.unpack("<I", stream.read(4))
        stream.seek(-8 - length, 2)
        return hashlib.sha256(stream.read(length)).hexdigest()


def _matrix(column: pa.Array, dimension: int, path: Place) -> np.ndarray:
    if column.null_count:
        raise StoreError(f"{path}: {column.null_count} rows hold no vector; remove the file and embed again")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension).astype(np.float32)


def _damaged(path: Place, error: Exception) -> StoreError:
    return StoreError(f"{path}: cannot be read ({error}); if it is damaged remove it and run raypipe embed again")
