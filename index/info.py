"""index.json: what an index is, what it was built from, and whether its files are whole."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from index import copies, versions
from index.errors import StoreError
from index.places import Place, open_stream, transport_errors
from index.store import Store

INDEX = "index"
INFO = "index.json"
VECTORS = "vectors.faiss"
REFINEMENT = "refinement.faiss"
AXES = "axes.npy"
LEADING = "leading.npy"
ROWS = "rows.npy"
CATALOG = "catalog.arrow"
IDS = "ids.arrow"
OLD_CATALOG = "catalog.parquet"
TRANSFORM = "transform.npz"
SEGMENTS = "segments"
TRAINED = "trained"
FLAT = "Flat"
HASHED_AT_OPEN = 256 << 20  # of all files of an index together
EXHAUSTIVE_BELOW, GRAPH_FROM = 300_000, 4_000_000
FEW, MANY = 2.2, 4.0
TARGET = 0.99
"""Recall@10 that an approximate type has to reach, unless another is asked for."""


@dataclass(frozen=True)
class Segment:
    """A part of an index that never changes: the vectors of some files, as FAISS holds them, and their seq_ids.

    Attributes:
        name: of its folder below `index/segments/`, made of what it was built from.
        rows: vectors in it, in the order of `parts`.
        parts: the Parquet files of vectors, each with name, rows, bytes and digest of the footer.
        checksums: bytes and sha256 of its files.
    """

    name: str
    rows: int
    parts: list[dict[str, Any]]
    checksums: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class IndexInfo:
    """One published index.

    Attributes:
        version: name of its folder below `index/`.
        type: "Flat" (exact) or a FAISS factory string.
        metric: what FAISS computes on unit vectors: "inner_product", or "l2" with cosine = 1 - distance**2 / 2.
        dimension: values per indexed vector, that is, once it is transformed.
        embeddings: name of the set of vectors; `fingerprint` is that set's.
        rows: vectors in the index; `sequences` in the store when it was built (failed sequences leave a gap).
        sources: what the store had ingested when it was built, by sha256.
        created: UTC, ISO 8601.
        trained: what all segments share: "name" of its folder below `index/trained/`, and "checksums" of its files.
        segments: in the order of their rows.
        checksums: bytes and sha256 of each file of the version itself.
        operating: for approximate types, see `index.operating`: the recall@10 that was the "target", the effort that
            reaches it ("nprobe" or "ef_search", and "k_factor" where coarse codes are refined), the "recall_at_10"
            that it has against exact search with its standard "error", the size of the "sample" that it was measured
            with, and all "points" measured.
        transform: the space of the scores: "kind" (none, center, whiten, whiten:DIM, pca:DIM), what was "asked", the
            "reason", "dimension" of a vector as stored, "sha256" of the map (two indexes with the same one give scores
            that can be compared), and how it was learned.
        learned_rows: vectors that there were when transform and lists were learned; further ones were added since.
        unchanged: whether `build_index` found this index already built (not stored).
    """

    version: str
    type: str
    metric: str
    dimension: int
    embeddings: str
    fingerprint: str
    rows: int
    sequences: int
    sources: list[str]
    created: str
    trained: dict[str, Any] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    checksums: dict[str, dict[str, Any]] = field(default_factory=dict)
    operating: dict[str, Any] = field(default_factory=dict)
    transform: dict[str, Any] = field(default_factory=dict)
    learned_rows: int = 0
    unchanged: bool = False

    @property
    def added_rows(self) -> int:
        """Vectors that were added to what was learned."""
        return max(0, self.rows - self.learned_rows)

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The files of vectors that it was built from, in the order of rows."""
        return [part for segment in self.segments for part in segment.parts]

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Every file of this index with its checksum, by its path below `index/`."""
        folders = {
            self.version: self.checksums,
            f"{TRAINED}/{self.trained['name']}": self.trained["checksums"],
            **{f"{SEGMENTS}/{segment.name}": segment.checksums for segment in self.segments},
        }
        return {f"{folder}/{name}": known for folder, held in folders.items() for name, known in held.items()}

    @cached_property
    def reread(self) -> set[str]:
        """Files whose content is compared whenever the index is opened: the smaller ones, HASHED_AT_OPEN in all."""
        found, total = set(), 0
        for path, known in sorted(self.files.items(), key=lambda item: item[1]["bytes"]):
            total += known["bytes"]
            if total > HASHED_AT_OPEN:
                break
            found.add(path)
        return found

    @property
    def space(self) -> str:
        """The transform and its reason, in words."""
        kind = self.transform["kind"]
        words = "not transformed" if kind == "none" else f"transform {kind}"
        return f"{words} ({self.transform['reason']})"

    def to_json(self) -> dict[str, Any]:
        """What index.json holds."""
        value = asdict(self)
        del value["unchanged"]
        return value


def index_folder(store: Store) -> Place:
    """The folder of all versions."""
    return store.root / INDEX


def held_file(store: Store, info: IndexInfo, path: str) -> Path:
    """A file of an index as it can be mapped: where it stands, or a copy of it on this machine.

    Args:
        path: below `index/`.

    Raises:
        StoreError: it is missing, cannot be copied, or is not what index.json says.
    """
    mend = f"build the index again: {rebuild(store, info)}"
    known = info.files.get(path)
    if known is None:
        raise StoreError(f"{index_folder(store) / info.version / INFO}: damaged, it does not name {path}; {mend}")
    return local_file(store, path, known, mend, reread=path in info.reread)


def local_file(store: Store, path: str, known: dict[str, Any], mend: str, *, reread: bool = True) -> Path:
    """As `held_file`, of an index that need not be published.

    Args:
        known: bytes and sha256 of the file.
        mend: what to do where it is damaged, for the message.
        reread: whether to compare the content of a copy that is there already, not its size alone.
    """
    folder, _, name = path.rpartition("/")
    try:
        return copies.fetch(store.root, INDEX, folder, name, mend=mend, sha256=known["sha256"], reread=reread)
    except FileNotFoundError as error:
        raise StoreError(f"{index_folder(store) / path}: missing; {mend}") from error


def current_info(store: Store) -> IndexInfo | None:
    """The live index's description, or None where nothing is built yet.

    Raises:
        StoreError: CURRENT or index.json is damaged or missing.
    """
    version = versions.current(index_folder(store))
    return None if version is None else read_info(store, version)


def read_info(store: Store, version: str) -> IndexInfo:
    """The description of one version.

    Raises:
        StoreError: index.json is damaged or missing, or was written before indexes had segments.
    """
    file = index_folder(store) / version / INFO
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        if "built_from" in held and "segments" not in held:
            raise StoreError(f"{file}: of an older raypipe; build the index again: {rebuild(store)}")
        return IndexInfo(**{**held, "segments": [Segment(**segment) for segment in held["segments"]]})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{file}: damaged index ({error}); build it again: {rebuild(store)}") from error


def choose_type(num_rows: int) -> str:
    """The type that "auto" takes: exact below 300,000 rows, above inverted lists of 1-bit codes, refined by halffloats.

    The number of lists is a power of two, near MANY * sqrt(rows) from GRAPH_FROM rows on, where a graph over the lists
    leads to them, and near FEW * sqrt(rows) below: there each query is compared with the centroids of all, which for so
    many lists as elsewhere would take longer than what is saved in them.
    """
    if num_rows < EXHAUSTIVE_BELOW:
        return FLAT
    graph = num_rows >= GRAPH_FROM
    lists = 2 ** round(math.log2((MANY if graph else FEW) * math.sqrt(num_rows)))
    return f"IVF{lists}{'_HNSW32' if graph else ''},RaBitQ,Refine(SQfp16)"


def usual_transform(kind: str) -> str:
    """The transform of a type that is asked for by `kind`, where none is named: the scores of "flat" are plain cosines,
    for all others, and where the type is chosen by size, "auto" chooses by what finds most."""
    return "none" if kind.lower() == FLAT.lower() else "auto"


def rebuild(store: Store, info: IndexInfo | None = None) -> str:
    """The command that builds the index of `store` anew.

    Args:
        info: the index that there is: its type and transform are kept, where they are not what "auto" gave.
    """
    options: list[str] = []
    if info is not None:
        asked = info.transform.get("asked", "none")
        kind = "auto" if info.type == choose_type(info.rows) else info.type
        options += [] if kind == "auto" else ["--type", kind]
        options += [] if asked == usual_transform(kind) else ["--transform", asked]
        target = info.operating.get("target", TARGET)
        options += [] if target == TARGET else ["--recall", f"{target:g}"]
    return " ".join(["raypipe index", str(store.root), *map(shlex.quote, options)])


def checksum(file: Place) -> dict[str, Any]:
    """Bytes and sha256 of `file`."""
    with transport_errors(file), open_stream(file) as stream:
        digest = hashlib.file_digest(cast(Any, stream), "sha256")
        return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def verify_files(store: Store, info: IndexInfo, *, thorough: bool = False) -> None:
    """Compare the files of an index with what index.json says of them.

    Sizes are always compared; contents of the smaller files too, see `IndexInfo.reread`, of the others only if
    `thorough`, since opening an index shall not read it whole.

    Raises:
        StoreError: a file is missing, truncated or altered.
    """
    command = rebuild(store, info)
    for path, expected in info.files.items():
        file = index_folder(store) / path
        if not file.is_file():
            raise StoreError(f"{file}: missing; build the index again: {command}")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise StoreError(
                f"{file}: damaged, {size} bytes instead of {expected['bytes']}; build the index again: {command}"
            )
        if (thorough or path in info.reread) and checksum(file)["sha256"] != expected["sha256"]:
            # Anew: a file that is too large to be read whenever the index is opened would be taken as it is.
            raise StoreError(f"{file}: damaged, its checksum differs; build the index again: {command} --anew")
