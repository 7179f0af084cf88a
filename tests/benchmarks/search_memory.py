"""Memory that an opened index of ours needs, and how long opening it takes."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from tests.benchmarks.search_process import NEIGHBOURS, Asked, start
from tests.benchmarks.search_worker import OURS

OPENINGS = 5
# Files with vectors that are read one by one to compare candidates again; all others are hot as a whole.
REFINEMENT = "refine"


def measure(atlas: Path, asked: Asked, rows: int, threads: int, point: dict[str, Any], count: int) -> dict[str, Any]:
    """Open the index in a new process, let it answer `count` single queries, and look at its memory.

    Returns:
        Bytes per vector: `anonymous`, by which the process grew; `mapped`, pages of the index's files that are
        resident afterwards; `touched`, those of them that a second pass over the queries reads: the system maps pages
        beside those that are asked for; `hot`: anonymous and touched, without files of vectors that only refine.
        `files`: the same by name of the file. `first_open_s`, and `open_s`, the median of OPENINGS more: files are in
        the system's memory by then.
    """
    warm = start(OURS, atlas, threads)
    request = {"queries": str(asked.queries), "k": NEIGHBOURS, "point": point, "count": count}
    before = warm.ask(do="memory")
    first = warm.ask(do="open")["wall_s"]
    warm.ask(do="single", **request)
    warm.ask(do="memory", fresh=True)
    warm.ask(do="single", **request)
    after = warm.ask(do="memory")
    openings = [warm.ask(do="open")["wall_s"] for _ in range(OPENINGS)]
    warm.close()
    names = {file.name for file in (atlas / "index").rglob("*") if file.is_file()}
    files = {
        name: {what: size / rows for what, size in held.items()}
        for name, held in after["files"].items()
        if name in names
    }
    anonymous = (after["anonymous"] - before["anonymous"]) / rows
    touched = {name: held["referenced"] for name, held in files.items()}
    return {
        "queries": count,
        "anonymous": anonymous,
        "mapped": sum(held["resident"] for held in files.values()),
        "touched": sum(touched.values()),
        "hot": anonymous + sum(size for name, size in touched.items() if REFINEMENT not in name),
        "files": files,
        "first_open_s": first,
        "open_s": statistics.median(openings),
    }
