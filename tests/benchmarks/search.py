"""Search at scale: our index through our Python API against exact search and other vector indexes.

    python -m tests.benchmarks.search [--rows 200000] [--dimension 1280] [--peers hnswlib,usearch,scann,lancedb|none]
        [--type ivf] [--recall 0.995] [--vectors FILE.npy] [--filter-rows 100000] [--sizes 100000,300000,1000000]

Vectors are made (search_set.py) or given as a .npy file, stored as halffloats in a real atlas, and indexed without a
transform, so that everybody searches one space: the cosine. Queries are not among the vectors. Recall is that of 10
neighbours against exact search; a hit counts when it is no farther than the true 10th by a factor of 1.001.

Everybody has a process of its own, warm, with `--threads` threads on as many cores; one works at a time. Peers run in
an environment of their own (search_peer_requirements.txt) and are handed unit vectors in memory. Everybody is tuned to
the fastest search that reaches `--recall` on the queries, by what its calls let one choose. Ours is there twice: as the
index chose at build time, knowing nothing of the queries (only where it missed is `nprobe` raised by hand, which the
page says), and tuned as the others are, which is the one that they are compared with. Then all take turns in
interleaved rounds (rounds.py): a batch of `--queries`, repeated for a second, and queries one by one. Ratios are taken
within a round. Exact search is FAISS Flat as it comes, and, where the processor has AVX-512, with the kernel that
OpenBLAS would choose did it know the processor (OPENBLAS_CORETYPE); the faster one is the measure.

Beside the contest: memory and opening of our index (search_memory.py), filters (search_filters.py), and with `--sizes`
its growth (search_growth.py). Times to build are from Parquet to searchable for ours, from memory for the others.
Results go to tests/benchmarks/results/ as JSON and Markdown.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import machine, options, search_atlas, search_filters, search_growth, search_memory, search_set
from tests.benchmarks.rounds import Turn, interleave
from tests.benchmarks.search_contenders import FLAT, LEAVES, PEERS, Point
from tests.benchmarks.search_process import LEAST_S, NEIGHBOURS, Asked, Entrant, opened, ours, peer
from tests.benchmarks.search_report import EXACT, TUNED, markdown, summarise
from tests.benchmarks.search_vectors import describe, nearest

EXACT_SINGLES = 50
OUR_LADDERS: list[list[Point]] = [
    [{"nprobe": lists, "k_factor": factor} for lists in LEAVES] for factor in (1.5, 2.0, 3.0, 4.0)
]
CORETYPE = "SkylakeX"
FEW_QUERIES = 200


def prepare(told: argparse.Namespace, home: Path) -> tuple[Asked, np.ndarray | None, dict[str, float]]:
    """Make the set in `home`: the set and its truth, the families of its rows if they are known, what it is like."""
    data = home / "set"
    if told.vectors:
        search_set.split(told.vectors, data, told.rows, told.queries, told.seed)
    else:
        search_set.write(data, told.rows, told.queries, told.dimension, told.seed)
    vectors, queries = data / "vectors.npy", np.load(data / "queries.npy")
    families = None if told.vectors else np.load(data / "families.npy")
    asked = Asked(vectors, data / "queries.npy", nearest(vectors, queries, NEIGHBOURS)[1])
    near = nearest(vectors, queries[:FEW_QUERIES], min(100, told.rows))[1]
    return asked, families, describe(vectors, told.seed, near)


def enter(told: argparse.Namespace, home: Path, asked: Asked) -> list[Entrant]:
    """Build everybody's index, exact search first."""
    flats: list[dict[str, str]] = [{}]
    if machine.has("avx512f"):
        flats.append({"OPENBLAS_CORETYPE": CORETYPE})
    entrants = [
        peer(FLAT, asked.vectors, home / "flat", told.threads, min(EXACT_SINGLES, told.singles), **environment)
        for environment in flats
    ]
    atlas = home / "atlas"
    search_atlas.make(atlas, asked.vectors, told.rows)
    for number, kind in enumerate(told.type):
        folder = search_atlas.twin(atlas, home / f"atlas-{number}")
        type_ = search_atlas.resolve(kind, told.rows)
        entrants.append(ours(f"raypipe {kind}", folder, told.threads, type_, told.recall, told.singles))
    first = entrants[-len(told.type)]
    # By the same means as the peers: what is fastest at the recall is looked for with the queries themselves.
    tuned = opened(f"raypipe {told.type[0]}{TUNED}", home / "atlas-0", told.threads, first.about, told.singles)
    tuned.ladders = OUR_LADDERS
    entrants.append(tuned)
    entrants.append(_exact(told, home, atlas, first))
    for name in told.peers:
        entrants.append(peer(name, asked.vectors, home / name, told.threads, told.singles))
    return entrants


def _exact(told: argparse.Namespace, home: Path, atlas: Path, first: Entrant) -> Entrant:
    """Our exact mode: over the first index where a search can be asked for it, else an index of the flat type."""
    singles = min(EXACT_SINGLES, told.singles)
    if first.warm.hello["knows"]["exact"]:
        entrant = opened(f"{EXACT} (exact=True)", home / "atlas-0", told.threads, first.about, singles)
        entrant.ladders = [[{"exact": True}]]
        return entrant
    folder = search_atlas.twin(atlas, home / "atlas-flat")
    return ours(f"{EXACT} (flat type)", folder, told.threads, "flat", 1.0, singles)


def contest(told: argparse.Namespace, home: Path, asked: Asked) -> dict[str, Any]:
    """Tune everybody, then all rounds; and the memory of our first index."""
    entrants = {entrant.name: entrant for entrant in enter(told, home, asked)}
    answers: dict[str, np.ndarray] = {}
    for entrant in entrants.values():
        entrant.tune(asked, home, told.recall)
        print(f"{entrant.name}: {entrant.point or 'as built'}, recall {entrant.recall:.4f}", flush=True)

    def turn(key: str) -> Turn:
        name, way = key.rsplit(": ", 1)
        if way == "single":
            return entrants[name].single(asked)
        times, answers[name] = entrants[name].batch(asked, home, entrants[name].point, told.least)
        return times

    rounds = interleave([f"{name}: {way}" for name in entrants for way in ("batch", "single")], told.rounds, turn)
    for name, entrant in entrants.items():
        entrant.recall = asked.recall(answers[name])
        entrant.warm.close()
    first = entrants[f"raypipe {told.type[0]}"]
    return {
        "rounds": rounds,
        "entrants": {
            name: {
                "point": entrant.point,
                "recall": entrant.recall,
                # Within what float32 leaves open: the same neighbours, not only as near.
                "exact_recall": asked.recall(answers[name], 1.0),
                "build": entrant.about,
                "versions": entrant.warm.hello["versions"],
                "singles": entrant.singles,
                "tried": entrant.climbed,
            }
            for name, entrant in entrants.items()
        },
        "memory": search_memory.measure(home / "atlas-0", asked, told.rows, told.threads, first.point, told.queries),
    }


def filters(
    told: argparse.Namespace, home: Path, asked: Asked, families: np.ndarray | None, built: dict[str, Any]
) -> dict[str, Any]:
    """Filtered search over the first `--filter-rows` vectors, by an index of the first type.

    Args:
        built: about that of the contest, which serves where the rows are the same.
    """
    rows = min(told.filter_rows, told.rows)
    if rows == told.rows:
        entrant = opened("filters", home / "atlas-0", told.threads, built, told.singles)
    else:
        part, whole = home / "filters", asked
        part.mkdir()
        search_set.head(whole.vectors, part / "vectors.npy", rows)
        truth = nearest(part / "vectors.npy", np.load(whole.queries), NEIGHBOURS)[1]
        asked = Asked(part / "vectors.npy", whole.queries, truth)
        search_atlas.make(part / "atlas", asked.vectors, rows)
        kind = search_atlas.resolve(told.type[0], rows)
        entrant = ours("filters", part / "atlas", told.threads, kind, told.recall, told.singles)
    entrant.tune(asked, home, told.recall)
    own = None if families is None else families[:rows]
    found = search_filters.measure(
        entrant, asked.vectors, asked.queries, own, rounds=told.rounds, least_s=told.least, seed=told.seed
    )
    entrant.warm.close()
    return {**found, "type": entrant.about["type"], "point": entrant.point, "unfiltered_recall": entrant.recall}


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    made = options.parser(__doc__, rounds=5)
    made.add_argument("--rows", type=int, default=200_000)
    made.add_argument("--dimension", type=int, default=1280, help="of made vectors")
    made.add_argument("--vectors", type=Path, help=".npy file (n, D) of real vectors, used in place of made ones")
    made.add_argument("--queries", type=int, default=1000, help="in a batch")
    made.add_argument("--singles", type=int, default=500, help="queries of a turn that come one by one")
    made.add_argument("--least", type=float, default=LEAST_S, help="seconds for which a batch is repeated")
    made.add_argument("--recall", type=float, default=0.995)
    made.add_argument("--type", action="append", help='ours: "ivf", "auto" or a factory string; may be repeated')
    made.add_argument("--peers", default=",".join(PEERS), help="separated by commas, or none")
    made.add_argument("--filter-rows", type=int, default=100_000, help="0 for no filters")
    made.add_argument("--sizes", default="", help="sizes of the growth, separated by commas; none by default")
    made.add_argument("--folder", type=Path, help="where to write; by default the system's temporary folder")
    told = made.parse_args(arguments)
    told.type = list(dict.fromkeys(told.type or ["ivf"]))
    told.peers = [] if told.peers == "none" else told.peers.split(",")
    told.sizes = [int(text) for text in told.sizes.split(",") if text]
    if unknown := set(told.peers) - set(PEERS):
        made.error(f"no peer called {', '.join(sorted(unknown))}; there are: {', '.join(PEERS)}")
    if told.vectors and told.sizes:
        made.error("--sizes grows made vectors; leave --vectors out")
    return told


def measure(told: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Everything that was asked for; what is written goes to `home`."""
    asked, families, about = prepare(told, home)
    found = contest(told, home, asked)
    built = found["entrants"][f"raypipe {told.type[0]}"]["build"]
    return {
        "settings": {
            **{key: getattr(told, key) for key in ("rows", "queries", "recall", "threads", "rounds", "seed", "type")},
            "dimension": int(np.load(asked.vectors, mmap_mode="r").shape[1]),
            "vectors": told.vectors.name if told.vectors else None,
        },
        "set": about,
        "contest": found,
        "summary": summarise(found, told.queries, told.recall),
        "filters": filters(told, home, asked, families, built) if told.filter_rows else None,
        "growth": growth(told, home) if told.sizes else None,
    }


def growth(told: argparse.Namespace, home: Path) -> dict[str, Any]:
    """See `search_growth.measure`."""
    for folder in home.iterdir():  # the disk is needed now
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    return search_growth.measure(
        home,
        told.sizes,
        dimension=told.dimension,
        queries=told.queries,
        singles=told.singles,
        kind=told.type[0],
        target=told.recall,
        threads=told.threads,
        rounds=told.rounds,
        seed=told.seed,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    told = read_options(arguments)
    before, cores = machine.describe(), os.sched_getaffinity(0)
    # Whatever else this machine has: the processes that are started inherit it.
    os.sched_setaffinity(0, sorted(cores)[: told.threads])
    try:
        with tempfile.TemporaryDirectory(dir=told.folder) as name:
            found = measure(told, Path(name))
    finally:
        os.sched_setaffinity(0, cores)
    date = datetime.date.today().isoformat()
    result = {"date": date, "machine": before, "versions": machine.versions(), **found}
    options.write(told.results, "search", result, markdown(result))


if __name__ == "__main__":
    main()
