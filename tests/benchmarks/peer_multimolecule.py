"""Embeddings per second on the CPU, ours against multimolecule 0.0.8 (the release that has AIDO.RNA).

    python -m tests.benchmarks.peer_multimolecule [--fasta FILE] [--sequences 32] [--layers 4] [--rounds 3]

Both load the same random checkpoint with the widths of AIDO.RNA-650M and a few layers, and embed the same
sequences of a FASTA file, cut at 1022 nt: evenly spaced by length, so that a few have the file's mix of
lengths and with it its padding waste, in a seeded shuffle. Four processes stay warm and take turns with the
same number of threads, the order turning from round to round: the peer in float32 and in bfloat16 (padded
batches of 32 in the shuffled order, eager attention, as it is published and used), ours in float32 and in
bfloat16. A turn is the way from strings to mean-pooled embeddings. Ratios are taken within a round, then the
median over the rounds, so that a machine that is busy with other things disturbs both sides alike.

Random weights: speed does not depend on them; the agreement in float32 is as strict as with real ones, the
cosine of bfloat16 to float32 may be kinder. Results go to tests/benchmarks/results/ as JSON and Markdown.
The peer is AGPL-3.0 and lives in an environment of its own under `.bench/` (or RAYPIPE_BENCH_DIR).
"""

from __future__ import annotations

import argparse
import datetime
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.benchmarks import machine, options
from tests.benchmarks.peer_process import ROLES, Worker, checkpoint
from tests.benchmarks.peer_report import markdown, padding, summarise
from tests.benchmarks.rounds import Turn, interleave
from tests.benchmarks.samples import sample


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds; returns what peer_report.py makes a page of."""
    weights = checkpoint(given.layers)
    sequences = sample(given.fasta, given.sequences, given.seed)
    before = machine.describe()
    workers = {
        worker.name: worker
        for worker in (
            Worker(role, dtype, weights, "embed", given.threads) for role in ROLES for dtype in ("float32", "bfloat16")
        )
    }
    embeddings: dict[str, np.ndarray] = {}

    def turn(name: str) -> Turn:
        times = workers[name].ask(sequences)
        embeddings[name] = np.load(workers[name].saved)
        return times

    try:
        for worker in workers.values():
            worker.ask([sequence[:120] for sequence in sequences[:8]])
        rounds = interleave(list(workers), given.rounds, turn)
    finally:
        for worker in workers.values():
            worker.close()
    lengths = [len(sequence) for sequence in sequences]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": before,
        "versions": {worker.role: worker.hello["versions"] for worker in workers.values()},
        "settings": {
            "fasta": given.fasta.name,
            "sequences": len(sequences),
            "seed": given.seed,
            "layers": given.layers,
            "threads": given.threads,
            "rounds": given.rounds,
        },
        "lengths": {
            "mean": statistics.fmean(lengths),
            "median": statistics.median(lengths),
            "longest": max(lengths),
        },
        "padding": padding(lengths),
        "rounds": rounds,
        **summarise(rounds, embeddings, len(sequences)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = options.parser(__doc__)
    parser.add_argument("--sequences", type=int, default=32)
    given = parser.parse_args(arguments)
    result = measure(given)
    options.write(given.results, "peer_multimolecule", result, markdown(result))


if __name__ == "__main__":
    main()
