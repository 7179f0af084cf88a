"""The graph of nearest neighbours of an atlas, as it stands in `neighbors/`; `index/graph_build.py` makes it.

    graph.json             what it is: of which index, how many neighbours of each sequence
    part-NNNNN.parquet     the edges of a block of sequences (schema.NEIGHBORS), by seq_id and rank; its footer says of
                           which graph and block it is, how many rows it has, and which sequences of its range have no
                           vector or were removed

A block counts when its file stands and its footer fits: so a graph is unfinished until all its blocks are there.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from index import duck
from index.errors import StoreError
from index.info import IndexInfo, current_info, rebuild
from index.parquet import read_metadata, read_parquet
from index.places import Place, at_once
from index.receipts import list_files
from index.removals import dead_sequences, removed_sequences
from index.schema import read_footer
from index.store import Store

FOLDER = "neighbors"
INFO = "graph.json"


@dataclass(frozen=True)
class Block:
    """A range of sequences, half open, whose edges are one file."""

    number: int
    seq_lo: int
    seq_hi: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"part-{self.number:05d}.parquet"


@dataclass(frozen=True)
class Footer:
    """What the file of a block says of itself.

    Attributes:
        rows: edges.
        removals: files of tombstones that there were when it was made.
        absent: sequences of its range that have no vector, or had been removed: (n,) int64.
    """

    rows: int
    removals: int
    absent: np.ndarray


@dataclass(frozen=True)
class GraphInfo:
    """What graph.json says.

    Attributes:
        k: neighbours of a sequence, fewer where there are no more.
        min_score: edges below it are left out; None for none.
        batch: sequences of a block.
        sequences: in the store; the last seq_id is one less.
        index: that was asked: "version", "type", "space" and the name of the "embeddings", for people; and "sha256"
            of all that index.json says, files and their checksums included.
        sources: ingested by then, by sha256.
    """

    k: int
    min_score: float | None
    batch: int
    sequences: int
    index: dict[str, Any]
    sources: list[str]

    @property
    def fingerprint(self) -> str:
        """sha256 over everything that the edges depend on."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def blocks(self) -> list[Block]:
        """All of them, in order."""
        starts = range(0, self.sequences, self.batch)
        return [Block(number, lo, min(lo + self.batch, self.sequences)) for number, lo in enumerate(starts)]

    @property
    def words(self) -> str:
        """Such as "the 10 nearest at a score of 0.5 or more"."""
        return f"the {self.k:,} nearest" + (
            "" if self.min_score is None else f" at a score of {self.min_score} or more"
        )


@dataclass(frozen=True)
class Graph:
    """A graph that is finished, and of the live index.

    Attributes:
        living: (sequences,) bool: those that have a vector, and were not removed.
    """

    store: Store
    info: GraphInfo
    footers: Mapping[int, Footer]
    living: np.ndarray

    def edges(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """seq_ids, neighbours, scores and ranks of the edges, (E,) each, block by block.

        Raises:
            StoreError: a file is damaged, or sequences among the neighbours were removed since.
        """
        for block in self.info.blocks:
            table = read_edges(self.store, self.info, block, self.footers[block.number])
            seq_ids, neighbors = table["seq_id"].to_numpy(), table["neighbor"].to_numpy()
            if not (self.living[seq_ids].all() and self.living[neighbors].all()):
                raise StoreError(
                    f"{folder(self.store) / block.name}: some of its sequences were removed from the atlas since; make "
                    f"such blocks again by: {command(self.store, self.info)}"
                )
            yield seq_ids, neighbors, table["score"].to_numpy(), table["rank"].to_numpy()


def folder(store: Store) -> Place:
    """Where the graph is."""
    return store.root / FOLDER


def describe(store: Store, info: IndexInfo, k: int, min_score: float | None, batch: int) -> GraphInfo:
    """The graph of `store` by an index."""
    digest = hashlib.sha256(json.dumps(info.to_json(), sort_keys=True).encode()).hexdigest()
    named = {"version": info.version, "type": info.type, "space": info.space, "embeddings": info.embeddings}
    sources = [source.sha256 for source in store.sources]
    return GraphInfo(k, min_score, batch, store.num_sequences, {**named, "sha256": digest}, sources)


def read_info(store: Store) -> GraphInfo | None:
    """What graph there is, or is being made; None where none was begun.

    Raises:
        StoreError: graph.json is damaged.
    """
    file = folder(store) / INFO
    try:
        return GraphInfo(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        make = f"raypipe neighbors {shlex.quote(str(store.root))}"
        raise StoreError(f"{file}: damaged ({error}); make the graph again, with its options: {make}") from error


def open_graph(store: Store) -> Graph:
    """The graph of the live index, to be read.

    Raises:
        StoreError: there is none, or it is unfinished, damaged, or older than the index or the sources.
    """
    info = read_info(store)
    if info is None:
        make = f"raypipe neighbors {shlex.quote(str(store.root))}"
        raise StoreError(f"{store.root}: no graph of neighbours yet; make one with: {make}")
    if why := staleness(store, info):
        raise StoreError(f"{store.root}: the graph of neighbours is stale: {why}{command(store, info)}")
    footers = finished_blocks(store, info)
    missing = [block for block in info.blocks if block.number not in footers]
    if missing:
        raise StoreError(
            f"{folder(store)}: unfinished, {len(missing):,} of {len(info.blocks):,} blocks are missing or damaged, the "
            f"first is {missing[0].name}; go on with: {command(store, info)}"
        )
    living = np.ones(info.sequences, dtype=bool)
    for footer in footers.values():
        living[footer.absent] = False
    living[removed_sequences(store)] = False
    return Graph(store, info, footers, living)


def staleness(store: Store, info: GraphInfo) -> str:
    """Why a graph is none of the store as it is, with what to do before `command`; "" if it is."""
    live = current_info(store)
    if live is None:
        return f"its index is gone; run: {rebuild(store)}, then: "
    known = store.embeddings.get(live.embeddings)
    if known is None or known.fingerprint != live.fingerprint:
        return f"the vectors {live.embeddings!r} were made anew; run: {rebuild(store, live)}, then: "
    if describe(store, live, info.k, info.min_score, info.batch).index != info.index:
        return f"it is of index {info.index['version']}, and {live.version} is the live one; run: "
    if new := [source.path for source in store.sources if source.sha256 not in info.sources]:
        return f"sources came since, such as {new[0]}; embed them, run: {rebuild(store, live)}, then: "
    return ""


def command(store: Store, info: GraphInfo) -> str:
    """The command that makes `info`, or what is missing of it."""
    least = [] if info.min_score is None else ["--min-score", str(info.min_score)]
    return shlex.join(["raypipe", "neighbors", str(store.root), "-k", str(info.k), *least])


def finished_blocks(store: Store, info: GraphInfo) -> dict[int, Footer]:
    """The blocks of `info` whose file stands and fits, by number; values are not looked at."""
    listing = list_files(folder(store))
    standing = [block for block in info.blocks if block.name in listing]
    fingerprint = info.fingerprint
    footers = at_once(lambda block: _footer(folder(store) / block.name, fingerprint, block), standing, store.root)
    return {block.number: footer for block, footer in zip(standing, footers, strict=True) if footer is not None}


def read_edges(store: Store, info: GraphInfo, block: Block, footer: Footer) -> pa.Table:
    """All columns of a block.

    Raises:
        StoreError: its file is damaged.
    """
    path = folder(store) / block.name
    try:
        table = read_parquet(path, page_checksum_verification=True)
        if table.num_rows != footer.rows:
            raise ValueError(f"{table.num_rows} rows instead of {footer.rows}")
    except (pa.ArrowException, OSError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise StoreError(f"{path}: damaged ({text}); remove it and run: {command(store, info)}") from error
    return table


def relation(store: Store) -> str:
    """A SELECT of all edges, but those of sequences that were removed since.

    Raises:
        StoreError: as `open_graph`.
    """
    graph = open_graph(store)
    paths = [folder(store) / block.name for block in graph.info.blocks]
    if not paths:
        return ""
    edges = f"FROM {duck.parquet(paths)}"
    if not store.removals:
        return edges
    dead = "(SELECT seq_id FROM dead)"
    return f"WITH dead AS ({dead_sequences(store)}) {edges} WHERE seq_id NOT IN {dead} AND neighbor NOT IN {dead}"


def _footer(path: Place, fingerprint: str, block: Block) -> Footer | None:
    """What a file says of itself; None if it is damaged, or of another graph or block."""
    try:
        metadata = read_metadata(path)
        said = read_footer(metadata.metadata)
        place = [said[name] for name in ("fingerprint", "block", "seq_lo", "seq_hi", "rows")]
        if place != [fingerprint, block.number, block.seq_lo, block.seq_hi, metadata.num_rows]:
            return None
        return Footer(metadata.num_rows, said["removals"], np.array(said["absent"], dtype=np.int64))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None
