"""The vector indexes that raypipe is compared with, each behind the same three calls.

Each is built with its own defaults, or as its documentation advises for a million vectors of unit length, and is tuned
by what it lets a caller choose for a search. `ladders` are rows of such choices of rising effort.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Point = dict[str, Any]
GRAPH = (12, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)
LEAVES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


class Contender(Protocol):
    """An index over unit vectors; shapes: n vectors, Q queries, D values, k neighbours."""

    ladders: list[list[Point]]

    def build(self, vectors: np.ndarray) -> None:
        """Index (n, D) float32; row numbers are the ids."""
        ...

    def search(self, queries: np.ndarray, k: int, point: Point) -> np.ndarray:
        """Ids (Q, k) int64 of the nearest; (Q, D) float32 queries."""
        ...


class FaissFlat:
    """Exact: FAISS's matrix products by BLAS, float32."""

    def __init__(self, threads: int, folder: Path) -> None:
        self.ladders: list[list[Point]] = [[{}]]
        self._faiss = importlib.import_module("faiss")
        self._faiss.omp_set_num_threads(threads)

    def build(self, vectors: np.ndarray) -> None:
        """See `Contender`."""
        self._index = self._faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def search(self, queries: np.ndarray, k: int, point: Point) -> np.ndarray:
        """See `Contender`."""
        return self._index.search(queries, k)[1]


class Hnswlib:
    """A graph over float32, M = 16 and ef_construction = 200, which are its defaults."""

    def __init__(self, threads: int, folder: Path) -> None:
        self.ladders: list[list[Point]] = [[{"ef": effort} for effort in GRAPH]]
        self._threads = threads

    def build(self, vectors: np.ndarray) -> None:
        """See `Contender`."""
        self._index = importlib.import_module("hnswlib").Index(space="l2", dim=vectors.shape[1])
        self._index.init_index(max_elements=len(vectors), M=16, ef_construction=200)
        self._index.set_num_threads(self._threads)
        self._index.add_items(vectors, np.arange(len(vectors)), num_threads=self._threads)

    def search(self, queries: np.ndarray, k: int, point: Point) -> np.ndarray:
        """See `Contender`."""
        self._index.set_ef(point["ef"])
        return self._index.knn_query(queries, k, num_threads=self._threads)[0].astype(np.int64)


class Usearch:
    """A graph over halffloats, connectivity 16 and expansion_add 128, which are its defaults."""

    def __init__(self, threads: int, folder: Path) -> None:
        self.ladders: list[list[Point]] = [[{"expansion": effort} for effort in (*GRAPH, 768, 1024)]]
        self._threads = threads

    def build(self, vectors: np.ndarray) -> None:
        """See `Contender`."""
        made = importlib.import_module("usearch.index").Index
        self._index = made(ndim=vectors.shape[1], metric="cos", dtype="f16", connectivity=16, expansion_add=128)
        self._index.add(np.arange(len(vectors)), vectors, threads=self._threads)

    def search(self, queries: np.ndarray, k: int, point: Point) -> np.ndarray:
        """See `Contender`."""
        self._index.expansion_search = point["expansion"]
        found = self._index.search(queries, k, threads=self._threads).keys
        return np.asarray(found, np.int64).reshape(len(queries), k)


class Scann:
    """A tree with SOAR, anisotropic hashing of two dimensions a block, and exact reordering by float32.

    Leaves as for our inverted lists: two for each square root of the rows.
    """

    def __init__(self, threads: int, folder: Path) -> None:
        self.ladders: list[list[Point]] = [
            [{"leaves": leaves, "reorder": reorder} for leaves in LEAVES] for reorder in (50, 100, 200)
        ]
        self._threads = threads

    def build(self, vectors: np.ndarray) -> None:
        """See `Contender`."""
        ops = importlib.import_module("scann").scann_ops_pybind
        leaves = round(2 * len(vectors) ** 0.5)
        self._index = (
            ops.builder(vectors, 10, "dot_product")
            .set_n_training_threads(self._threads)
            .tree(leaves, 32, training_sample_size=min(len(vectors), 250_000), soar_lambda=1.5)
            .score_ah(2, anisotropic_quantization_threshold=0.2)
            .reorder(200)
            .build()
        )
        self._index.set_num_threads(self._threads)

    def search(self, queries: np.ndarray, k: int, point: Point) -> np.ndarray:
        """See `Contender`."""
        effort = {
            "final_num_neighbors": k,
            "pre_reorder_num_neighbors": point["reorder"],
            "leaves_to_search": point["leaves"],
        }
        if len(queries) == 1:
            found, _ = self._index.search(queries[0], **effort)
            result = np.full((1, k), -1, np.int64)
            result[0, : len(found)] = found
            return result
        found, _ = self._index.search_batched_parallel(queries, **effort)
        return np.asarray(found, np.int64)


class Lancedb:
    """A table of halffloats on disk with IVF_RQ, its 1-bit codes, refined by the vectors. A batch is one call, which
    was faster than a call for each query on several threads; LANCE_CPU_THREADS bounds it."""

    def __init__(self, threads: int, folder: Path) -> None:
        self.ladders: list[list[Point]] = [
            [{"nprobes": probes, "refine": refine} for probes in (4, 8, 16, 32, 64, 128)] for refine in (2, 4, 8)
        ]
        self._folder = folder

    def build(self, vectors: np.ndarray) -> None:
        """See `Contender`."""
        pa: Any = importlib.import_module("pyarrow")
        dimension = vectors.shape[1]

        def batches():
            for start in range(0, len(vectors), 50_000):
                some = vectors[start : start + 50_000].astype(np.float16)
                column = pa.FixedSizeListArray.from_arrays(pa.array(some.ravel()), dimension)
                yield pa.record_batch([pa.array(np.arange(start, start + len(some))), column], schema=schema)

        schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float16(), dimension))])
        reader = pa.RecordBatchReader.from_batches(schema, batches())
        database = importlib.import_module("lancedb").connect(self._folder / "lancedb")
        self._table = database.create_table("vectors", reader, mode="overwrite")
        self._table.create_index(metric="l2", index_type="IVF_RQ", num_partitions=round(len(vectors) ** 0.5))

    def search(self, queries: np.ndarray, k: int, point: Point) -> np.ndarray:
        """See `Contender`."""
        asked = self._table.search(queries if len(queries) > 1 else queries[0]).limit(k).select(["id", "_distance"])
        found = asked.nprobes(point["nprobes"]).refine_factor(point["refine"]).to_arrow()
        result = np.full((len(queries), k), -1, np.int64)
        lines = found["query_index"].to_numpy() if len(queries) > 1 else np.zeros(len(found), np.int64)
        # Hits of one query stand together, the nearest first.
        places = np.arange(len(lines)) - np.searchsorted(lines, lines)
        result[lines, places] = found["id"].to_numpy()
        return result


FLAT = "faiss-flat"
PEERS: dict[str, Any] = {"hnswlib": Hnswlib, "usearch": Usearch, "scann": Scann, "lancedb": Lancedb}
CONTENDERS: dict[str, Any] = {FLAT: FaissFlat, **PEERS}
