"""A second look at a live index: its recall on other vectors than it was tuned with, how fast it is, what it takes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import StoreError
from index.exact import NO_HIT
from index.faiss_runtime import load_faiss
from index.info import REFINEMENT, ROWS, VECTORS, current_info, held_file, rebuild
from index.judge import Judge
from index.search import Searcher
from index.store import Store
from index.truth import NEIGHBOURS

SEED = 19
# As many are searched for one at a time.
ALONE = 500


@dataclass(frozen=True)
class Audit:
    """What was seen.

    Attributes:
        queries: stored vectors that were searched for, their own row left out.
        recall: recall@10 by the effort that the index has, ties counted (see `index.judge`).
        error: the standard error of that.
        target: that it was built for; None where it is exact.
        batch_ms, p50_ms, p99_ms: a query, of a batch of all; and of single ones the median and the slowest hundredth.
            What they read of the index is in memory by then.
        opened_ms: to open it again: FAISS is loaded, and the system has read its files before.
        private_bytes: memory of this process's own that opening it and the searches took, what they work with included.
        mapped_bytes: pages of its files of vectors and rows that this process has in memory after the searches; the
            system shares them with other processes, and takes them away where memory is short.
        disk_bytes: of its files.
    """

    queries: int
    recall: float
    error: float
    target: float | None
    batch_ms: float
    p50_ms: float
    p99_ms: float
    opened_ms: float
    private_bytes: int
    mapped_bytes: int
    disk_bytes: int

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, by the names above; recall as "recall_at_10"."""
        return {**asdict(self), "recall_at_10": self.recall}


def audit(store: Store, sample: int) -> Audit:
    """Search the live index for a seeded sample of its own vectors, as searches do by default.

    Sequences that were removed since it was built are neither searched for nor found, nor missed. Sizes of memory are 0
    where the system does not tell them (they come from /proc).

    Raises:
        StoreError: no index, it is damaged or older than its store, or holds less than two vectors.
    """
    info = current_info(store)
    if info is None:
        raise StoreError(f"{store.root}: no index yet; build one with: {rebuild(store)}")
    load_faiss()
    private = -_private_bytes()
    opened = Searcher.open(store)
    private += _private_bytes()
    living = opened.allow(None)
    if living.rows < 2:
        raise StoreError(f"{store.root}: the index holds {living.rows} vectors; there is nothing to compare")
    rows = np.flatnonzero(np.concatenate(living.masks))
    rows = np.sort(np.random.default_rng(SEED).permutation(rows)[:sample])
    vectors = opened.stored(rows)
    private -= _private_bytes()
    found, _ = _timed(opened, vectors)
    private += _private_bytes()
    batch = _timed(opened, vectors)[1]
    alone = np.array([_timed(opened, vectors[line : line + 1])[1] for line in range(min(ALONE, len(vectors)))])
    mapped = _mapped_bytes(
        {held_file(store, info, path) for path in info.files if path.endswith((VECTORS, REFINEMENT, ROWS))}
    )
    begun = time.perf_counter()
    Searcher.open(store)
    opened_ms = 1e3 * (time.perf_counter() - begun)
    judge = Judge.by_search(opened.segments, opened.transform, rows, living.masks)
    recall = judge.recall(found)
    return Audit(
        queries=len(rows),
        recall=recall.value,
        error=recall.error,
        target=info.operating.get("target"),
        batch_ms=batch / len(rows),
        p50_ms=float(np.percentile(alone, 50)),
        p99_ms=float(np.percentile(alone, 99)),
        opened_ms=opened_ms,
        private_bytes=max(0, private),
        mapped_bytes=mapped,
        disk_bytes=sum(known["bytes"] for known in info.files.values()),
    )


def _timed(opened: Searcher, queries: np.ndarray) -> tuple[np.ndarray, float]:
    """seq_ids, and milliseconds for all."""
    begun = time.perf_counter()
    seq_ids, _, _ = opened.find(queries, NEIGHBOURS + 1)
    spent = 1e3 * (time.perf_counter() - begun)
    assert seq_ids.max() > NO_HIT
    return seq_ids, spent


def _private_bytes() -> int:
    """Memory of this process that is no page of a file."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("RssAnon:"))


def _mapped_bytes(files: set[Path]) -> int:
    """Pages of `files` that this process has mapped, and that are in memory."""
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return 0
    wanted = {str(file.resolve()) for file in files}
    total, counts = 0, False
    for line in lines:
        name, _, value = line.partition(" ")
        if not name.endswith(":"):  # ADDRESSES PERMISSIONS OFFSET DEVICE INODE PATH
            counts = "".join(line.split(maxsplit=5)[5:]) in wanted
        elif counts and name == "Rss:":
            total += int(value.split()[0]) * 1024
    return total
