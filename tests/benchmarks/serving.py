"""The server beside what it is made of: calls in the process, a trivial handler, the bare encoder, Ray Serve.

    python -m tests.benchmarks.serving [--rounds 3] [--rows 100000] [--seconds 5] [--soak 180] [--no-ray]

Server and load share this machine's cores. The load is a process of its own, tests/benchmarks/serving_load.py. In every
round, in turn:

- in-process: `Atlas.search` by id and by vector in one thread, hits as dictionaries.
- trivial: FastAPI by uvicorn, a handler that parses the request and answers ten hits that stand ready.
- uvicorn: `raypipe serve`, by id and by vector (JSON, Arrow), one client for the latency, several for the rate.
- encoder: `Model.embed` of nano on lists of 256 sequences; and `raypipe serve` by one sequence a request.
- haproxy, proxy: `raypipe serve --ray` with one replica, behind HAProxy and behind Ray Serve's own proxy.

At the end the soak: all kinds of requests for --soak seconds, and the memory of the server every five of them.
The atlas: --rows made vectors of 512 values that pass for nano's, an IVF index, one annotation table of as many rows.
"""

from __future__ import annotations

import datetime
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raypipe.cleaning import clean
from tests.benchmarks import machine, options, serving_atlas
from tests.benchmarks.rounds import spread
from tests.benchmarks.samples import sample
from tests.benchmarks.serving_load import load
from tests.benchmarks.serving_parts import by_id, by_sequence, by_vector, measured, part, raypipe, resident, server

MANY = 32
FOR_RATE = 16
LONGEST = 500
SOAK_EVERY = 5.0


def one_round(work: dict[str, Any], seconds: float, ray: bool) -> dict[str, Any]:
    """One turn of everybody."""
    turn: dict[str, Any] = {}
    rows, atlas = work["rows"], work["atlas"]
    turn["in-process"] = measured(
        "in-process", str(atlas), str(work["folder"] / "queries.npy"), str(rows), str(seconds)
    )
    with server(part("trivial")) as (address, _):
        turn["trivial"] = {
            "1": load(address, work["id"], 1, seconds),
            "16": load(address, work["id"], FOR_RATE, seconds),
        }
    turn["encoder"] = measured("encoder", str(work["texts"]), str(2 * seconds))
    with server(raypipe(atlas)) as (address, _):
        turn["uvicorn"] = {
            f"{kind} {clients}": load(address, work[kind], clients, seconds)
            for kind in ("id", "vector", "arrow")
            for clients in (1, FOR_RATE, MANY)
        }
        turn["uvicorn"][f"sequence {MANY}"] = load(address, work["sequence"], MANY, 2 * seconds)
        turn["uvicorn"]["sequence 1"] = load(address, work["sequence"], 1, seconds)
    for name, flag in (("haproxy", "1"), ("proxy", "0")) if ray else ():
        with server(raypipe(atlas, "--ray"), RAY_SERVE_ENABLE_HA_PROXY=flag) as (address, _):
            turn[name] = {f"id {clients}": load(address, work["id"], clients, seconds) for clients in (1, FOR_RATE)}
    return turn


def soak(work: dict[str, Any], seconds: float) -> dict[str, Any]:
    """All kinds of requests at once for so long, and what the memory does."""
    mixed = [each for three in zip(work["id"], work["arrow"], work["sequence"], strict=False) for each in three]
    with server(raypipe(work["atlas"])) as (address, pid):
        load(address, mixed, FOR_RATE, 10)
        stop, memory = threading.Event(), [resident(pid)]

        def look() -> None:
            while not stop.wait(SOAK_EVERY):
                memory.append(resident(pid))

        looking = threading.Thread(target=look)
        looking.start()
        found = load(address, mixed, FOR_RATE, seconds)
        stop.set()
        looking.join()
    half = len(memory) // 2
    return {
        **found,
        "memory_mib": memory,
        "growth_mib": statistics.mean(memory[half:]) - statistics.mean(memory[:half]),
    }


def lows(memory: Sequence[float]) -> str:
    """The lowest of each third of what comes behind the first one: what stays between batches."""
    thirds = np.array_split(np.asarray(memory[1:]), 3)
    return ", ".join(f"{third.min():,.0f}" for third in thirds if len(third))


def figures(rounds: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What the issue asks for, median and range over the rounds."""

    def over(pick: Any) -> dict[str, float]:
        return spread([pick(turn) for turn in rounds])

    found = {
        "overhead by id, ms": over(lambda t: t["uvicorn"]["id 1"]["p50_ms"] - t["in-process"]["id"]["p50_ms"]),
        "overhead by vector (Arrow), ms": over(
            lambda t: t["uvicorn"]["arrow 1"]["p50_ms"] - t["in-process"]["vector"]["p50_ms"]
        ),
        "of that a trivial handler's, ms": over(lambda t: t["trivial"]["1"]["p50_ms"]),
        "searches by id/s": over(lambda t: max(t["uvicorn"][f"id {c}"]["per_second"] for c in (FOR_RATE, MANY))),
        "searches by vector/s, JSON": over(
            lambda t: max(t["uvicorn"][f"vector {c}"]["per_second"] for c in (FOR_RATE, MANY))
        ),
        "searches by vector/s, Arrow": over(
            lambda t: max(t["uvicorn"][f"arrow {c}"]["per_second"] for c in (FOR_RATE, MANY))
        ),
        "by sequence, share of the bare encoder's rate": over(
            lambda t: t["uvicorn"][f"sequence {MANY}"]["per_second"] / t["encoder"]["per_second"]
        ),
    }
    if "haproxy" in rounds[0]:
        for name, words in (("haproxy", "HAProxy"), ("proxy", "its own proxy")):
            found[f"Ray Serve, {words}: by id/s"] = over(lambda t, n=name: t[n][f"id {FOR_RATE}"]["per_second"])
            found[f"Ray Serve, {words}: p50, ms"] = over(lambda t, n=name: t[n]["id 1"]["p50_ms"])
    return found


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    about, last = result["machine"], result["rounds"][-1]
    lines = [
        f"# raypipe serve, {result['date']}",
        "",
        f"{machine.words(about)}, load {about['load_average']} before; server and load share the cores. "
        "`python -m tests.benchmarks.serving`; who they are stands at its top. "
        f"{result['rows']:,} vectors of 512 values, IVF, k = 10, annotations joined; {len(result['rounds'])} rounds.",
        "",
        "| | median | lowest to highest |",
        "|---|---|---|",
    ]
    for what, found in result["figures"].items():
        lines.append(
            f"| {what} | {found['median']:,.3g} | {found['low']:,.3g} to {found['high']:,.3g} |".replace("e+03", "e3")
        )
    lines += [
        "",
        "The last round:",
        "",
        "| who | asked | clients | /s | p50, ms | p99, ms |",
        "|---|---|---|---|---|---|",
    ]
    for who in ("trivial", "uvicorn", "haproxy", "proxy"):
        for asked, found in last.get(who, {}).items():
            kind, _, clients = asked.rpartition(" ")
            times = f"{found['p50_ms']:.2f} | {found['p99_ms']:.2f}"
            lines.append(f"| {who} | {kind} | {clients} | {found['per_second']:,.0f} | {times} |")
    for kind, found in last["in-process"].items():
        lines.append(f"| in-process | {kind} | 1 | {found['per_second']:,.0f} | {found['p50_ms']:.2f} | |")
    lines.append(f"| encoder | sequence | 1 | {last['encoder']['per_second']:,.0f} | | |")
    if soaked := result["soak"]:
        memory = soaked["memory_mib"]
        failed = sum(count for status, count in soaked["statuses"].items() if str(status) != "200")
        lines += [
            "",
            f"Soak: {result['soak_seconds']:.0f} s, {soaked['answers']:,} answers ({failed} not 200), "
            f"{soaked['per_second']:,.0f}/s of ids, vectors and sequences in turn, p50 {soaked['p50_ms']:.1f} ms, "
            f"p99 {soaked['p99_ms']:.1f} ms. Memory {memory[0]:,.0f} MiB at the start, {memory[-1]:,.0f} at the end; "
            f"the second half holds {soaked['growth_mib']:+.1f} MiB more than the first on average. It swings with "
            f"what is being computed; lowest in each third, the start left out: {lows(memory)} MiB.",
        ]
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    made = options.parser(__doc__)
    made.add_argument("--rows", type=int, default=100_000)
    made.add_argument("--seconds", type=float, default=5)
    made.add_argument("--soak", type=float, default=180)
    made.add_argument("--no-ray", action="store_true")
    told = made.parse_args(sys.argv[1:] if arguments is None else arguments)
    before = machine.describe()
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        atlas = serving_atlas.make(folder, told.rows, 2000, told.seed)
        queries = np.load(folder / "queries.npy")
        texts = [clean(text)[0].decode() for text in sample(told.fasta, 1000, told.seed, LONGEST)]
        (folder / "texts.json").write_text(json.dumps(texts))
        work = {
            "folder": folder,
            "atlas": atlas,
            "rows": told.rows,
            "texts": folder / "texts.json",
            "id": by_id(told.rows, 2000),
            "vector": by_vector(queries[:300]),
            "arrow": by_vector(queries[:1000], arrow=True),
            "sequence": by_sequence(texts),
        }
        rounds = []
        for number in range(told.rounds):
            begin = time.monotonic()
            rounds.append(one_round(work, told.seconds, not told.no_ray))
            print(f"round {number + 1}: {time.monotonic() - begin:.0f} s", flush=True)
        soaked = soak(work, told.soak) if told.soak else None
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": before,
        "rows": told.rows,
        "rounds": rounds,
        "figures": figures(rounds),
        "soak": soaked,
        "soak_seconds": told.soak,
    }
    options.write(told.results, "serving", result, page(result))


if __name__ == "__main__":
    main()
