"""The trunk on the CPU, packed by oneDNN in float32 and bfloat16, against padded float32 batches of 32.

    python -m tests.benchmarks.cpu [--fasta FILE] [--sequences 32] [--layers 4] [--rounds 3] [--threads 2]

A random checkpoint with the widths of AIDO.RNA-650M and a few layers embeds the same sequences of a FASTA file, cut at
1022 nt, evenly spaced by length and in a seeded shuffle, from strings to mean-pooled vectors. The baseline has the same
weights and torch's own fast parts (SDPA, its linear maps), and pads each batch to its longest sequence. All take turns
in one process, who begins moving on from round to round; ratios are taken within a round, then the median.

Speed does not depend on the weights, rounding does: what bfloat16 and the emulated 8-bit products cost is said for
`nano`, whose weights are trained. Targets: 4.5 times the baseline in float32, 8 times in bfloat16 (on a processor with
instructions for it). Results go to tests/benchmarks/results/ as JSON and Markdown.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import load
from tests.benchmarks import machine, options
from tests.benchmarks.gpu_runs import padded_pass
from tests.benchmarks.gpu_setup import PADDED_BATCH, cosines, overlap, padded_batches
from tests.benchmarks.head_checkpoints import wide_checkpoint
from tests.benchmarks.peer_report import padding
from tests.benchmarks.rounds import Turn, interleave, loads, ratio, spread
from tests.benchmarks.samples import sample

BASELINE = "padded float32"
TARGETS = {"packed float32": 4.5, "packed bfloat16": 8.0}
WITNESSES = 500


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds; returns what `page` makes a page of."""
    before = machine.describe()
    torch.set_num_threads(given.threads)
    sequences = sample(given.fasta, given.sequences, given.seed)
    witnesses = sample(given.fasta, WITNESSES, given.seed)  # a file that has too few is refused before the rounds
    with tempfile.TemporaryDirectory() as home:
        wide_checkpoint(Path(home) / "wide", given.layers, given.seed)
        exact, half = (load(Path(home) / "wide", dtype=dtype) for dtype in ("float32", "bfloat16"))

    def baseline() -> np.ndarray:
        batches = padded_batches(sequences, exact.device)
        return torch.cat([padded_pass(exact.module, *batch) for batch in batches]).numpy()

    contestants: dict[str, Callable[[], np.ndarray]] = {
        BASELINE: baseline,
        "packed float32": lambda: exact.embed(sequences),
        "packed bfloat16": lambda: half.embed(sequences),
    }
    vectors: dict[str, np.ndarray] = {}

    def turn(name: str) -> Turn:
        wall, cpu = time.perf_counter(), time.process_time()
        vectors[name] = contestants[name]()
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}

    for model in (exact, half):
        model.embed(["ACGU" * 30])
    rounds = interleave(list(contestants), given.rounds, turn)
    difference = np.abs(vectors["packed float32"] - vectors[BASELINE]).max() / np.abs(vectors[BASELINE]).max()
    lengths = [len(sequence) for sequence in sequences]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": before,
        "versions": machine.versions(),
        # Of a file its name alone: where it lies is nobody's business.
        "settings": {
            name: value.name if isinstance(value, Path) else str(value)
            for name, value in vars(given).items()
            if name != "results"
        },
        "padding": padding(lengths),
        "rounds": rounds,
        "tokens_per_s": {
            name: spread([(sum(lengths) + 2 * len(lengths)) / times[name]["wall_s"] for times in rounds])
            for name in contestants
        },
        "ratios": {name: {**ratio(rounds, [BASELINE], [name]), "target": target} for name, target in TARGETS.items()},
        "difference": float(difference),
        "bfloat16_worst_cosine": float(cosines(vectors["packed bfloat16"], vectors["packed float32"]).min()),
        "nano": trained(witnesses),
    }


def trained(sequences: list[str]) -> dict[str, dict[str, float]]:
    """Fidelity to float32 of `nano`: cosines of pooled vectors, also without their mean, and shared ten nearest."""
    exact = load("nano").embed(sequences)
    found = {}
    for dtype in ("bfloat16", "float8"):
        ours = load("nano", dtype=dtype).embed(sequences)
        found[dtype] = {"neighbours": overlap(ours, exact)}
        for name, common in (("", 0.0), ("centred_", exact.mean(0))):
            near = cosines(ours - common, exact - common)
            found[dtype] |= {f"{name}median": float(np.median(near)), f"{name}worst": float(near.min())}
    return found


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    settings, pad = result["settings"], result["padding"]
    lines = [
        f"# The trunk on the CPU against padded float32, {result['date']}",
        "",
        f"- {machine.words(result['machine'])}; torch {result['versions']['torch']}; {settings['threads']} threads.",
        f"- {settings['sequences']} sequences, widths of the 650M model, {settings['layers']} layers, random weights; "
        f"{settings['rounds']} interleaved rounds.",
        f"- Padded batches of {PADDED_BATCH} compute {pad['padded_tokens']:,} tokens for {pad['tokens']:,} real ones: "
        f"{pad['factor']:.2f}x.",
        f"- {machine.load_words(result['machine'], loads(result['rounds']), int(settings['threads']))}",
        "",
        "| | real tokens/s, median | range |",
        "|---|---|---|",
        *(
            f"| {name} | {s['median']:,.0f} | {s['low']:,.0f}-{s['high']:,.0f} |"
            for name, s in result["tokens_per_s"].items()
        ),
        "",
        f"| times the speed of {BASELINE} | median | range | by processor time | target |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {r['median']:.1f}x | {r['low']:.1f}-{r['high']:.1f}x | {r['cpu']:.1f}x | {r['target']:g}x: "
            f"{'met' if r['median'] >= r['target'] else 'MISSED'} |"
            for name, r in result["ratios"].items()
        ),
        "",
        f"Packed float32 is {result['difference']:.1e} of the largest value from padded float32; worst cosine of "
        f"bfloat16 to float32 with these random weights {result['bfloat16_worst_cosine']:.6f}.",
        "",
        f"What rounding costs trained weights: `nano`, {WITNESSES:,} sequences, pooled vectors against float32. float8 "
        "is emulated, and is for the products of two of its four layers.",
        "",
        "| | cosine, median | worst | means subtracted, median | worst | shared 10 nearest |",
        "|---|---|---|---|---|---|",
        *(
            f"| {dtype} | {f['median']:.6f} | {f['worst']:.6f} | {f['centred_median']:.6f} | "
            f"{f['centred_worst']:.6f} | {f['neighbours']:.3f} |"
            for dtype, f in result["nano"].items()
        ),
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = options.parser(__doc__)
    parser.add_argument("--sequences", type=int, default=32)
    given = parser.parse_args(arguments)
    result = measure(given)
    options.write(given.results, "cpu", result, page(result))


if __name__ == "__main__":
    main()
