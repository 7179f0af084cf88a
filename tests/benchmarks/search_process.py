"""The warm processes of the search benchmarks as the benchmark sees them; see search_worker.py for the other end."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import peer_environment
from tests.benchmarks.conversation import Warm
from tests.benchmarks.rounds import Turn
from tests.benchmarks.search_contenders import PEERS, Point
from tests.benchmarks.search_vectors import TIES, recall
from tests.benchmarks.search_worker import OURS

MODULE = "tests.benchmarks.search_worker"
NEIGHBOURS = 10
# A batch is repeated for so long, so that fast ones are timed as well as slow ones; shorter while tuning.
LEAST_S, TRIAL_S = 1.0, 0.2


@dataclass(frozen=True)
class Asked:
    """A set of vectors with queries, and the truth about them.

    Attributes:
        vectors: .npy file, (n, D).
        queries: .npy file, (Q, D).
        distances: (Q, k) of the queries' true neighbours.
    """

    vectors: Path
    queries: Path
    distances: np.ndarray

    def recall(self, found: np.ndarray, ties: float = TIES) -> float:
        """See `search_vectors.recall`."""
        return recall(self.vectors, np.load(self.queries), found, self.distances, ties)


def start(name: str, folder: Path, threads: int, environment: dict[str, str | None] | None = None) -> Warm:
    """A process for `name`, "raypipe" or a contender; `environment` is set beside the number of threads."""
    interpreter = peer_environment.ensure(peer_environment.SEARCH_PEERS) if name in PEERS else sys.executable
    own: dict[str, str | None] = {
        # Whatever this process was started with: the library's own choice of kernel is what a user gets.
        "OPENBLAS_CORETYPE": None,
        **{f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")},
        "LANCE_CPU_THREADS": str(threads),
        "RUST_LOG": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [interpreter, "-m", MODULE, name, "--folder", folder, "--threads", threads]
    return Warm(name, command, {**own, **(environment or {})})


@dataclass
class Entrant:
    """One that takes part in the contest.

    Attributes:
        name: in the results.
        warm: its process, with an index that can be searched.
        ladders: what it may be tuned by, see `search_contenders`.
        about: what is known of its build.
        singles: queries of a turn that come one by one.
        point: what it was tuned to; `recall` there; `climbed`: everything that was tried.
    """

    name: str
    warm: Warm
    ladders: list[list[Point]]
    about: dict[str, Any]
    singles: int
    point: Point = field(default_factory=dict)
    recall: float = 0.0
    climbed: list[dict[str, Any]] = field(default_factory=list)

    def batch(self, asked: Asked, scratch: Path, point: Point, least_s: float = LEAST_S) -> tuple[Turn, np.ndarray]:
        """All queries at once: time of one call, and what was found (Q, k)."""
        save = scratch / "found.npy"
        request = {"queries": str(asked.queries), "k": NEIGHBOURS, "point": point, "save": str(save)}
        return self.warm.ask(do="batch", least_s=least_s, **request), np.load(save)

    def single(self, asked: Asked) -> Turn:
        """One query in a call: means, `p50_ms` and `p99_ms`."""
        request = {"queries": str(asked.queries), "k": NEIGHBOURS, "point": self.point, "count": self.singles}
        return self.warm.ask(do="single", **request)

    def tune(self, asked: Asked, scratch: Path, target: float) -> None:
        """Set `point` to the fastest that reaches the target; where none does, to that of the highest recall."""
        for ladder in self.ladders:
            for point in ladder:
                times, found = self.batch(asked, scratch, point, TRIAL_S)
                reached = asked.recall(found)
                self.climbed.append({"point": point, "recall": reached, "wall_s": times["wall_s"]})
                if reached >= target:
                    break
        good = [step for step in self.climbed if step["recall"] >= target]
        chosen = (
            min(good, key=lambda step: step["wall_s"]) if good else max(self.climbed, key=lambda step: step["recall"])
        )
        self.point, self.recall = chosen["point"], chosen["recall"]


def ours(
    name: str, atlas: Path, threads: int, kind: str, recall: float, singles: int, transform: str = "none"
) -> Entrant:
    """Build an index over an atlas in a process of its own, and open it in another."""
    builder = start(OURS, atlas, threads)
    about = builder.ask(do="build", kind=kind, transform=transform, recall=recall)
    builder.close()
    return opened(name, atlas, threads, about, singles)


def opened(name: str, atlas: Path, threads: int, about: dict[str, Any], singles: int) -> Entrant:
    """A process that has opened the index of an atlas.

    It is first searched as the index itself chose when it was built; where that misses the recall, by hand, if the call
    takes `nprobe`.
    """
    warm = start(OURS, atlas, threads)
    warm.ask(do="open")
    chosen = about["operating"].get("nprobe")
    by_hand = [{"nprobe": chosen << step} for step in range(1, 6)] if chosen and warm.hello["knows"]["nprobe"] else []
    return Entrant(name, warm, [[{}, *by_hand]], about, singles)


def peer(name: str, vectors: Path, folder: Path, threads: int, singles: int, **environment: str) -> Entrant:
    """A contender, its index built in its own process."""
    folder.mkdir(parents=True, exist_ok=True)
    warm = start(name, folder, threads, dict(environment))
    about = warm.ask(do="build", vectors=str(vectors))
    label = ", ".join([name, *(f"{key}={value}" for key, value in environment.items())])
    return Entrant(label, warm, warm.hello["ladders"], about, singles)
