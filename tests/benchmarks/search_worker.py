"""One warm process of the search benchmarks: holds one index, and does what each line of stdin asks.

    python -m tests.benchmarks.search_worker NAME --folder FOLDER --threads N

NAME is "raypipe", whose FOLDER is an atlas, or one of `search_contenders.CONTENDERS`, whose FOLDER is a scratch place
and whose interpreter may be the peers'. Requests and answers are JSON lines, see conversation.py; `do` names the method
of `Worker` that answers, everything else are its arguments. Arrays travel as .npy files.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.conversation import answers, serve

OURS = "raypipe"
Answer = dict[str, Any]


def cpu_seconds() -> float:
    """Processor time of this process and of what it started and has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(work: Callable[[], Any], least_s: float = 0.0) -> tuple[dict[str, float], Any]:
    """Repeat `work` for at least so long: `wall_s`, `cpu_s` of one time, and what the last gave."""
    repeats, wall, cpu = 0, time.perf_counter(), cpu_seconds()
    while True:
        result = work()
        repeats += 1
        if (taken := time.perf_counter() - wall) >= least_s:
            return {"wall_s": taken / repeats, "cpu_s": (cpu_seconds() - cpu) / repeats}, result


def resident() -> Answer:
    """Resident memory of this process now, bytes.

    Returns:
        `anonymous`; and `files`: by name of a mapped file what of it is `resident`, and `referenced` since the last
        `forget`.
    """
    anonymous, name = 0, ""
    files: dict[str, dict[str, int]] = {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            name = Path(words[5]).name if len(words) > 5 and words[5].startswith("/") else ""
            continue
        size = 1024 * int(words[1]) if len(words) == 3 and words[2] == "kB" else 0
        if words[0] == "Anonymous:":
            anonymous += size
        elif name and words[0] in ("Rss:", "Referenced:"):
            held = files.setdefault(name, {"resident": 0, "referenced": 0})
            held["resident" if words[0] == "Rss:" else "referenced"] += size
    return {"anonymous": anonymous, "files": files}


def forget() -> None:
    """Take back the marks of pages that were touched, so that `resident` tells which are touched from now on."""
    Path("/proc/self/clear_refs").write_text("1")


class Worker:
    """What requests ask for.

    Args:
        name: of the contender.
    """

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        # As a user's program does; first, so that whatever it sets is set before NumPy loads its BLAS.
        if name == OURS:
            importlib.import_module("raypipe")
            self._held: Any = importlib.import_module("tests.benchmarks.search_ours").Raypipe(threads, folder)
        else:
            made = importlib.import_module("tests.benchmarks.search_contenders").CONTENDERS[name]
            self._held = made(threads, folder)
        self._ours = name == OURS
        self._np: Any = importlib.import_module("numpy")
        self._vectors: Any = importlib.import_module("tests.benchmarks.search_vectors")
        self._asked: dict[str, Any] = {}

    def answer(self, request: Answer) -> Answer:
        """Do one thing."""
        return getattr(self, request.pop("do"))(**request)

    def hello(self) -> Answer:
        """Who this is."""
        about = {"versions": machine.versions()}
        return {**about, "knows": self._held.knows()} if self._ours else {**about, "ladders": self._held.ladders}

    def build(self, **options: Any) -> Answer:
        """Ours: from the atlas; the others: from `vectors`, a .npy file, read and scaled before the time counts."""
        if self._ours:
            taken, about = timed(lambda: self._held.build(**options))
            return {**taken, **about}
        before = resident()["anonymous"]
        units = [self._vectors.all_units(Path(options["vectors"]))]
        taken, _ = timed(lambda: self._held.build(units[0]))
        units.clear()  # what the index itself keeps is left
        gc.collect()
        return {**taken, "anonymous": resident()["anonymous"] - before}

    def open(self) -> Answer:
        """Ours: open the index."""
        return {"wall_s": self._held.open()}

    def batch(
        self,
        queries: str,
        k: int,
        point: Answer,
        save: str,
        least_s: float,
        allowed: str | None = None,
        count: int | None = None,
    ) -> Answer:
        """All queries in one call, repeated for `least_s`; time of one call."""
        asked, options = self._load(queries)[:count], self._options(allowed)
        taken, found = timed(lambda: self._held.search(asked, k, point, **options), least_s)
        self._np.save(save, found)
        return taken

    def single(self, queries: str, k: int, point: Answer, count: int, allowed: str | None = None) -> Answer:
        """`count` queries, one in a call: mean times, and `p50_ms` and `p99_ms` by wall clock."""
        asked, options, walls = self._load(queries), self._options(allowed), []
        self._held.search(asked[:1], k, point, **options)
        cpu = cpu_seconds()
        for number in range(count):
            begin = time.perf_counter()
            self._held.search(asked[number % len(asked)][None], k, point, **options)
            walls.append(time.perf_counter() - begin)
        p50, p99 = (float(value) for value in 1000 * self._np.percentile(walls, [50, 99]))
        cpu = (cpu_seconds() - cpu) / count
        return {"wall_s": sum(walls) / count, "cpu_s": cpu, "p50_ms": p50, "p99_ms": p99}

    def memory(self, fresh: bool = False) -> Answer:
        """See `resident`; with `fresh` the marks are then taken back."""
        gc.collect()
        found = resident()
        if fresh:
            forget()
        return found

    def _load(self, queries: str) -> Any:
        """Ours scales queries itself, the others are handed unit vectors."""
        if queries not in self._asked:
            asked = self._np.load(queries)
            self._asked[queries] = asked if self._ours else self._vectors.unit(asked)
        return self._asked[queries]

    def _options(self, allowed: str | None) -> Answer:
        return {} if allowed is None else {"allowed": self._np.load(allowed)}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    told = parser.parse_args()
    with answers() as out:
        worker = Worker(told.name, told.folder, told.threads)
        serve(worker.hello(), worker.answer, out)


if __name__ == "__main__":
    sys.exit(main())
