"""An atlas around given vectors, as `raypipe ingest` and `raypipe embed` leave it: what our side of a search benchmark
builds its index from."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from index.info import FEW
from index.schema import embeddings_schema
from index.sets import Embedding
from index.store import Store
from raypipe.actors import NUMBERS
from raypipe.plan import Shard
from raypipe.shard_files import write_part

RAYPIPE = [str(Path(sys.executable).with_name("raypipe"))]
ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
LENGTH = 24
PART_ROWS = 50_000
LETTERS = np.frombuffer(b"ACGU", np.uint8)


def make(
    folder: Path, vectors: Path, rows: int, embedding: Embedding | None = None, name: bytes = b"made%09d"
) -> Store:
    """A new atlas of `rows` made sequences of LENGTH nucleotides; the vector of seq_id i is row i of a .npy file.

    Args:
        embedding: what the vectors are said to be; by default of a model that nobody has.
        name: of a record, by its number.
    """
    fasta = folder.with_suffix(".fasta")
    fasta.parent.mkdir(parents=True, exist_ok=True)
    with fasta.open("wb") as file:
        for start in range(0, rows, PART_ROWS):
            numbers = np.arange(start, min(rows, start + PART_ROWS))
            # The number written in four letters: all sequences differ.
            letters = LETTERS[(numbers[:, None] >> (2 * np.arange(LENGTH))[::-1]) & 3]
            pairs = zip(numbers.tolist(), map(bytes, letters), strict=True)
            file.writelines(b">" + name % number + b"\n" + text + b"\n" for number, text in pairs)
    subprocess.run(
        [*RAYPIPE, "ingest", str(fasta), "-o", str(folder)], check=True, env=ENVIRONMENT, capture_output=True
    )
    fasta.unlink()
    store = Store.open(folder)
    stored = np.load(vectors, mmap_mode="r")
    dimension = stored.shape[1]
    with store.lock():
        made = embedding or _embedding(dimension)
        store.put_embedding(made)
        schema = embeddings_schema(dimension, made.dtype)
        for number, start in enumerate(range(0, rows, PART_ROWS)):
            end = min(rows, start + PART_ROWS)
            shard = Shard(number, start, end, (LENGTH + 2) * (end - start))
            values = pa.array(np.ascontiguousarray(stored[start:end]).ravel())
            column = pa.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type)
            table = pa.table([pa.array(np.arange(start, end)), column], schema=schema)
            write_part(store, made, shard, made.main, table, 0, **NUMBERS)
    return store


def _embedding(dimension: int) -> Embedding:
    """The entry of vectors that no model has made."""
    fingerprint = hashlib.sha256(f"made {dimension}".encode()).hexdigest()
    return Embedding(
        name="made",
        fingerprint=fingerprint,
        model="made",
        model_path="made",
        model_fingerprint=fingerprint,
        dimension=dimension,
        dtype="float16",
        pooling="mean",
        layer=1,
        on_long="window",
        per_token=False,
        shard_tokens=(LENGTH + 2) * PART_ROWS,
    )


def twin(atlas: Path, folder: Path) -> Path:
    """The same atlas without an index under another name, its files not copied: another index can be built there."""
    shutil.copytree(atlas, folder, copy_function=_link, ignore=shutil.ignore_patterns("index", ".*"))
    return folder


def _link(source: str, target: str) -> None:
    if Path(source).name == "store.json":
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copy2(source, target)


def resolve(kind: str, rows: int) -> str:
    """The type of index for so many rows: "ivf" is the default approximate one, by its rule for lists."""
    if kind != "ivf":
        return kind
    return f"IVF{2 ** round(math.log2(FEW * math.sqrt(rows)))},RaBitQ,Refine(SQfp16)"
