"""Three heads in one pass of the trunk against three passes, on the CPU.

    python -m tests.benchmarks.heads [--fasta FILE] [--sequences 24] [--longest 400] [--layers 4] [--rounds 3]

A sequence head (classes, mean pooling), a token head and a structure head read two trunks: one of random weights with
the widths of AIDO.RNA-650M and a few layers, and `nano`, which is small. The heads have random weights and are adapters
in a temporary copy of the checkpoint, so what is timed is the way of everybody: `Model.predict` with three heads
against three calls with one each, and `Model.features` with embeddings and three heads against four calls, on real
sequences of mixed lengths. The structure head's bias is moved so that as many pairs lie above the threshold as there
are nucleotides: random pairs at a probability of one half would give the decoder far more to do than a trained head.

Besides, the parts alone: the trunk, and each head on states that are kept. They say what can be saved at best: with
trunk T and heads H1 + H2 + H3 = H, three passes take 3 T + H and one T + H. So the ratio is near 3 where the trunk is
most of the work and near 1 where a head is; a head's own work is never saved. All take turns in interleaved rounds, see
rounds.py. Results go to tests/benchmarks/results/ as JSON and Markdown.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model import Model, load, registry, shipped_checkpoint
from model.head_runs import HeadRun
from model.packing import Batch
from model.passes import Reading, run
from model.predictions import Decision
from model.windows import cut
from tests.benchmarks import machine, options
from tests.benchmarks.head_checkpoints import CONFIGS, WIDE, wide_checkpoint, write_heads
from tests.benchmarks.heads_report import EMBEDDINGS, EVERYTHING, HEADS, ONE_PASS, TRUNK, alone, markdown, summarise
from tests.benchmarks.rounds import Turn, interleave
from tests.benchmarks.samples import sample


@dataclass
class Kept:
    """A consumer that keeps the last state of every batch."""

    layer: int
    states: list[tuple[Batch, Tensor]]

    def add(self, batch: Batch, hidden: Tensor) -> None:
        """See `model.passes.Consumer`."""
        self.states.append((batch, hidden))


class Contest:
    """Everything that takes a turn on one trunk.

    Args:
        folder: a checkpoint with the adapters of `CONFIGS`.
        sequences: to read.
        dtype: type of the trunk's computation.

    Attributes:
        turns: by name, what to time.
        predictions: what the last pass with all heads, and the last with each head alone, gave.
    """

    def __init__(self, folder: Path, sequences: list[str], dtype: str) -> None:
        self.model = load(folder, dtype=dtype)
        self.sequences = sequences
        self.reading = read(self.model, sequences)
        # Reads the heads' files, too.
        self.model.predict([sequence[:60] for sequence in sequences], HEADS, dense=False)
        self.kept = self._trunk()
        self.predictions: dict[str, dict[str, list[Any]]] = {}
        self.turns: dict[str, Callable[[], object]] = {
            ONE_PASS: lambda: self._predict(ONE_PASS, HEADS),
            **{head: lambda head=head: self._predict(head, [head]) for head in HEADS},
            EMBEDDINGS: lambda: self.model.embed(sequences),
            EVERYTHING: lambda: self.model.features(sequences, heads=HEADS),
            TRUNK: self._trunk,
            **{alone(head): lambda head=head: self._head(head) for head in HEADS},
        }

    def take(self, name: str) -> Turn:
        """Time one turn."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.turns[name]()
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}

    def largest_difference(self) -> float:
        """Between what a head says in the pass of three and alone: of probabilities, over everything they say."""
        return max(
            difference(together, single)
            for head in HEADS
            for together, single in zip(self.predictions[ONE_PASS][head], self.predictions[head][head], strict=True)
        )

    def _predict(self, name: str, heads: Sequence[str]) -> None:
        self.predictions[name] = self.model.predict(self.sequences, heads, dense=False)

    def _trunk(self) -> list[tuple[Batch, Tensor]]:
        kept = Kept(self.model.config.num_layers, [])
        run(self.model.module, self.reading, [kept])
        return kept.states

    def _head(self, name: str) -> None:
        """What a pass does for a head once the trunk has given its states."""
        config, module = self.model.heads[name].config, self.model.head_module(name)
        decision, reading = Decision(name, config), self.reading
        head = HeadRun(
            name,
            config,
            module,
            self.model.module,
            reading,
            lambda i, logits: decision.predict(logits, reading.kept_text(i)),
        )
        with torch.inference_mode():
            for batch, hidden in self.kept:
                head.consumer.add(batch, hidden)
        head.values()


def read(model: Model, sequences: list[str]) -> Reading:
    """The sequences as a pass reads them."""
    tokens = model.alphabet.encode(sequences)
    windows = cut(tokens.lengths, size=model.config.context, long="window")
    return Reading(tokens, windows, model.alphabet, 8192, model.device)


def difference(left: Any, right: Any) -> float:
    """Of two predictions of one head for one sequence; infinite where they do not name the same pairs or labels."""
    if hasattr(left, "score"):
        same = np.array_equal(left.i, right.i) and np.array_equal(left.j, right.j) and left.structure == right.structure
        return float(np.abs(left.score - right.score).max(initial=0)) if same else float("inf")
    same = left.labels == right.labels and getattr(left, "label", None) == getattr(right, "label", None)
    return float(np.abs(left.values - right.values).max()) if same else float("inf")


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds on both trunks; returns what heads_report.py makes a page of."""
    torch.set_num_threads(given.threads)
    sequences = sample(given.fasta, given.sequences, given.seed, given.longest)
    before = machine.describe()
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in (WIDE, "nano"):
            folder = Path(scratch) / name
            if name == WIDE:
                wide_checkpoint(folder, given.layers, given.seed)
            else:
                shutil.copytree(shipped_checkpoint(name), folder)
            write_heads(folder, sequences, given.seed)
            contest = Contest(folder, sequences, given.dtype)
            layers = contest.model.config.num_layers
            print(f"{name}, {layers} layers", flush=True)
            rounds = interleave(list(contest.turns), given.rounds, contest.take)
            cases[name] = summarise(rounds, layers, registry.get(name).num_layers) | {
                "largest_difference": contest.largest_difference()
            }
    lengths = [len(sequence) for sequence in sequences]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": before,
        "versions": machine.versions(),
        "settings": {
            "fasta": given.fasta.name,
            "sequences": len(sequences),
            "seed": given.seed,
            "layers": given.layers,
            "dtype": given.dtype,
            "threads": given.threads,
            "rounds": given.rounds,
        },
        "heads": {name: config.to_json() for name, config in CONFIGS.items()},
        "lengths": {
            "mean": statistics.fmean(lengths),
            "median": statistics.median(lengths),
            "longest": max(lengths),
        },
        "cases": cases,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = options.parser(__doc__)
    parser.add_argument("--sequences", type=int, default=24)
    parser.add_argument("--longest", type=int, default=400, help="where sequences are cut, nt")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the trunk")
    given = parser.parse_args(arguments)
    result = measure(given)
    options.write(given.results, "heads", result, markdown(result))


if __name__ == "__main__":
    main()
