"""Memory that maps of pairs take beyond the model, on the CPU: peak of the process, one case to a process.

    python -m tests.benchmarks.head_memory [--layers 2] [--threads 2]

The trunk has random weights, the widths of AIDO.RNA-650M and a few layers: activations do not grow with their number.
A process loads it, makes one random head, reads a short sequence, notes its peak, then reads the sequence that is
measured with `Model.loss`, which makes the map and drops it. Results go to tests/benchmarks/results/ as JSON and
Markdown.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import machine, options

ROOT = Path(__file__).resolve().parents[2]
# Kind of head, labels, nucleotides; the last is read in windows of 1022.
CASES = (
    ("sequence", 1, 1022),
    ("contact", 1, 1022),
    ("contact", 10, 1022),
    ("structure", 1, 1022),
    ("structure", 1, 4096),
)


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(folder: str, kind: Any, labels: int, length: int) -> None:
    """Measure one case and print it."""
    from model import HeadConfig, load

    model = load(folder)
    problem = None if kind == "structure" else "binary" if labels == 1 else "multiclass"
    pooling = "mean" if kind == "sequence" else "pooler"
    model.add_head("head", HeadConfig(kind, problem, labels, pooling=pooling))
    sequence = "".join(np.random.default_rng(0).choice(list("ACGU"), length))

    def read(nucleotides: int) -> None:
        label = 1 if kind == "sequence" else np.zeros((nucleotides, nucleotides), np.int8)
        model.loss([sequence[:nucleotides]], [label], head="head")

    read(50)
    before = peak_mib()
    read(length)
    print(json.dumps({"loaded_mib": before, "peak_mib": peak_mib()}))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run every case in a process of its own."""
    from tests.benchmarks.head_checkpoints import wide_checkpoint

    # What is freed goes back at once: the allocator's own habits are not what is measured.
    environment = os.environ | {"OMP_NUM_THREADS": str(given.threads), "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        wide_checkpoint(Path(scratch) / "wide", given.layers, given.seed)
        for kind, labels, length in CASES:
            command = [sys.executable, "-m", "tests.benchmarks.head_memory", "--child", f"{scratch}/wide", kind]
            command += [str(labels), str(length)]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
            found.append({"kind": kind, "labels": labels, "length": length, **json.loads(done.stdout)})
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "settings": {"layers": given.layers, "threads": given.threads},
        "cases": found,
    }


def markdown(result: dict[str, Any]) -> str:
    """A short page."""
    lines = [
        f"# Memory of maps of pairs, {result['date']}",
        f"- Widths of AIDO.RNA-650M, {result['settings']['layers']} layers, random weights, float32, one sequence.",
        "- Beyond the model: the rise of the process's peak, trunk activations of the sequence included.",
        "- Materialised products of all pairs would take 5.0 GiB for the contact head, interleaved ones 10.0 GiB for "
        "the structure head, at 1022 nt.",
        "",
        "| head | labels | nucleotides | beyond the model, MiB |",
        "|---|---|---|---|",
        *(
            f"| {case['kind']} | {case['labels']} | {case['length']} | {case['peak_mib'] - case['loaded_mib']:.0f} |"
            for case in result["cases"]
        ),
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = options.parser(__doc__, layers=2)
    given = parser.parse_args(arguments)
    result = measure(given)
    options.write(given.results, "head_memory", result, markdown(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
