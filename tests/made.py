"""What no model has made: descriptions of sets for the tests of those who read and write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from index.places import Place
from index.sets import Embedding, ShardedSet
from index.store import Store
from raypipe.plan import Shard
from raypipe.shard_files import finished

EMBEDDING = Embedding(
    name="e",
    fingerprint="f" * 64,
    model="m",
    model_path="m",
    model_fingerprint="m" * 64,
    dimension=2,
    dtype="float32",
    pooling="mean",
    layer=1,
    on_long="window",
    per_token=False,
    shard_tokens=3,
)


def vector_set(**changes: Any) -> Embedding:
    """A set of vectors of two numbers, but for `changes`."""
    return replace(EMBEDDING, **changes)


def on_disk(where: Place) -> Path:
    """A place that is on a disk, as those of all stores in the tests' own folders are."""
    assert isinstance(where, Path)
    return where


def unfinished(store: Store, made: ShardedSet, shards: Sequence[Shard]) -> list[Shard]:
    """Those of `shards` that a run would make."""
    found = finished(store, made, shards)
    return [shard for shard in shards if shard.number not in found]


def index_file(root: Any, name: str) -> Any:
    """A file of the live index of the atlas at `root`: the version's own, or that of its first segment."""
    folder = root / "index"
    version = folder / (folder / "CURRENT").read_text().strip()
    segments = json.loads((version / "index.json").read_text())["segments"]
    return version / name if (version / name).exists() else folder / "segments" / segments[0]["name"] / name
