"""Small real stores, written as ingest and embed would write them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.predictions import schema_of
from index.schema import RECORDS, REJECTS, SEQUENCES, embeddings_schema, with_footer
from index.sets import Prediction, Problem, Task
from index.store import Embedding, Source, Store, VectorDtype
from tests.made import on_disk, vector_set

DIMENSION = 16
AWKWARD = 'it\'s [a] "store"'


def add_source(store: Store, records: Sequence[tuple[str, str, str]], path: str = "input.fasta") -> None:
    """Commit records (id, description, sequence) as one ingested source; equal sequences become one."""
    ingest, start = len(store.sources), store.num_sequences
    distinct = {
        sequence: start + place for place, sequence in enumerate(dict.fromkeys(record[2] for record in records))
    }
    rows = [
        {"id": id_, "description": text, "source": path, "ordinal": place, "seq_id": distinct[sequence]}
        for place, (id_, text, sequence) in enumerate(records)
    ]
    sequences = [
        {"seq_id": seq_id, "md5": hashlib.md5(text.encode()).hexdigest(), "length": len(text), "sequence": text}
        for text, seq_id in distinct.items()
    ]
    for kind, schema, values in (
        ("sequences", SEQUENCES, sequences),
        ("records", RECORDS, rows),
        ("rejects", REJECTS, []),
    ):
        file = store.root / kind / f"part-{ingest:05d}-00000.parquet"
        file.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(values, schema=schema), file)
    digest = hashlib.sha256(repr((path, records)).encode()).hexdigest()
    store.add_source(Source(path, digest, ingest, len(records), 0, start, start + len(distinct)))


def embedding(
    name: str = "nano", fingerprint: str = "f" * 64, dtype: VectorDtype = "float32", dimension: int = DIMENSION
) -> Embedding:
    """A manifest entry."""
    return vector_set(
        name=name, fingerprint=fingerprint, model="nano", dtype=dtype, dimension=dimension, shard_tokens=1000
    )


def write_part(
    store: Store, made: Embedding, number: int, seq_ids: Sequence[int] | np.ndarray, vectors: np.ndarray
) -> Path:
    """One finished file of vectors (n, D)."""
    schema = embeddings_schema(made.dimension, made.dtype)
    values = pa.array(np.ascontiguousarray(vectors, dtype=made.dtype).ravel())
    column = pa.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type)
    table = pa.table([pa.array(seq_ids, pa.int64()), column], schema=schema)
    footer = {"fingerprint": made.fingerprint, "shard": number, "rows": len(seq_ids), "failed": 0}
    file = on_disk(store.root) / "embeddings" / made.name / f"part-{number:05d}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.cast(with_footer(schema, footer)), file, row_group_size=64)
    return file


def prediction(
    name: str = "rna_type",
    task: Task = "sequence",
    problem: Problem | None = "multiclass",
    labels: Sequence[str] = ("tRNA", "rRNA", "snRNA"),
    **options: Any,
) -> Prediction:
    """A manifest entry."""
    return Prediction(
        name=name,
        fingerprint=options.pop("fingerprint", "p" * 64),
        model="nano",
        model_path="nano",
        model_fingerprint="m" * 64,
        on_long="window",
        shard_tokens=1000,
        task=task,
        problem=problem,
        labels=list(labels),
        **options,
    )


def write_predictions(store: Store, made: Prediction, number: int, rows: Sequence[dict[str, Any]]) -> Path:
    """One finished file of predictions, its sequences in order and without gaps."""
    table = pa.Table.from_pylist(list(rows), schema=schema_of(made))
    seq_ids = [row["seq_id"] for row in rows]
    span = {"seq_lo": seq_ids[0], "seq_hi": seq_ids[-1] + 1} if rows else {"seq_lo": 0, "seq_hi": 0}
    footer = {"fingerprint": made.fingerprint, "shard": number, "rows": len(rows), "failed": 0, **span}
    file = on_disk(store.root) / "predictions" / made.name / f"part-{number:06d}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.cast(with_footer(table.schema, footer)), file)
    return file


def random_records(count: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Records with distinct sequences of 20 to 60 nucleotides."""
    generator = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made["".join(generator.choice(list("ACGU"), generator.integers(20, 61)))] = None
    return [(f"R{place:05d}", f"record {place}", sequence) for place, sequence in enumerate(made)]


class Builder:
    """What the fixtures hand out: the helpers above under one name."""

    add_source = staticmethod(add_source)
    embedding = staticmethod(embedding)
    write_part = staticmethod(write_part)
    prediction = staticmethod(prediction)
    write_predictions = staticmethod(write_predictions)
    random_records = staticmethod(random_records)
    dimension = DIMENSION

    def __init__(self, root: Path):
        self.root = root

    def store(self, records: Sequence[tuple[str, str, str]] | None = None, name: str = AWKWARD) -> Store:
        """A store with one source, or none if `records` is None."""
        store = Store.open_or_create(self.root / name)
        if records is not None:
            add_source(store, records)
        return store

    def embedded(self, vectors: np.ndarray, *, parts: int = 3, name: str = AWKWARD, **options: Any) -> Store:
        """A store of len(vectors) sequences whose vectors are given, in several parts."""
        store = self.store(random_records(len(vectors)), name)
        made = embedding(dimension=vectors.shape[1], **options)
        store.put_embedding(made)
        for number, seq_ids in enumerate(np.array_split(np.arange(len(vectors)), parts)):
            write_part(store, made, number, seq_ids, vectors[seq_ids])
        return store


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """Makes stores below the test's own folder."""
    return Builder(tmp_path)


@pytest.fixture(scope="module")
def module_builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Makes stores that all tests of a file share, and leave as they are."""
    return Builder(tmp_path_factory.mktemp("stores"))


@pytest.fixture
def vectors() -> np.ndarray:
    """(500, 16) float32, far from unit length."""
    return (5 * np.random.default_rng(1).standard_normal((500, DIMENSION))).astype(np.float32)


@pytest.fixture
def cosines() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The truth by NumPy in float64: queries (Q, D), vectors (n, D) to (Q, n)."""

    def compute(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        queries, vectors = queries.astype(np.float64), vectors.astype(np.float64)
        norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)[None]
        return queries @ vectors.T / norms

    return compute
