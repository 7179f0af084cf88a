"""What everything beside the encoder costs: Ray, reading, writing, receipts; and what a second actor brings.

    python -m tests.benchmarks.overhead [--rounds 3] [--sequences 2000] [--layers 1]

A bare loop calls `Model.embed` on the sequences of one shard after another and neither reads nor writes files. Everyone
has two threads in all, on two cores. In every round, in turn:

- bare: that loop over all shards, in one process of two threads; bare x2: two processes of one thread each at once,
  each with every other shard.
- inline, ray 1, ray 2: `raypipe embed` with `--executor inline`, `--workers 1` and `--workers 2` on a Ray of its own.

Compared are tokens/s from the end of the first shard of a worker to the end of its last one, added up over workers: so
the start of processes, Ray and models is left out, and waiting between shards is in. The time of the whole command of
raypipe stands beside it. Models: `nano`, and AIDO.RNA-650M's widths with few layers and random weights.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import machine, options
from tests.benchmarks.head_checkpoints import wide_checkpoint
from tests.benchmarks.rounds import spread
from tests.benchmarks.samples import sample

RAYPIPE = [str(Path(sys.executable).with_name("raypipe"))]
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
# Shards for each of two actors, so that the end of a run weighs little.
SHARDS = 16
CORES = 2


@dataclass(frozen=True)
class Done:
    """A shard that some worker has finished.

    Attributes:
        at: seconds since 1970.
    """

    worker: int
    tokens: int
    at: float


def rate(done: Sequence[Done]) -> float:
    """Tokens/s of all workers together, each without its first shard."""
    total = 0.0
    for worker in {one.worker for one in done}:
        own = sorted((one for one in done if one.worker == worker), key=lambda one: one.at)
        total += sum(one.tokens for one in own[1:]) / (own[-1].at - own[0].at)
    return total


def child(path: str, work: str, place: int, step: int) -> None:
    """The bare loop over every `step`-th shard; prints when each was finished."""
    import torch

    from model import load

    torch.set_num_threads(CORES // step)
    model = load(path)
    shards = json.loads(Path(work).read_text())[place::step]
    model.embed(shards[0][:8])
    print("ready", flush=True)
    sys.stdin.readline()
    ends = []
    for shard in shards:
        model.embed(shard)
        ends.append(time.time())
    print(json.dumps(ends), flush=True)


def bare(path: str, work: Path, processes: int) -> float:
    """Tokens/s of the bare loop in so many processes."""
    shards = json.loads(work.read_text())
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.overhead", "--child", path, str(work), str(place), str(processes)],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for place in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    done = []
    for place, process in enumerate(running):
        ends = json.loads(process.communicate()[0])
        done += [Done(place, tokens(shard), at) for shard, at in zip(shards[place::processes], ends, strict=True)]
    return rate(done)


def tokens(shard: Sequence[str]) -> int:
    """That the model reads for sequences within its context."""
    return sum(len(sequence) + 2 for sequence in shard)


def embed(path: str, atlas: Path, *options: str) -> tuple[float, float]:
    """Tokens/s of a run by its receipts, and seconds of the whole command; the vectors are removed again."""
    begin = time.perf_counter()
    command = [*RAYPIPE, "embed", str(atlas), "--model", path, "--shard-tokens", shard_tokens(atlas), *options]
    subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True)
    whole = time.perf_counter() - begin
    (file,) = atlas.glob("embeddings/*/receipts.jsonl")
    receipts = [json.loads(line) for line in file.read_text().splitlines()]
    done = [Done(one["pid"], one["tokens"], one["finished_at"]) for one in receipts]
    for shard in atlas.glob("embeddings/*/part-*"):
        shard.unlink()
    file.unlink()
    return rate(done), whole


def shard_tokens(atlas: Path) -> str:
    """So that there are SHARDS of them."""
    from index.store import Store
    from raypipe.work import sequence_lengths

    lengths = sequence_lengths(Store.open(atlas), 0)
    return str(int((lengths + 2).sum()) // SHARDS + 1)


def shards_of(atlas: Path) -> list[list[str]]:
    """The sequences of every shard of the plan of an atlas, in the order of work."""
    from index.store import Store
    from raypipe.actors import read_sequences
    from raypipe.plan import merge, read_plan

    store = Store.open(atlas)
    tasks = merge([read_plan(store, store.embedding())])
    ordered = sorted(tasks, key=lambda task: -task.tokens / task.num_sequences)
    return [read_sequences(store, task)[1] for task in ordered]


CONTESTANTS = ("bare", "inline", "ray 1", "bare x2", "ray 2")
RATIOS = {
    "inline": ("inline", "bare"),
    "ray, one actor": ("ray 1", "bare"),
    "ray, two actors against two bare processes": ("ray 2", "bare x2"),
    "two bare processes against one": ("bare x2", "bare"),
}


def one_model(path: str, sequences: list[str], rounds: int) -> dict[str, Any]:
    """All rounds with one model."""
    found: list[dict[str, float]] = []
    commands: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as home:
        fasta, atlas, work = Path(home) / "in.fa", Path(home) / "atlas", Path(home) / "work.json"
        fasta.write_text("".join(f">s{place}\n{text}\n" for place, text in enumerate(sequences)))
        subprocess.run([*RAYPIPE, "ingest", str(fasta), "-o", str(atlas)], check=True, capture_output=True)
        embed(path, atlas, "--executor", "inline")
        work.write_text(json.dumps(shards_of(atlas)))
        options: dict[str, list[str]] = {"inline": ["--executor", "inline"]}
        options |= {f"ray {count}": ["--workers", str(count)] for count in (1, 2)}
        for number in range(rounds):
            turn: dict[str, float] = {}
            for name in CONTESTANTS:
                if name in options:
                    turn[name], whole = embed(path, atlas, *options[name])
                    commands.setdefault(name, []).append(whole)
                else:
                    turn[name] = bare(path, work, 2 if name == "bare x2" else 1)
                print(f"round {number + 1}: {name:8} {turn[name]:10,.0f} tokens/s", flush=True)
            found.append(turn)
    return {
        "sequences": len(sequences),
        "tokens": tokens(sequences),
        "rounds": found,
        "commands_s": commands,
        "ratios": {name: spread([turn[one] / turn[other] for turn in found]) for name, (one, other) in RATIOS.items()},
    }


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    about = result["machine"]
    lines = [
        f"# raypipe embed beside the encoder, {result['date']}",
        "",
        f"{machine.words(about)}, load {about['load_average']}. "
        "`python -m tests.benchmarks.overhead`; what is compared stands at its top. Ratios of tokens/s in the same "
        "round: median (lowest to highest).",
        "",
    ]
    for name, model in result["models"].items():
        lines += [
            f"## {name}: {model['sequences']:,} sequences, {model['tokens']:,} tokens, {len(model['rounds'])} rounds",
            "",
            "| | tokens/s, median | whole command, s |",
            "|---|---|---|",
        ]
        for who in CONTESTANTS:
            median = statistics.median(turn[who] for turn in model["rounds"])
            whole = model["commands_s"].get(who)
            lines.append(f"| {who} | {median:,.0f} | {f'{statistics.median(whole):.1f}' if whole else ''} |")
        lines += ["", "| ratio | |", "|---|---|"]
        for what, found in model["ratios"].items():
            lines.append(f"| {what} | {found['median']:.3f} ({found['low']:.3f} to {found['high']:.3f}) |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--child"]:
        path, work, place, step = words[1:]
        child(path, work, int(place), int(step))
        return
    made = options.parser(__doc__, layers=1)
    made.add_argument("--sequences", type=int, default=2000, help="for two actors")
    told = made.parse_args(words)
    before = machine.describe()
    # Whatever else this machine has: children of this process inherit it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    models: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        wide = Path(home) / "wide"
        wide_checkpoint(wide, told.layers, told.seed)
        for name, path, longest in (("nano", "nano", 100), (f"650M widths, layers: {told.layers}", str(wide), 50)):
            sequences = sample(told.fasta, told.sequences, told.seed, longest)
            models[name] = one_model(path, sequences, told.rounds)
    result = {"date": datetime.date.today().isoformat(), "machine": before, "models": models}
    options.write(told.results, "overhead", result, page(result))


if __name__ == "__main__":
    main()
