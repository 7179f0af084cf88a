"""The atlas that the benchmark of the server asks: made vectors that pass for those of `nano`, IVF, annotations.

So queries by sequence are embedded by the real model; what they find means nothing.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from index.build import build_index
from index.sets import Embedding
from index.store import Store
from raypipe.nearest import TorchNearest
from tests.benchmarks import search_atlas, search_set
from tests.benchmarks.search_atlas import ENVIRONMENT, LENGTH, PART_ROWS, RAYPIPE

DIMENSION = 512
TYPES = ("tRNA", "rRNA", "miRNA", "snoRNA", "lncRNA")


def make(folder: Path, rows: int, queries: int, seed: int) -> Path:
    """An atlas of `rows` sequences below `folder`, indexed and annotated; queries.npy (queries, D) lies beside it."""
    atlas = folder / "atlas"
    search_set.write(folder, rows, queries, DIMENSION, seed)
    store = search_atlas.make(atlas, folder / "vectors.npy", rows, _nano())
    with store.lock():
        build_index(store, kind=search_atlas.resolve("ivf", rows), nearest=TorchNearest("cpu"))
    table = folder / "annotations.tsv"
    dice = np.random.default_rng(seed)
    kinds, taxa = dice.integers(len(TYPES), size=rows), dice.integers(1, 1_000_000, size=rows)
    with table.open("w") as file:
        file.write("id\trna_type\ttaxid\n")
        file.writelines(
            f"made{number:09d}\t{TYPES[kind]}\t{taxon}\n"
            for number, (kind, taxon) in enumerate(zip(kinds, taxa, strict=True))
        )
    verb = ["annotate", str(atlas), f"notes={table}"]
    subprocess.run([*RAYPIPE, *verb], check=True, env=ENVIRONMENT, capture_output=True)
    return atlas


def record(number: int) -> str:
    """The id of a record."""
    return f"made{number:09d}"


def _nano() -> Embedding:
    """What a store says of vectors that nano made."""
    with tempfile.TemporaryDirectory() as home:
        atlas = Path(home) / "atlas"
        verb = ["embed", "GGUCUCU", "-o", str(atlas), "--executor", "inline"]
        subprocess.run([*RAYPIPE, *verb], check=True, env=ENVIRONMENT, capture_output=True)
        return replace(Store.open(atlas).embedding(), shard_tokens=(LENGTH + 2) * PART_ROWS)
