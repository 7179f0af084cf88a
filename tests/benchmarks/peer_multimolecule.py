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
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import dnaio
import numpy as np

from tests.benchmarks import machine, peer_environment
from tests.benchmarks.peer_report import LONGEST, markdown, padding, summarise

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VARIANTS = (
    ("multimolecule", "float32"),
    ("multimolecule", "bfloat16"),
    ("raypipe", "float32"),
    ("raypipe", "bfloat16"),
)


class Worker:
    """A warm process that embeds on request; see peer_worker.py."""

    def __init__(self, interpreter: Path, role: str, dtype: str, checkpoint: Path, threads: int) -> None:
        self.role, self.dtype = role, dtype
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
        }
        command = [interpreter, HERE / "peer_worker.py", role, checkpoint, dtype, "--threads", str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.hello = self._answer()

    @property
    def name(self) -> str:
        """Role and compute type, as in the results."""
        return f"{self.role} {self.dtype}"

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the process ended with code {self.process.wait()}; see above")
        return json.loads(line)

    def embed(self, sequences: list[str], save: Path | None = None) -> dict[str, float]:
        """Embed once; returns `wall_s` and `cpu_s`."""
        assert self.process.stdin is not None
        request = {"sequences": sequences, "save": str(save) if save else None}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Let the process end and wait for it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def default_fasta() -> Path:
    """The real mix of ncRNAs beside the checkout where there is one, else the demo corpus."""
    shared = ROOT.parent / "shared" / "data" / "ncrna.fasta.gz"
    return shared if shared.is_file() else ROOT / "raypipe" / "demo_data" / "demo.fasta.gz"


def sample(fasta: Path, count: int, seed: int) -> list[str]:
    """Evenly spaced sequences of the file sorted by length, cut at 1022 nt, in a seeded shuffle."""
    with dnaio.open(fasta) as reader:
        pool = sorted((record.sequence for record in reader), key=lambda sequence: (len(sequence), sequence))
    if len(pool) < count:
        raise SystemExit(f"{fasta} has {len(pool)} sequences, {count} are asked for; lower --sequences")
    chosen = [pool[(2 * place + 1) * len(pool) // (2 * count)][:LONGEST] for place in range(count)]
    random.Random(seed).shuffle(chosen)
    return chosen


def checkpoint(interpreter: Path, layers: int) -> Path:
    """The random checkpoint of so many layers, made once."""
    folder = peer_environment.cache_folder() / f"checkpoint-650m-{layers}-layers"
    if not (folder / "vocab.txt").exists():
        command = [interpreter, HERE / "peer_worker.py", "make", folder, "--layers", str(layers)]
        subprocess.run(command, check=True)
    return folder


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds; returns what peer_report.py makes a page of."""
    interpreter = peer_environment.ensure()
    weights = checkpoint(interpreter, options.layers)
    sequences = sample(options.fasta, options.sequences, options.seed)
    before = machine.describe()
    interpreters = {"multimolecule": interpreter, "raypipe": Path(sys.executable)}
    workers = [Worker(interpreters[role], role, dtype, weights, options.threads) for role, dtype in VARIANTS]
    rounds: list[dict[str, dict[str, float]]] = []
    embeddings: dict[str, np.ndarray] = {}
    try:
        warm_up = [sequence[:120] for sequence in sequences[:8]]
        for worker in workers:
            worker.embed(warm_up)
        for number in range(options.rounds):
            turn = number % len(workers)
            times: dict[str, dict[str, float]] = {}
            for worker in workers[turn:] + workers[:turn]:
                saved = peer_environment.cache_folder() / f"{worker.role}-{worker.dtype}.npy"
                times[worker.name] = worker.embed(sequences, saved)
                times[worker.name]["load_average"] = os.getloadavg()[0]
                embeddings[worker.name] = np.load(saved)
                wall = times[worker.name]["wall_s"]
                print(f"round {number + 1}: {worker.name:24s} {len(sequences) / wall:8.2f} embeddings/s")
            rounds.append(times)
    finally:
        for worker in workers:
            worker.close()
    lengths = [len(sequence) for sequence in sequences]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": before,
        "versions": {worker.role: worker.hello["versions"] for worker in workers},
        "settings": {
            "fasta": options.fasta.name,
            "sequences": len(sequences),
            "seed": options.seed,
            "layers": options.layers,
            "threads": options.threads,
            "rounds": options.rounds,
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


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--fasta", type=Path, default=default_fasta())
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    result = measure(options)
    options.results.mkdir(parents=True, exist_ok=True)
    stem = options.results / f"peer_multimolecule-{result['date']}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    page = markdown(result)
    stem.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
