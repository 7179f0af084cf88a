"""The GPU path in figures: how much of the chip the trunk gets, where the time goes, and that the results are right.

    python -m tests.benchmarks.gpu [--models 650M 1.6B] [--budget 33792] [--sweep] [--no-compile] [--results FOLDER]
    python -m tests.benchmarks.gpu --smoke        # on a CPU, a tiny trunk: that it runs; its figures mean nothing

Needs torch, safetensors and numpy (pyarrow only to write Parquet in the actor's loop; without it .npy is written), and
no download: weights are random, in the true shapes, which may be kinder to rounding than trained ones; so fidelity is
also measured with `nano`, which ships with the package. On CUDA only, but for --smoke. In this order, for each model:

1. Correctness: packed float32 against a padded textbook encoder of the same weights. Nothing goes on without it.
2. Fidelity of bfloat16 (and of 8-bit products) to float32: cosines of pooled vectors, shared ten nearest, and what the
   order of the sequences changes in a vector.
3. Speed on the length mix of ncRNAs cut at 1022 (length_mix.json), in constant batches: real tokens only, special ones
   counted, filler not. "Of peak": operations of real tokens a second over those of an 8192^3 product in bfloat16 that
   is timed in the same run. "Of ceiling": the time of the same products and attention alone over the whole's.
4. Parts: every product of a layer, attention by length, what stands between, plain and compiled, pooling.
5. The loop of an actor, padded SDPA batches of 32 in a shuffle, peaks of memory beside those that are computed.

Results go to tests/benchmarks/results/ as JSON and Markdown.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.steps import no_compiler
from tests.benchmarks import gpu_parts, gpu_runs, machine
from tests.benchmarks.gpu_report import page
from tests.benchmarks.gpu_setup import NAMES, Bench

RESULTS = Path(__file__).resolve().parent / "results"
BUDGET = 33_792  # whole waves of 128-row tiles over 132 multiprocessors
SWEEP = (8_448, 16_896, 33_792, 67_584)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--models", nargs="+", choices=[*NAMES], default=[*NAMES])
    made.add_argument("--budget", type=int, default=BUDGET, help="tokens of a batch")
    made.add_argument("--sweep", action="store_true", help=f"the forward pass of the first model at budgets of {SWEEP}")
    made.add_argument("--no-compile", action="store_true", help="plain layers")
    made.add_argument("--smoke", action="store_true", help="a tiny trunk on the CPU")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--results", type=Path, default=RESULTS)
    return made


def measure(told: argparse.Namespace) -> dict[str, Any]:
    """Run all of it; returns what `gpu_report.page` makes a page of.

    Raises:
        SystemExit: there is no CUDA device, layers cannot be compiled, or results are wrong; the message says which.
    """
    if told.smoke:
        bench = Bench(torch.device("cpu"), smoke=True, budget=512, batches=2, repeats=1)
        compile, float8 = False, True
    else:
        if not torch.cuda.is_available():
            raise SystemExit("torch sees no CUDA device here, and these figures are of one; --smoke runs it in small")
        compile = not told.no_compile
        if compile and (obstacle := no_compiler()):
            raise SystemExit(f"layers cannot be compiled: {obstacle}; install it, or measure with --no-compile")
        bench = Bench(torch.device("cuda"), smoke=False, budget=told.budget, batches=12, repeats=5)
        float8 = torch.cuda.get_device_capability() >= (8, 9)
    begun = time.perf_counter()
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": ["python", "-m", "tests.benchmarks.gpu", *sys.argv[1:]],
        "smoke": told.smoke,
        "device": "cpu" if told.smoke else torch.cuda.get_device_name(),
        "machine": machine.describe(),
        "versions": machine.versions() | {"torch": torch.__version__, "cuda": torch.version.cuda},
        "settings": {"budget": bench.budget, "batches": bench.batches, "compiled": compile, "seed": told.seed},
        "peak_flops": gpu_parts.peak(bench),
        "nano": gpu_runs.trained(bench, told.seed, float8=float8),
        "models": {},
    }
    for name in told.models:
        print(f"{name} ...", file=sys.stderr, flush=True)
        result["models"][name] = gpu_runs.one_model(bench, name, told.seed, compile=compile, float8=float8)
    if told.sweep:
        budgets = (256, 512) if told.smoke else SWEEP
        benches = [replace(bench, budget=budget) for budget in budgets]
        result["sweep"] = {
            each.budget: gpu_runs.sweep(each, told.models[0], told.seed, compile=compile) for each in benches
        }
    result["seconds"] = time.perf_counter() - begun
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    told = parser().parse_args(arguments)
    result = measure(told)
    told.results.mkdir(parents=True, exist_ok=True)
    stem = told.results / f"gpu-{result['date']}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
