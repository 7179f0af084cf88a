"""The vectors of an atlas as .npy, CSV, TSV, Parquet or AnnData.

Shapes: N vectors in all or of a batch, D values of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from index.sets import Embedding
from index.store import Store
from index.vectors import batches, finished_parts
from raypipe import __version__
from raypipe.answer_files import replacing
from raypipe.errors import UsageError
from raypipe.exporting.described import Described, exported_columns, wanted_sequences
from raypipe.formats import text_rows
from raypipe.results import make_anndata, optional

NPY_HEADER_BYTES = 128
TEXT_ROWS = 1024
IDS = ("id", "seq_id")


class Batch(NamedTuple):
    """Some sequences: what is known of them, N rows, and their vectors (N, D) float32."""

    table: pa.Table
    vectors: np.ndarray

    def parts(self, rows: int) -> Iterator[Batch]:
        """The same in batches of so many rows at most."""
        for start in range(0, len(self.vectors), rows):
            yield Batch(self.table.slice(start, rows), self.vectors[start : start + rows])


def export_vectors(
    store: Store, output: Path, format: str, *, name: str | None, where: str | None, columns: Sequence[str] | None
) -> tuple[Embedding, int]:
    """Write a set of vectors.

    Args:
        format: "npy", "csv", "tsv", "parquet" or "h5ad".
        name: of the set; by default the indexed one, else the first.
        where: which sequences; all if None.
        columns: beside the vectors.

    Returns:
        The set, and how many vectors were written.

    Raises:
        StoreError: no such set, column or condition, or a damaged file.
        RaypipeError: the output cannot be written, or anndata is not installed.
    """
    from index.info import current_info

    if format == "h5ad":
        optional("anndata")
    if name is None and (info := current_info(store)) is not None and info.embeddings in store.embeddings:
        name = info.embeddings
    made = store.embedding(name)
    chosen = exported_columns(store, columns, None if format == "h5ad" else IDS)
    if format == "h5ad" and not chosen:
        raise UsageError("--columns: name at least one")
    with Described.opened(store) as described:
        stream = _batches(store, made, wanted_sequences(store, where), described, chosen)
        return made, _WRITERS[format](output, made, stream, described.table(np.empty(0, np.int64), chosen).schema)


def _batches(
    store: Store, made: Embedding, wanted: np.ndarray, described: Described, columns: Sequence[str]
) -> Iterator[Batch]:
    for _, seq_ids, vectors in batches(finished_parts(store, made), made.dimension):
        kept = wanted[seq_ids]
        if kept.any():
            yield Batch(described.table(seq_ids[kept], columns), vectors[kept])


def _write_npy(output: Path, made: Embedding, stream: Iterator[Batch], schema: pa.Schema) -> int:
    """The vectors as they are stored, (N, D), and beside them what stands in their rows: out.npy and out.ids.tsv."""
    rows = 0
    # The names are whole first, so that there are no vectors without them.
    with replacing(output) as file, replacing(ids_file(output)) as names:
        if not file.seekable():
            raise UsageError(f"{output}: .npy begins with the number of its rows: give a file, no pipe")
        file.write(bytes(NPY_HEADER_BYTES))
        names.write(("\t".join(schema.names) + "\n").encode())
        for batch in stream:
            file.write(np.ascontiguousarray(batch.vectors, dtype=np.dtype(made.dtype).newbyteorder("<")).data)
            names.writelines(f"{line}\n".encode() for line in text_rows(batch.table, "tsv"))
            rows += len(batch.vectors)
        file.seek(0)
        file.write(_npy_header(made, rows))
    return rows


def ids_file(output: Path) -> Path:
    """Where the names of the rows of an .npy stand."""
    return output.with_name(output.name.removesuffix(".npy") + ".ids.tsv")


def _npy_header(made: Embedding, rows: int) -> bytes:
    """Of version 1.0, as long as there is room for any number of rows."""
    kind = np.dtype(made.dtype).newbyteorder("<").str
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({rows}, {made.dimension}), }}"
    length = NPY_HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode("ascii") + b"\n"


def _write_text(format: str) -> Callable[[Path, Embedding, Iterator[Batch], pa.Schema], int]:
    """A column for each value: v0, v1, ..., as short as reads back the same float32."""
    delimiter = "," if format == "csv" else "\t"
    options = pa_csv.WriteOptions(delimiter=delimiter, include_header=False)

    def write(output: Path, made: Embedding, stream: Iterator[Batch], schema: pa.Schema) -> int:
        rows = 0
        values = [f"v{place}" for place in range(made.dimension)]
        with replacing(output) as file:
            file.write((delimiter.join([*schema.names, *values]) + "\n").encode())
            for batch in (part for whole in stream for part in whole.parts(TEXT_ROWS)):
                # Numbers by Arrow, whose text is made many times faster than any in Python.
                numbers = pa.BufferOutputStream()
                columns = [pa.array(np.ascontiguousarray(column)) for column in batch.vectors.T]
                pa_csv.write_csv(pa.table(columns, values), numbers, options)
                behind = numbers.getvalue().to_pybytes().splitlines()
                for line, more in zip(text_rows(batch.table, format), behind, strict=True):
                    file.write(b"%b%b%b\n" % (line.encode(), delimiter.encode(), more))
                rows += len(batch.vectors)
        return rows

    return write


def _write_parquet(output: Path, made: Embedding, stream: Iterator[Batch], schema: pa.Schema) -> int:
    """A column `embedding` of lists of D values, of the type that is stored."""
    type_ = pa.list_(pa.float16() if made.dtype == "float16" else pa.float32(), made.dimension)
    whole = schema.append(pa.field("embedding", type_))
    rows = 0
    with replacing(output) as file, pq.ParquetWriter(file, whole, compression="zstd") as writer:
        for batch in stream:
            flat = pa.array(batch.vectors.reshape(-1).astype(made.dtype))
            vectors = pa.FixedSizeListArray.from_arrays(flat, made.dimension)
            writer.write_table(batch.table.append_column(whole.field("embedding"), vectors))
            rows += len(batch.vectors)
    return rows


def _write_h5ad(output: Path, made: Embedding, stream: Iterator[Batch], schema: pa.Schema) -> int:
    """X (N, D) float32, written batch by batch; obs is held in memory."""
    h5py = optional("h5py")
    tables: list[pa.Table] = []
    rows = 0
    with replacing(output) as file:
        _refuse_pipe(file, output)
        whole = Path(str(file.name))
        with h5py.File(whole, "w") as made_file:
            x = made_file.create_dataset(
                "X",
                shape=(0, made.dimension),
                maxshape=(None, made.dimension),
                dtype="float32",
                chunks=(max(1, (1 << 20) // (4 * made.dimension)), made.dimension),
            )
            x.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            for batch in stream:
                x.resize(rows + len(batch.vectors), axis=0)
                x[rows:] = batch.vectors
                rows += len(batch.vectors)
                tables.append(batch.table)
            table = pa.concat_tables(tables) if tables else schema.empty_table()
            _write_beside(made_file, make_anndata(None, table, _origin(made), made.dimension))
    return rows


def _refuse_pipe(file: BinaryIO, output: Path) -> None:
    if not file.seekable():
        raise UsageError(f"{output}: HDF5 is not written from its beginning to its end: give a file, no pipe")


def _write_beside(file: Any, found: Any) -> None:
    """All of an AnnData but X, into an open file of HDF5."""
    from anndata.io import write_elem

    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    for name in ("obs", "var", "uns", "obsm", "varm", "obsp", "varp", "layers"):
        value = getattr(found, name)
        write_elem(file, name, value if name in ("obs", "var") else dict(value))


def _origin(made: Embedding) -> dict[str, Any]:
    """Of what the vectors are, for uns."""
    names = ("model", "model_fingerprint", "fingerprint", "pooling", "layer", "on_long", "dimension")
    said = {name: getattr(made, name) for name in names}
    return {"raypipe": {"version": __version__, "embeddings": made.name, **said}}


_WRITERS: dict[str, Callable[[Path, Embedding, Iterator[Batch], pa.Schema], int]] = {
    "npy": _write_npy,
    "csv": _write_text("csv"),
    "tsv": _write_text("tsv"),
    "parquet": _write_parquet,
    "h5ad": _write_h5ad,
}
FORMATS = tuple(_WRITERS)
