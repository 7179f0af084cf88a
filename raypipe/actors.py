"""The actor: loads the model once, then turns shards into files.

It runs as a Ray Data actor or in this process (`--executor inline`), the same code. All it returns is a receipt; what
counts is the file that it renamed into place.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from index import files
from index.errors import StoreError
from index.schema import REJECTS, VECTOR_TYPES, embeddings_schema, tokens_schema, vector_type, with_footer
from index.store import Embedding, Store
from model.errors import ModelError
from raypipe.errors import RaypipeError, disk_error
from raypipe.plan import Shard, shard_footer

# Vectors of halves are noise to a codec and an index column of random floats to a dictionary: neither pays.
PARQUET = {
    "compression": "none",
    "use_dictionary": False,
    "write_statistics": ["seq_id"],
    "row_group_size": 8192,
}


@dataclass(frozen=True)
class EmbedJob:
    """All that an actor has to know; small, and the same for every shard.

    Attributes:
        device: "cpu" or "cuda".
        threads: of one actor on CPU.
    """

    root: str
    embedding: Embedding
    compute_dtype: str
    device: str
    threads: int
    max_tokens: int | None


@dataclass(frozen=True)
class Receipt:
    """What an actor says of one shard.

    Attributes:
        rows, failed: sequences embedded, and refused into rejects/.
        error: why there is no file, or "".
        fatal: whether every other shard would fail alike (a full disk), so that the run should stop.
    """

    shard: int
    rows: int
    failed: int
    tokens: int
    seconds: float
    bytes: int
    host: str
    pid: int
    error: str = ""
    fatal: bool = False


class EmbedShards:
    """Ray Data actor class: `__call__` takes a batch of one shard and gives a batch of one receipt."""

    def __init__(self, job: EmbedJob):
        self.job = job
        self._ready = False

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        shard = Shard(*(int(batch[name][0]) for name in ("number", "seq_lo", "seq_hi", "tokens")))
        receipt = asdict(self.run(shard))
        return {name: np.array([value]) for name, value in receipt.items()}

    def run(self, shard: Shard) -> Receipt:
        """Embed one shard and commit its file. Errors of the data, the disk or the model come back in the receipt."""
        begin = time.perf_counter()
        rows = failed = size = 0
        error, fatal = "", False
        try:
            self._prepare()
            rows, failed, size = self._embed(shard)
        except OSError as problem:
            error = str(disk_error(Path(self.job.root), problem))
            disk = problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
            fatal = disk or not self._ready
        except Exception as problem:
            # Whatever it is, it must not take the other shards with it; the run reports it and ends as incomplete.
            ours = isinstance(problem, (ModelError, StoreError, RaypipeError))
            error = str(problem) if ours else f"{type(problem).__name__}: {problem}"
            if not self._ready:
                fatal = True
                error += "; mend that and run the same command again: it goes on where it stopped"
        seconds = time.perf_counter() - begin
        host, pid = socket.gethostname(), os.getpid()
        return Receipt(shard.number, rows, failed, shard.tokens, seconds, size, host, pid, error, fatal)

    def _prepare(self) -> None:
        """Open the store and load the model, for the first shard.

        Not in `__init__`: what goes wrong there reaches the user as Ray's traceback of tracebacks, and a process that
        dies there is started again and again; here it is a failed shard like any other.
        """
        if self._ready:
            return
        import torch

        from model import load

        job = self.job
        if job.device == "cpu":
            torch.set_num_threads(job.threads)
        self.store = Store.open(job.root)
        self.model = load(job.embedding.model_path, device=job.device, dtype=job.compute_dtype)
        if self.model.fingerprint != job.embedding.model_fingerprint:
            raise RaypipeError(
                f"{job.embedding.model_path} holds another model than when and where the run was started; give every "
                f"machine the same files, and leave them alone while it runs"
            )
        self._ready = True

    def _embed(self, shard: Shard) -> tuple[int, int, int]:
        embedding = self.job.embedding
        ids, sequences = read_sequences(self.store, shard)
        reasons: dict[int, str] = {}
        if embedding.on_long == "reject":
            context = self.model.config.context
            reasons = {
                row: f"{len(sequence)} nt, longer than the model's {context}; see --on-long"
                for row, sequence in enumerate(sequences)
                if len(sequence) > context
            }
        vectors, tokens = self._forward(sequences, reasons)
        keep = np.array([row not in reasons for row in range(len(ids))], dtype=bool)
        footer = shard_footer(embedding, shard, int(keep.sum()), len(reasons))
        self._write_rejects(shard, ids, reasons)
        seq_ids = pa.array(ids[keep], pa.int64())
        size = 0
        if embedding.per_token:
            schema = tokens_schema(embedding.dimension, embedding.dtype)
            values = _token_array([values for values in tokens if values is not None], embedding)
            size += self._write("tokens", shard, pa.table([seq_ids, values], schema=with_footer(schema, footer)))
        schema = embeddings_schema(embedding.dimension, embedding.dtype)
        column = _vector_array(vectors[keep], embedding)
        size += self._write("embeddings", shard, pa.table([seq_ids, column], schema=with_footer(schema, footer)))
        return int(keep.sum()), len(reasons), size

    def _forward(self, sequences: list[str], reasons: dict[int, str]) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """Vectors (N, D), and per-nucleotide values where asked for; rows in `reasons` are left empty.

        A sequence that the model refuses, or whose vector does not fit the stored type, is added to `reasons`.
        """
        embedding = self.job.embedding
        vectors = np.zeros((len(sequences), embedding.dimension), np.float32)
        tokens: list[np.ndarray | None] = [None] * len(sequences)

        def run(rows: list[int]) -> None:
            if not rows:
                return
            features = self.model.features(
                [sequences[row] for row in rows],
                pooling=embedding.pooling,
                layer=embedding.layer,
                per_token=embedding.per_token,
                long="truncate" if embedding.on_long == "truncate" else "window",
                max_tokens=self.job.max_tokens,
            )
            vectors[rows] = features.embeddings
            if features.tokens is not None:
                for row, values in zip(rows, features.tokens, strict=True):
                    tokens[row] = values

        wanted = [row for row in range(len(sequences)) if row not in reasons]
        try:
            run(wanted)
        except ModelError:
            # One by one, so that the sequence that the model refuses does not take its shard with it.
            for row in wanted:
                try:
                    run([row])
                except ModelError as problem:
                    reasons[row] = str(problem)
        limit = np.finfo(embedding.dtype).max
        for row in wanted:
            values = [vectors[row]] if tokens[row] is None else [vectors[row], tokens[row]]
            # Written so that NaN fails too.
            if not all((np.abs(value) <= limit).all() for value in values):
                reasons[row] = f"its values do not fit {embedding.dtype} (beyond {limit:.3g}, or not finite)"
                tokens[row] = None
        return vectors, tokens

    def _write(self, kind: str, shard: Shard, table: pa.Table) -> int:
        final = self.store.root / kind / self.job.embedding.name / shard.file_name
        files.write_parquet(final, table, self.store.root, **PARQUET)
        return final.stat().st_size

    def _write_rejects(self, shard: Shard, ids: np.ndarray, reasons: dict[int, str]) -> None:
        """Before the shard's own file, so that a finished shard's failures are never missing."""
        name = self.job.embedding.name
        final = self.store.root / "rejects" / shard.rejects_name(self.job.embedding)
        if not reasons:
            final.unlink(missing_ok=True)
            return
        rows = [
            {
                "source": f"embeddings/{name}",
                "line": None,
                "id": None,
                "seq_id": int(ids[row]),
                "reason": reason,
            }
            for row, reason in sorted(reasons.items())
        ]
        files.write_parquet(final, pa.Table.from_pylist(rows, schema=REJECTS), self.store.root)


def read_sequences(store: Store, shard: Shard) -> tuple[np.ndarray, list[str]]:
    """seq_ids (N,) int64 and sequences of a shard, in order; row groups outside its range are not unpacked."""
    # Here, not above: with pandas installed its import costs every command a quarter of a second.
    import pyarrow.dataset as ds

    field = ds.field("seq_id")
    rows = ds.dataset([str(part) for part in store.parts("sequences")]).to_table(
        columns=["seq_id", "sequence"], filter=(field >= shard.seq_lo) & (field < shard.seq_hi)
    )
    rows = rows.sort_by("seq_id")
    if rows.num_rows != shard.num_sequences:
        raise RaypipeError(
            f"sequences {shard.seq_lo} to {shard.seq_hi - 1}: {rows.num_rows} found where {shard.num_sequences} were "
            f"ingested; a file in {store.root / 'sequences'} is missing or changed"
        )
    return rows["seq_id"].to_numpy(), rows["sequence"].to_pylist()


def _vector_array(vectors: np.ndarray, embedding: Embedding) -> pa.Array:
    flat = pa.array(vectors.astype(embedding.dtype).reshape(-1), VECTOR_TYPES[embedding.dtype])
    return pa.FixedSizeListArray.from_arrays(flat, type=vector_type(embedding.dimension, embedding.dtype))


def _token_array(values: list[np.ndarray], embedding: Embedding) -> pa.Array:
    """(L, D) arrays as one list column, one row of D per nucleotide."""
    offsets = np.cumsum([0, *(len(value) for value in values)])
    stacked = np.concatenate(values) if values else np.zeros((0, embedding.dimension), np.float32)
    type_ = tokens_schema(embedding.dimension, embedding.dtype).field("values").type
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), _vector_array(stacked, embedding), type=type_)
