"""An atlas as the one who answers search(), neighbors() and embed() in SQL; see `index.functions`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa

from index.exact import NO_HIT
from index.functions import check_stopped

if TYPE_CHECKING:
    from raypipe.atlas import Atlas
    from raypipe.client import RemoteAtlas

COLUMNS = ["query", "rank", "seq_id", "id", "score", "length", "n_records"]
# Sequences that are embedded between two looks whether somebody pressed Ctrl-C.
PIECE = 64


class AtlasAsker:
    """Asks an atlas, here or behind a server; from several threads at a time."""

    def __init__(self, atlas: Atlas | RemoteAtlas, *, local: bool = True):
        """
        Args:
            local: whether its model is in this process.
        """
        self._atlas, self._local = atlas, local
        self._found = threading.local()

    def search(self, sequences: list[str], k: int, where: str | None) -> tuple[np.ndarray, np.ndarray]:
        """The nearest sequences: seq_ids (Q, k) int64, -1 where there are fewer, and scores (Q, k) float32."""
        names = [f"query_{number}" for number in range(1, len(sequences) + 1)]
        if not self._local or len(sequences) <= PIECE:  # the server embeds them
            hits = self._atlas.search(sequences, names=names, k=k, where=where, columns=COLUMNS)
        else:
            hits = self._atlas.search(vectors=self.embed(sequences), names=names, k=k, where=where, columns=COLUMNS)
        return self._arrays(hits.to_arrow(), {name: row for row, name in enumerate(names)}, k)

    def neighbors(self, ids: list[str], k: int, where: str | None) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, for the sequences of records, which are left out themselves."""
        hits = self._atlas.neighbors(ids, k=k, where=where, columns=COLUMNS)
        return self._arrays(hits.to_arrow(), {id_: row for row, id_ in enumerate(ids)}, k)

    def embed(self, sequences: list[str]) -> np.ndarray:
        """(N, D) float32 vectors."""
        pieces = []
        for start in range(0, len(sequences), PIECE):
            check_stopped()
            pieces.append(self._atlas.embed(sequences[start : start + PIECE]))
        return np.concatenate(pieces)

    def catalog(self, seq_ids: np.ndarray) -> pa.Table:
        """What the last searches of this thread said of what they found: seq_id, id, length, n_records."""
        found = pa.concat_tables(reversed(self._found.tables))  # the newest first, should a search have failed
        self._found.tables = []
        order = np.argsort(known := found["seq_id"].to_numpy(), kind="stable")
        places = order[np.searchsorted(known, seq_ids, sorter=order)]
        return found.take(pa.array(places)).select(["seq_id", "id", "length", "n_records"])

    def _arrays(self, hits: pa.Table, rows: dict[str, int], k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `search` gives it, of hits of the queries that are named in `rows`."""
        # No wider than there are sequences: who asks for a billion wants all. A server has a limit of its own.
        most = cast("Atlas", self._atlas).searcher.info.rows if self._local else k
        shape = (len(rows), min(k, most))
        seq_ids, scores = np.full(shape, NO_HIT, np.int64), np.full(shape, np.nan, np.float32)
        place = [rows[name] for name in hits["query"].to_pylist()], hits["rank"].to_numpy() - 1
        seq_ids[place], scores[place] = hits["seq_id"].to_numpy(), hits["score"].to_numpy()
        if len(hits):
            self._found.__dict__.setdefault("tables", []).append(hits)
        return seq_ids, scores
