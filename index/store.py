"""The store: one folder that holds an atlas, and `store.json`, the manifest of what is in it.

The folder is on a disk, or in an object store (see `index/places.py`).

    atlas/
      store.json                   this manifest: format, ingested sources, embeddings, predictions, with fingerprints
      sequences/part-*.parquet     distinct sequences (schema.SEQUENCES), seq_id dense and stable, by length per ingest
      records/part-*.parquet       records as given (schema.RECORDS): many may share one sequence
      rejects/part-*.parquet       what was refused, and why (schema.REJECTS)
      removed/part-*.parquet       records that were taken out again (index.removals)
      embeddings/<name>/part-*     one vector per sequence; plan.parquet beside them lists the shards,
                                   receipts.jsonl what was written of each (index/receipts.py)
      tokens/<name>/part-*         one vector per nucleotide
      predictions/<name>/part-*    one row per sequence (schema.predictions_schema); plan.parquet as above
      index/<version>/             what an index is made of, and its catalogue; CURRENT names the live one
      index/segments/, trained/    the vectors as FAISS holds them, and what all segments share; they never change
      neighbors/part-*.parquet     the nearest neighbours of every sequence (schema.NEIGHBORS); graph.json says of which
                                   index, and how many (index/graph.py)
      annotations/<version>.duckdb immutable annotation tables; CURRENT names the live one
      annotations/<version>/       the first row of every sequence of each table, mapped (index/annotation_rows.py)

A file counts only when the manifest (or CURRENT) names it, or its own footer fits: a kill leaves no half truth.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from index import files
from index.errors import StoreError
from index.lock import writer_lock
from index.places import Place, RemotePath, absence, place
from index.schema import FORMAT_VERSION
from index.sets import Embedding, OnLong, Pooling, Prediction, ShardedSet, VectorDtype

__all__ = ["Embedding", "OnLong", "Pooling", "Prediction", "ShardedSet", "Source", "Store", "VectorDtype", "is_store"]

MANIFEST = "store.json"
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """One ingested input, known by the hash of its content.

    Attributes:
        path: as the user gave it ("-" for standard input).
        sha256: of the bytes as stored (compressed if the file is).
        ingest: number of the commit; the part files of `sequences/`, `records/` and `rejects/` carry it.
        records, rejected: read from the source; `records` counts the accepted ones.
        seq_lo, seq_hi: the seq_ids that this source added, half open.
    """

    path: str
    sha256: str
    ingest: int
    records: int
    rejected: int
    seq_lo: int
    seq_hi: int


class Store:
    """A store opened for reading; writers hold `lock()` while they change it."""

    def __init__(self, root: Place, manifest: dict[str, Any]):
        self.root = root
        self._manifest = manifest
        self._kept: tuple[dict[str, Any], dict[Any, Any]] = manifest, {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": ({}, {})}

    @classmethod
    def open(cls, path: str | os.PathLike[str] | RemotePath) -> Store:
        """Open an existing store.

        Args:
            path: a folder, or the URI of one, such as s3://bucket/atlas.

        Raises:
            StoreError: there is none at `path`, it is damaged, a newer raypipe wrote it, or nobody answers there.
        """
        root = place(path)
        file = root / MANIFEST
        if not file.is_file():
            what = absence(root) if not root.exists() else f"holds no {MANIFEST}"
            raise StoreError(f"{root}: not an atlas ({what}); make one with: raypipe ingest INPUT -o {path}")
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            version = int(manifest["format"])
            if version == FORMAT_VERSION:
                store = cls(root, manifest)
                # Read once, so that whatever is wrong in them is said here and now.
                _ = (store.sources, store.embeddings, store.predictions, store.removals)
                return store
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{file}: damaged manifest ({error}); restore it from a copy or ingest anew") from error
        raise StoreError(f"{file}: store format {version}; this raypipe reads {FORMAT_VERSION}: use a matching one")

    @classmethod
    def open_or_create(cls, path: str | os.PathLike[str] | RemotePath) -> Store:
        """Open the store at `path`, or make an empty one where nothing (or an empty folder) stands.

        Raises:
            StoreError: a file or a folder with other content stands there, or it cannot be written.
        """
        root = place(path)
        if is_store(root):
            return cls.open(root)
        if root.exists() and not root.is_dir():
            raise StoreError(f"{root}: is a file, so no atlas can be written there; name a folder with -o")
        try:
            root.mkdir(parents=True, exist_ok=True)
            foreign = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
            if foreign and not is_store(root):
                raise StoreError(f"{root}: not an atlas, and not empty (holds {foreign[0]}); name a new folder with -o")
            with writer_lock(root):
                # Another process may have made it, and written to it, since we looked.
                if not is_store(root):
                    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                    manifest = {"format": FORMAT_VERSION, "created": created, "sources": [], "embeddings": {}}
                    files.write_json(root / MANIFEST, manifest, root)
        except OSError as error:
            why = error.strerror or error
            raise StoreError(f"{root}: cannot write there ({why}); choose another folder with -o") from error
        return cls.open(root)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one writer: takes the lock, reads the manifest afresh and sweeps leftovers of killed writers.

        In an object store there is no lock: that nobody else writes meanwhile is for the user to see to.
        """
        with writer_lock(self.root):
            self._manifest = Store.open(self.root)._manifest
            files.sweep(self.root)
            yield

    def kept(self, make: Callable[[Store], T]) -> T:
        """What `make` says of this store; it is asked once, and again when the manifest is another one."""
        manifest, made = self._kept
        if manifest is not self._manifest:
            manifest, made = self._kept = self._manifest, {}
        if make not in made:
            made[make] = make(self)
        return made[make]

    @property
    def sources(self) -> list[Source]:
        """Ingested inputs in order."""
        return [Source(**source) for source in self._manifest["sources"]]

    @property
    def num_sequences(self) -> int:
        """Distinct sequences; their seq_ids are 0 to this number less one."""
        return max((source.seq_hi for source in self.sources), default=0)

    @property
    def num_records(self) -> int:
        """Accepted records of all sources, those that were removed since among them."""
        return sum(source.records for source in self.sources)

    @property
    def embeddings(self) -> dict[str, Embedding]:
        """Sets of vectors by name; the first made is the default."""
        return {name: Embedding(name=name, **value) for name, value in self._manifest["embeddings"].items()}

    @property
    def predictions(self) -> dict[str, Prediction]:
        """Sets of predictions by name, in the order in which they were begun; none in stores of before they were."""
        return {name: Prediction(name=name, **value) for name, value in self._manifest.get("predictions", {}).items()}

    def embedding(self, name: str | None = None) -> Embedding:
        """The set called `name`, or the only (else the first) one.

        Raises:
            StoreError: there is none of that name, or none at all.
        """
        known = self.embeddings
        if not known:
            raise StoreError(f"{self.root}: nothing is embedded yet; run: raypipe embed {self.root}")
        if name is None:
            return next(iter(known.values()))
        if name not in known:
            raise StoreError(f"{self.root}: no embeddings called {name!r}; there are: {', '.join(known)}")
        return known[name]

    def prediction(self, name: str) -> Prediction:
        """The set of predictions called `name`.

        Raises:
            StoreError: there is none of that name.
        """
        known = self.predictions
        if name not in known:
            listed = f"there are: {', '.join(known)}" if known else f"make some with: raypipe predict {self.root}"
            raise StoreError(f"{self.root}: no predictions called {name!r}; {listed}")
        return known[name]

    @property
    def removals(self) -> dict[str, int]:
        """Files of tombstones in `removed/` with their numbers of records, in the order in which they were removed."""
        return dict(self._manifest.get("removals", {}))

    @property
    def num_removed(self) -> int:
        """Records that were removed; see `index.removals`."""
        return sum(self.removals.values())

    def add_removal(self, name: str, records: int) -> None:
        """Commit a file of tombstones, which must already stand. Call under `lock()`."""
        self._save({**self._manifest, "removals": {**self.removals, name: records}})

    def add_source(self, source: Source) -> None:
        """Commit one ingested input; its part files must already stand. Call under `lock()`."""
        self._save({**self._manifest, "sources": [*self._manifest["sources"], asdict(source)]})

    def put_embedding(self, embedding: Embedding) -> None:
        """Add or replace the manifest's entry of one set of vectors. Call under `lock()`."""
        self._put(embedding)

    def put_prediction(self, prediction: Prediction) -> None:
        """Add or replace the manifest's entry of one set of predictions. Call under `lock()`."""
        self._put(prediction)

    def parts(self, kind: str) -> list[Place]:
        """Part files of "sequences", "records" or "rejects" that belong to committed sources, in order.

        Rejects of embedding and prediction runs (`part-embed-*`, `part-predict-*`) are included.
        """
        committed = {f"{source.ingest:05d}" for source in self.sources}
        found = sorted((self.root / kind).glob("part-*.parquet"))
        return [path for path in found if path.name.split("-")[1] in committed | {"embed", "predict"}]

    def set_parts(self, made: ShardedSet, folder: str | None = None) -> list[Place]:
        """Finished shard files of one set in `folder` (its main one if None), in order."""
        return sorted((self.root / (folder or made.main) / made.name).glob("part-*.parquet"))

    def _put(self, made: ShardedSet) -> None:
        value = asdict(made)
        name = value.pop("name")
        self._save({**self._manifest, made.main: {**self._manifest.get(made.main, {}), name: value}})

    def _save(self, manifest: dict[str, Any]) -> None:
        files.write_json(self.root / MANIFEST, manifest, self.root)
        self._manifest = manifest


def is_store(path: str | os.PathLike[str] | RemotePath) -> bool:
    """Whether `path` is a folder with a manifest, or the URI of one."""
    return (place(path) / MANIFEST).is_file()
