"""A second look at a live index: its recall on other vectors than it was tuned with, how fast it is, what it takes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import StoreError
from index.exact import NO_HIT
from index.info import current_info, rebuild
from index.operating import NEIGHBOURS, Judge
from index.search import Searcher
from index.store import Store

SEED = 19
# As many are searched for one at a time.
ALONE = 500


@dataclass(frozen=True)
class Audit:
    """What was seen.

    Attributes:
        queries: stored vectors that were searched for, their own row left out.
        recall: recall@10 by the effort that the index has, ties counted (see `index.operating`).
        target: that it was built for; None where it is exact.
        batch_ms, p50_ms, p99_ms: a query, of a batch of all; and of single ones the median and the slowest hundredth.
        opened_ms: to open it.
        private_bytes, mapped_bytes: memory that this process took for the index, its own and mapped from files, after
            the searches; 0 where the system does not tell.
        disk_bytes: of its files.
    """

    queries: int
    recall: float
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

    Raises:
        StoreError: no index, it is damaged or older than its store, or holds less than two vectors.
    """
    info = current_info(store)
    if info is None:
        raise StoreError(f"{store.root}: no index yet; build one with: {rebuild(store)}")
    if info.rows < 2:
        raise StoreError(f"{store.root}: the index holds {info.rows} vectors; there is nothing to compare")
    before = _resident()
    begun = time.perf_counter()
    opened = Searcher.open(store)
    opened_ms = 1e3 * (time.perf_counter() - begun)
    rows = np.sort(np.random.default_rng(SEED).permutation(info.rows)[:sample])
    vectors = opened.stored(rows)
    found, batch = _timed(opened, vectors)
    alone = np.array([_timed(opened, vectors[line : line + 1])[1] for line in range(min(ALONE, len(vectors)))])
    after = _resident()
    private, mapped = (max(0, now - then) for now, then in zip(after, before, strict=True))
    judge = Judge(opened.segments, opened.transform, rows)
    return Audit(
        queries=len(rows),
        recall=judge.recall(found),
        target=info.operating.get("target"),
        batch_ms=batch / len(rows),
        p50_ms=float(np.percentile(alone, 50)),
        p99_ms=float(np.percentile(alone, 99)),
        opened_ms=opened_ms,
        private_bytes=private,
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


def _resident() -> tuple[int, int]:
    """Memory of this process in RAM: its own, and pages of files."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0, 0
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    own, file = (int(found.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
    return own, file
