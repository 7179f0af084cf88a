"""Processor time of a query: our search against BLASTN and nhmmer, over the same sequences.

    python -m tests.benchmarks.search_tools [--fasta FILE] [--sequences 100000] [--asked 20] [--model nano]
        [--atlas FOLDER]

The sequences are of the FASTA file, evenly by length and cut at 1022 nt, and embedded with `--model`, once for each
choice: the atlas is kept in the benchmarks' cache, and a run that was killed goes on. Or they are those of an atlas
that is embedded already, on a GPU perhaps. Queries are others of the FASTA file. Ours is indexed with the default
transform and asked through our Python API, queries one by one, and as a batch of BATCH_SIZE, where they repeat; what
the encoder takes for a query stands apart. BLASTN (`-task blastn`, with its own defaults for this task; it has to be on
the PATH) and nhmmer (pyhmmer, in the search peers' environment) run with theirs. All three have one thread. Processor
seconds are compared, within interleaved rounds. What each finds is another question, which `raypipe eval retrieval`
answers: a vector has no alignment and no E-value.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import raypipe
from index import duck
from index.store import Store
from raypipe.evaluation.tools import BLAST
from tests.benchmarks import machine, options, peer_environment, search_atlas
from tests.benchmarks.conversation import Warm
from tests.benchmarks.rounds import Rounds, Turn, interleave, loads, spread
from tests.benchmarks.samples import sample
from tests.benchmarks.search_process import LEAST_S, NEIGHBOURS, Entrant, ours
from tests.benchmarks.search_worker import timed

BATCH, SINGLE = "raypipe, a batch", "raypipe, one by one"
ENCODER = "encoder, one by one"
BLASTN, NHMMER = "BLASTN", "nhmmer"
# Our queries, over and over: so many take long enough to be timed.
BATCH_SIZE = 500
GOALS = {BLASTN: 100, NHMMER: 1000}


def write_fasta(path: Path, sequences: Sequence[str]) -> None:
    """RNA as DNA, named by place."""
    lines = (f">s{place}\n{text.replace('U', 'T')}\n" for place, text in enumerate(sequences))
    path.write_text("".join(lines), encoding="ascii")


def embedded(told: argparse.Namespace, sequences: Sequence[str]) -> Path:
    """The atlas of these sequences in the cache; it is finished where a run before left it."""
    content = repr((told.model, sorted(sequences)))
    folder = peer_environment.cache_folder() / f"search-tools-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    fasta = folder / "database.fasta"
    if not fasta.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_fasta(fasta, sequences)
    command = [*search_atlas.RAYPIPE, "embed", str(fasta), "-o", str(folder / "atlas"), "--model", told.model]
    subprocess.run([*command, "--executor", "inline"], check=True, env=search_atlas.ENVIRONMENT)
    return folder / "atlas"


def held(atlas: Path) -> list[str]:
    """The sequences of an atlas that have a vector."""
    store = Store.open(atlas)
    with duck.new_connection(reads=store.root) as connection:
        rows = connection.sql(
            f"SELECT sequence FROM {duck.parquet(store.parts('sequences'))} WHERE seq_id IN "
            f"(SELECT seq_id FROM {duck.parquet(store.set_parts(store.embedding()))}) ORDER BY seq_id"
        ).fetchall()
    return [sequence for (sequence,) in rows]


def blastn(home: Path) -> Callable[[], Turn]:
    """A turn of BLASTN: asked.fasta in `home` against database.fasta; all queries in one call."""
    make = ["makeblastdb", "-in", "database.fasta", "-dbtype", "nucl", "-out", "database"]
    subprocess.run(make, cwd=home, check=True, capture_output=True)
    command = ["blastn", "-task", "blastn", "-db", "database", "-query", "asked.fasta", "-outfmt", "6"]
    command += ["-num_threads", "1", "-out", "hits.tsv"]
    return lambda: timed(lambda: subprocess.run(command, cwd=home, check=True, capture_output=True))[0]


def measure(told: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Everything in interleaved rounds; times are of one query."""
    pool = sample(told.fasta, told.sequences + 2 * told.asked, told.seed)
    made = told.atlas or embedded(told, list(dict.fromkeys(map(_rna, pool[2 * told.asked :])))[: told.sequences])
    database = held(made)
    known = set(database)
    asked = [text for text in dict.fromkeys(map(_rna, pool)) if text not in known][: told.asked]
    if not asked:
        raise SystemExit(f"{told.fasta}: all of its sequences are in the database; give another file for the queries")
    write_fasta(home / "database.fasta", database)
    write_fasta(home / "asked.fasta", asked)
    atlas = search_atlas.twin(made, home / "atlas")
    encode = raypipe.connect(atlas).embed
    np.save(home / "asked.npy", np.resize(encode(asked), (BATCH_SIZE, Store.open(atlas).embedding().dimension)))
    kind = search_atlas.resolve(told.type, len(database))
    entrant = ours("raypipe", atlas, 1, kind, told.recall, BATCH_SIZE, transform="auto")
    turns: dict[str, Callable[[], Turn]] = {
        SINGLE: lambda: _search(entrant, home, "single"),
        BATCH: lambda: _search(entrant, home, "batch"),
        ENCODER: lambda: _each(timed(lambda: [encode(text) for text in asked])[0], len(asked)),
    }
    if told.blastn:
        run = blastn(home)
        turns[BLASTN] = lambda: _each(run(), len(asked))
    interpreter = peer_environment.ensure(peer_environment.SEARCH_PEERS)
    command = [interpreter, "-m", "tests.benchmarks.search_nhmmer", home / "database.fasta"]
    warm = Warm(NHMMER, command, {})
    turns[NHMMER] = lambda: _each(warm.ask(queries=_dna(home / "asked.fasta")), len(asked))
    for name in (SINGLE, BATCH, ENCODER):
        turns[name]()
    rounds = interleave(list(turns), told.rounds, lambda name: turns[name]())
    entrant.warm.close()
    warm.close()
    return {
        "database": {"sequences": len(database), "nucleotides": sum(map(len, database))},
        "asked": {"sequences": len(asked), "nucleotides": statistics.mean(map(len, asked))},
        "recall": told.recall,
        "build": entrant.about,
        "versions": {**machine.versions(), **warm.hello["versions"], "blastn": _blast_version() if told.blastn else ""},
        "rounds": rounds,
        "cpu_ms": {name: spread([1000 * times[name]["cpu_s"] for times in rounds]) for name in turns},
        "ratios": {
            tool: {way: _ratio(rounds, tool, way) for way in (SINGLE, BATCH)} for tool in GOALS if tool in turns
        },
        "dimension": int(np.load(home / "asked.npy").shape[1]),
    }


def _search(entrant: Entrant, home: Path, way: str) -> Turn:
    """One turn of ours; times are of one query."""
    request = {"queries": str(home / "asked.npy"), "k": NEIGHBOURS, "point": {}}
    if way == "single":
        return _each(entrant.warm.ask(do="single", count=BATCH_SIZE, **request), 1)
    taken = entrant.warm.ask(do="batch", save=str(home / "found.npy"), least_s=LEAST_S, **request)
    return _each(taken, entrant.singles)


def _each(taken: dict[str, Any], count: int) -> Turn:
    return {name: taken[name] / count for name in ("wall_s", "cpu_s")}


def _ratio(rounds: Rounds, slow: str, fast: str) -> dict[str, float]:
    """By processor time, within each round."""
    return spread([times[slow]["cpu_s"] / times[fast]["cpu_s"] for times in rounds])


def _rna(sequence: str) -> str:
    """As an atlas holds it."""
    return sequence.upper().replace("T", "U")


def _dna(fasta: Path) -> list[str]:
    return fasta.read_text(encoding="ascii").split()[1::2]


def _blast_version() -> str:
    said = subprocess.run(["blastn", "-version"], check=True, capture_output=True, text=True).stdout
    return said.split()[1].rstrip("+")


def markdown(result: dict[str, Any]) -> str:
    """A short page."""
    found, host = result["found"], result["machine"]
    database, versions = found["database"], found["versions"]
    lines = [
        f"# Search by vectors against BLASTN and nhmmer, {result['date']}",
        f"- {database['sequences']:,} sequences, {database['nucleotides'] / 1e6:.1f} million nt; "
        f"{found['asked']['sequences']} others of `{result['fasta']}` as queries, "
        f"{found['asked']['nucleotides']:.0f} nt in the mean; "
        f"{result['rounds']} interleaved rounds.",
        f"- Ours: `{result['model']}`, {found['dimension']} values, {found['build']['type']}, "
        f"recall@10 of {found['recall']:g} asked for. BLASTN "
        f"{versions['blastn'] or 'is not installed here'}; nhmmer of pyhmmer {versions['pyhmmer']}. One thread "
        "each.",
        f"- {machine.words(host)}.",
        f"- {machine.load_words(host, loads(found['rounds']), 1)}",
        "- What each finds is not compared here.",
        "",
        "| | CPU ms per query, median | range |",
        "|---|---|---|",
        *(
            f"| {name} | {taken['median']:.3f} | {taken['low']:.3f} to {taken['high']:.3f} |"
            for name, taken in found["cpu_ms"].items()
        ),
        "",
        "| less processor time than, without the encoder | goal | one by one | in a batch | |",
        "|---|---|---|---|---|",
    ]
    for tool, ratios in found["ratios"].items():
        one, many = ratios[SINGLE], ratios[BATCH]
        met = "met" if one["median"] >= GOALS[tool] else "MISSED"
        lines.append(
            f"| {tool} | >= {GOALS[tool]}x | {one['median']:,.0f}x ({one['low']:,.0f} to {one['high']:,.0f}) | "
            f"{many['median']:,.0f}x ({many['low']:,.0f} to {many['high']:,.0f}) | {met}, one by one |"
        )
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    made = options.parser(__doc__)
    made.add_argument("--sequences", type=int, default=100_000)
    made.add_argument("--asked", type=int, default=20, help="queries")
    made.add_argument("--model", default="nano")
    made.add_argument("--atlas", type=Path, help="embedded already; its sequences are the database")
    made.add_argument("--type", default="ivf", help='"ivf", "auto" or a factory string')
    made.add_argument("--recall", type=float, default=0.995)
    told = made.parse_args(arguments)
    why = BLAST.missing()
    told.blastn = why is None
    if why is not None:
        print(f"without BLASTN: {why}", file=sys.stderr)
    before = machine.describe()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: told.threads])
    with tempfile.TemporaryDirectory() as name:
        found = measure(told, Path(name))
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": before,
        "fasta": told.fasta.name,
        "model": told.model,
        "threads": told.threads,
        "rounds": told.rounds,
        "found": found,
    }
    options.write(told.results, "search_tools", result, markdown(result))


if __name__ == "__main__":
    main()
